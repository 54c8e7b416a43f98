"""Metrics against scenes worked out by hand, and the evaluator with a model whose logits are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from refersam.data.sample import ReferringImage
from refersam.evaluate import evaluate_images
from refersam.metrics import SampleResult, compare_masks, sceneref_metrics
from refersam.model.refersam import ReferSamOutput
from refersam.processor import ReferSamProcessor


def mask(*rows: str) -> np.ndarray:
    """'#' is True."""
    return np.array([[character == "#" for character in row] for row in rows])


def test_compare_masks_by_hand() -> None:
    """Two squares of 2 x 2 that share one pixel: 1 of 7."""
    one = mask("##..", "##..", "....")
    other = mask("....", ".##.", ".##.")
    assert compare_masks(one, other) == (1, 7)
    assert compare_masks(one, one) == (4, 4)
    assert compare_masks(one, ~one) == (0, 12)
    assert compare_masks(mask("...."), mask("....")) == (0, 0)


def test_masks_of_different_shapes_are_refused() -> None:
    """Never broadcast."""
    with pytest.raises(ValueError, match=r"\(1, 4\) and \(1, 1\)"):
        compare_masks(mask("####"), mask("#"))


def test_iou_of_two_empty_masks_is_one() -> None:
    """Nothing was there, and nothing was found."""
    assert SampleResult(0, 0, has_target=True, judged_target=True).iou == 1.0
    assert SampleResult(0, 5, has_target=True, judged_target=True).iou == 0.0


def test_sceneref_metrics_by_hand() -> None:
    """Four phrases with a target, IoU 1/2, 9/10, 0 and 1; three without one."""
    results = [
        SampleResult(5, 10, has_target=True, judged_target=True, tags=("relative", "colour")),
        SampleResult(90, 100, has_target=True, judged_target=True, tags=("relative",)),
        SampleResult(0, 40, has_target=True, judged_target=False, tags=("ordinal",)),
        SampleResult(50, 50, has_target=True, judged_target=True, tags=("attribute",)),
        # Without a target: their pixels must count nowhere, only the judgement does.
        SampleResult(0, 1000, has_target=False, judged_target=False, tags=("no-target",)),
        SampleResult(0, 0, has_target=False, judged_target=True, tags=("no-target",)),
        SampleResult(0, 7, has_target=False, judged_target=False, tags=("no-target",)),
    ]
    assert sceneref_metrics(results) == pytest.approx(
        {
            "phrases": 7,
            "phrases with target": 4,
            "mIoU": 100 * (0.5 + 0.9 + 0 + 1) / 4,  # 60
            "oIoU": 100 * (5 + 90 + 0 + 50) / (10 + 100 + 40 + 50),  # 145 / 200 = 72.5
            "Pr@0.5": 75,  # exactly 0.5 counts
            "Pr@0.6": 50,
            "Pr@0.7": 50,
            "Pr@0.8": 50,
            "Pr@0.9": 50,  # exactly 0.9 counts
            "false alarms": 25,  # one of four
            "N-acc": 200 / 3,  # two of three
            "mIoU/relative": 70,
            "mIoU/ordinal": 0,
            "mIoU/attribute": 100,
        }
    )


def test_metrics_of_one_kind_only() -> None:
    """What cannot be said is left out, instead of being 0 or NaN."""
    without = sceneref_metrics([SampleResult(0, 3, has_target=False, judged_target=False)])
    assert without == {"phrases": 1, "phrases with target": 0, "N-acc": 100}
    found = sceneref_metrics([SampleResult(0, 0, has_target=True, judged_target=True)])
    assert "N-acc" not in found
    assert (found["mIoU"], found["oIoU"]) == (100, 0)
    assert sceneref_metrics([]) == {"phrases": 0, "phrases with target": 0}


# --------------------------------------------------------------------------------------------------------- evaluator


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

    def __call__(self, images: np.ndarray, text: tuple[str, ...]) -> dict[str, Tensor]:
        ids = torch.ones(len(text), 3, dtype=torch.long)
        return {"pixel_values": torch.zeros(1, 3, 2, 2), "input_ids": ids, "attention_mask": ids}


def evaluate(model: KnownModel, truth: list[np.ndarray], **options: Any) -> list[SampleResult]:
    """Results for one picture."""
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
