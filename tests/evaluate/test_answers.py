"""What is read off a model's output, with a model whose logits are known."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from refersam.data.sample import ReferringImage
from refersam.evaluate import EvaluationError, evaluate_images
from refersam.evaluate.answers import protocol_answers
from refersam.metrics import PROTOCOLS, SampleResult
from refersam.model.refersam import ReferSamOutput
from refersam.processor import ReferSamProcessor


def mask(*rows: str) -> np.ndarray:
    """'#' is True."""
    return np.array([[character == "#" for character in row] for row in rows])


class KnownModel(nn.Module):
    """Answers with given logits, at the network's size of 2 x 2."""

    dtype = torch.float32

    def __init__(self, mask_logits: Tensor, object_logits: Tensor | None, supervise_iou: bool = True) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.mask_logits, self.object_logits = mask_logits, object_logits
        self.config = SimpleNamespace(supervise_iou=supervise_iou)

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> ReferSamOutput:
        assert pixel_values.shape[0] == 1
        assert input_ids.shape == attention_mask.shape
        assert input_ids.shape[0] == len(self.mask_logits)
        return ReferSamOutput(
            mask_logits=self.mask_logits,
            iou_scores=torch.full((len(self.mask_logits),), 0.8),
            object_score_logits=self.object_logits,
        )


class KnownProcessor:
    """Gives tensors of the right shapes, and the real processor's way back."""

    resize_logits = ReferSamProcessor.resize_logits
    mask_logits = ReferSamProcessor.mask_logits

    def __call__(self, images: np.ndarray, text: tuple[str, ...]) -> dict[str, Tensor]:
        ids = torch.ones(len(text), 3, dtype=torch.long)
        return {"pixel_values": torch.zeros(1, 3, 2, 2), "input_ids": ids, "attention_mask": ids}


def evaluate(model: KnownModel, truth: list[np.ndarray], **options: Any) -> list[SampleResult]:
    """Results for one image."""
    count = len(truth)
    item = ReferringImage(
        image=np.zeros((*truth[0].shape, 3), np.uint8),
        phrases=("red",) * count,
        masks=np.stack(truth),
        sample_ids=tuple(map(str, range(count))),
        tags=tuple((f"tag{index}",) for index in range(count)),
    )
    return list(evaluate_images(model, KnownProcessor(), [item], **options))  # type: ignore[arg-type]


def test_evaluate_images_by_hand() -> None:
    """Logits 2 x 2 resized to 2 x 4, cut at 0 afterwards, and compared."""
    # A row [-2, 2] becomes [-2, -1, 1, 2]: the right half. A row [0, 0] is in: the threshold is inclusive.
    logits = torch.tensor([[[-2.0, 2.0], [-2.0, 2.0]], [[0.0, 0.0], [-1.0, -1.0]], [[-3.0, -3.0], [-3.0, -3.0]]])
    truth = [mask("...#", "...#"), mask("####", "...."), mask("....", "....")]
    objects = torch.tensor([4.0, 0.0, -4.0])  # probabilities 0.982, exactly 0.5, 0.018
    results = evaluate(KnownModel(logits, objects), truth)
    assert [(r.intersection, r.union) for r in results] == [(2, 4), (4, 4), (0, 0)]
    assert [(r.predicted, r.truth) for r in results] == [(4, 2), (4, 4), (0, 0)]
    assert [r.has_target for r in results] == [True, True, False]
    assert [r.judged_target for r in results] == [True, True, False]
    assert [r.tags for r in results] == [("tag0",), ("tag1",), ("tag2",)]
    # Confidence: predicted IoU times the probability of a target.
    assert [r.score for r in results] == pytest.approx([0.8 * 0.98201, 0.8 * 0.5, 0.8 * 0.01799], abs=1e-4)


def test_the_no_target_threshold_moves_the_judgement_alone() -> None:
    """The mask's pixels are counted before that decision."""
    model = KnownModel(torch.full((1, 2, 2), 1.0), torch.tensor([0.0]))
    truth = [mask("##", "##")]
    strict, lax = evaluate(model, truth, no_target_threshold=0.6)[0], evaluate(model, truth)[0]
    assert (strict.judged_target, lax.judged_target) == (False, True)
    assert (strict.intersection, lax.intersection) == (4, 4)


def test_a_model_without_an_object_score_always_finds() -> None:
    """And without a supervised IoU its confidence is the mean probability inside the mask."""
    model = KnownModel(torch.tensor([[[2.0, -2.0], [0.0, -2.0]]]), None, supervise_iou=False)
    result = evaluate(model, [mask("#.", "..")], no_target_threshold=1.0)[0]
    assert result.judged_target is True
    assert (result.intersection, result.union) == (1, 2)
    assert result.score == pytest.approx((0.880797 + 0.5) / 2, abs=1e-5)


def test_protocols_that_resize_cannot_judge_decoded_masks() -> None:
    """Their targets are made from the annotations."""
    with pytest.raises(ValueError, match="lavt resizes"):
        list(evaluate_images(KnownModel(torch.zeros(1, 2, 2), None), KnownProcessor(), [], protocol=PROTOCOLS["lavt"]))  # type: ignore[arg-type]


LOGIT_OF_035 = math.log(0.35 / 0.65)


@pytest.mark.parametrize(
    ("name", "positive"),
    [
        # logit -1, just below and above a probability of 0.35, just below 0, 0, just above 0
        ("original", "....##"),
        ("sceneref", "....##"),
        ("lavt", ".....#"),
        ("evf", ".....#"),
        ("gres", ".....#"),
        ("ref-zom", ".....#"),
        ("caris", "....##"),
        ("cris", "..####"),
    ],
)
def test_positive_pixels(name: str, positive: str) -> None:
    """At and beside each protocol's threshold; the mask at the image's size is the same for all."""
    row = torch.tensor([-1.0, LOGIT_OF_035 - 1e-5, LOGIT_OF_035 + 1e-5, -1e-5, 0.0, 1e-5])
    side = PROTOCOLS[name].side
    sizes = [(1, 6)] if side is None else [(side, side)]
    logits = row[None, None] if side is None else row.repeat_interleave(80)[:side].expand(side, side)[None]
    output = ReferSamOutput(mask_logits=logits, iou_scores=torch.tensor([0.5]))
    (answer,) = protocol_answers(output, sizes, KnownProcessor(), PROTOCOLS[name], True, 0.5)  # type: ignore[arg-type]
    expected = np.array([character == "#" for character in positive])
    seen = answer.protocol_mask[0] if side is None else answer.protocol_mask[0, ::80]
    assert seen.tolist() == expected.tolist()
    assert (answer.mask == (logits[0] >= 0).numpy()).all()
    assert (answer.no_target, answer.target_probability) == (None, None)


def test_logits_are_resized_before_they_are_cut() -> None:
    """At 480 x 480 the edge lies where the resized logits change sign, not where the mask's pixels end."""
    logits = torch.tensor([[[-1.0, 3.0]]])
    output = ReferSamOutput(mask_logits=logits, iou_scores=torch.tensor([0.5]))
    (answer,) = protocol_answers(output, [(1, 2)], KnownProcessor(), PROTOCOLS["lavt"], True, 0.5)  # type: ignore[arg-type]
    assert answer.mask.tolist() == [[False, True]]
    # Between the pixels' centres, at columns 119.5 and 359.5, the logit is -1 + 4 * (x - 119.5) / 240: 0 at 179.5.
    assert answer.protocol_mask.shape == (480, 480)
    assert np.flatnonzero(answer.protocol_mask[0])[0] == 180
    assert answer.protocol_mask[:, 180:].all()


@pytest.mark.parametrize("field", ["mask_logits", "iou_scores", "object_score_logits"])
def test_outputs_that_are_not_numbers(field: str) -> None:
    """Never an empty mask by accident."""
    fields = {
        "mask_logits": torch.ones(1, 2, 2),
        "iou_scores": torch.ones(1),
        "object_score_logits": torch.ones(1),
    }
    fields[field] = fields[field] * math.nan
    answers = protocol_answers(ReferSamOutput(**fields), [(2, 2)], KnownProcessor(), PROTOCOLS["evf"], True, 0.5)  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match="--dtype float32"):
        list(answers)
