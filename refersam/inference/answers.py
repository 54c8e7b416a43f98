"""Answers: masks, scores and decisions, read from a model's outputs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refersam.checks import check_number
from refersam.drawing import mask_image
from refersam.errors import ReferSamError, shown
from refersam.files import save_png
from refersam.inference.components import drop_specks
from refersam.inference.queries import Query
from refersam.inference.runtimes import Model, Processor
from refersam.model.refersam import ReferSamOutput


class NanOutputError(ReferSamError):
    """A model whose output has NaN or infinite values."""


@dataclass(frozen=True, eq=False, repr=False)
class Answer:
    """The answer to one phrase about one image of H x W pixels.

    Attributes:
        phrase: as it was asked.
        mask: (H, W) bool, without specks; all False where `no_target`.
        probability: (H, W) float32 in [0, 1], before the no-target decision.
        score: confidence in [0, 1]: the IoU that the model expects its mask to have with the truth.
        no_target: the model says that nothing matches the phrase; never where a foreground click or a box shows it.
        left_out: the end of a phrase that is longer than the model reads; empty where all of it was read.
        unknown: parts of the phrase that the tokenizer does not know: symbols, which are left out, and words, which
            are read as [UNK].
    """

    phrase: str
    mask: np.ndarray
    probability: np.ndarray
    score: float
    no_target: bool
    left_out: str = field(default="", kw_only=True)
    unknown: tuple[str, ...] = field(default=(), kw_only=True)

    def __repr__(self) -> str:
        height, width = self.mask.shape
        found = "nothing matches" if self.no_target else f"box={self.box}, area={self.area}"
        name = type(self).__name__
        return f"{name}({shown(self.phrase)}, score={self.score:.2f}, {found}, of {width} x {height} pixels)"

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(np.count_nonzero(self.mask))

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """(left, top, right, bottom) in pixels, right and bottom exclusive; None for an empty mask."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        if rows.size == 0:
            return None
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    def save(self, path: str | os.PathLike) -> Path:
        """Write the mask as a black and white PNG, at once or not at all; a file of that name is replaced."""
        target = Path(path)
        save_png(mask_image(self.mask), target)
        return target

    def to_rle(self) -> dict[str, Any]:
        """COCO run-length encoding: {"size": [H, W], "counts": str}."""
        from refersam.metrics.masks import encode_mask

        return encode_mask(self.mask)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: phrase, score (4 digits), no_target, box, area and rle; left_out and unknown where not empty."""
        return {
            "phrase": self.phrase,
            **({"left_out": self.left_out} if self.left_out else {}),
            **({"unknown": list(self.unknown)} if self.unknown else {}),
            "score": round(self.score, 4),
            "no_target": self.no_target,
            "box": self.box,
            "area": self.area,
            "rle": self.to_rle(),
        }


def check_thresholds(
    threshold: float = 0.5, no_target_threshold: float | None = None, min_component_fraction: float | None = None
) -> None:
    """Validate the settings of `read_answers`, which are probabilities or fractions, or None for the model's own.

    Raises:
        ValueError: a value outside [0, 1].
    """
    for name, value in (
        ("threshold", threshold),
        ("no_target_threshold", no_target_threshold),
        ("min_component_fraction", min_component_fraction),
    ):
        if value is not None:
            check_number(name, value, 0, 1)


@torch.inference_mode()
def read_answers(
    model: Model,
    processor: Processor,
    output: ReferSamOutput,
    query: Query,
    threshold: float = 0.5,
    no_target_threshold: float | None = None,
    min_component_fraction: float | None = None,
) -> Iterator[Answer]:
    """One answer for each phrase of a query, made as it is asked for: only one is at the image's full size at a time.

    Args:
        model: that made the output.
        processor: of the model.
        output: of `run_queries`.
        query: that it answers.
        threshold: a pixel belongs to the mask where its probability is at least this.
        no_target_threshold: nothing matches where the probability of a target is below this; None for the model's own.
        min_component_fraction: a connected component of a mask with less than this fraction of the largest
            component's area is dropped, as in `drop_specks`; 0 keeps all; None for the model's own.

    Raises:
        NanOutputError: the output has NaN or infinite values.
    """
    if no_target_threshold is None:
        no_target_threshold = model.config.no_target_threshold
    if min_component_fraction is None:
        min_component_fraction = model.config.min_component_fraction
    sizes = [(query.height, query.width)] * len(query.phrases)
    for index, one in enumerate(phrase_outputs(output, sizes, processor)):
        probabilities = one.logits.sigmoid()
        no_target = one.target_probability < no_target_threshold and not query.prompts.has_target
        probability = probabilities[0].cpu().numpy()
        mask = drop_specks(probability >= threshold, min_component_fraction)
        inside = torch.from_numpy(mask)[None].to(probabilities.device)
        score = float(confidence(one.output, probabilities, model.config.supervise_iou, inside))
        mask &= not no_target
        left_out, unknown = query.left_out[index], query.unknown[index]
        yield Answer(query.phrases[index], mask, probability, score, no_target, left_out=left_out, unknown=unknown)


@dataclass(frozen=True)
class PhraseOutput:
    """Output of a model for one phrase.

    Attributes:
        output: of the model, with B = 1.
        logits: (1, H, W) mask logits at the image's size, in float32.
        target_probability: that the phrase has a target; 1 for a model without an object-score head.
    """

    output: ReferSamOutput
    logits: Tensor
    target_probability: float


def phrase_outputs(
    output: ReferSamOutput, sizes: Iterable[tuple[int, int]], processor: Processor
) -> Iterator[PhraseOutput]:
    """Resize the masks of B phrases to their images, one at a time, so that only one is in memory.

    Args:
        output: of the model.
        sizes: B times (height, width) of the phrase's image in pixels.
        processor: of the model.

    Raises:
        NanOutputError: the output has NaN or infinite values.
    """
    has_target = target_probability(output)
    if not all(torch.isfinite(values).all() for values in (output.mask_logits, output.iou_scores, has_target)):
        raise NanOutputError(
            "The model's output has NaN or infinite values: use float32. If it was float32, the weights or the image "
            "processor's mean and deviation are broken."
        )
    for index, (height, width) in enumerate(sizes):
        row = ReferSamOutput(**{name: value[index : index + 1] for name, value in output.items()})
        logits = processor.mask_logits(row, (height, width), (height, width))
        yield PhraseOutput(row, logits, float(has_target[index]))


def target_probability(output: ReferSamOutput) -> Tensor:
    """(B,) probability that the phrase has a target; 1 for a model without an object-score head."""
    if output.object_score_logits is None:
        return torch.ones(output.mask_logits.shape[0], device=output.mask_logits.device)
    return output.object_score_logits.float().sigmoid()


def confidence(
    output: ReferSamOutput, probabilities: Tensor, iou_is_supervised: bool, inside: Tensor | None = None
) -> Tensor:
    """(B,) the IoU that the mask is expected to have, in [0, 1].

    With a supervised IoU: the predicted IoU times the probability of a target. Without: the mean probability inside
    the mask, which is all that such a model knows of its certainty.

    Args:
        output: of the model.
        probabilities: (B, H, W).
        iou_is_supervised: `config.supervise_iou`.
        inside: (B, H, W) bool, the masks; None for all pixels with a probability of at least 0.5.
    """
    if iou_is_supervised:
        expected = output.iou_scores.float().clamp(0, 1)
    else:
        inside = probabilities >= 0.5 if inside is None else inside
        expected = (probabilities * inside).flatten(1).sum(1) / inside.flatten(1).sum(1).clamp(min=1)
    return expected * target_probability(output)
