"""Answers: masks, scores and no-target decisions, computed from model outputs."""

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
    """The model output contains NaN or infinite values."""


@dataclass(frozen=True, eq=False, repr=False)
class Answer:
    """The answer to one phrase about one image of H x W pixels.

    Attributes:
        phrase: the input phrase, unchanged.
        mask: (H, W) bool mask without specks; all False if `no_target`.
        probability: (H, W) float32 foreground probabilities in [0, 1], before the no-target decision.
        score: confidence in [0, 1], the expected IoU of the mask with the ground truth.
        no_target: True if no object matches the phrase; always False with a foreground click or a box.
        left_out: the truncated end of a phrase that exceeds the token limit; empty if nothing was truncated.
        unknown: parts of the phrase outside the tokenizer's vocabulary. Symbols are removed, words are mapped to
            [UNK].
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
        """Number of pixels in the mask."""
        return int(np.count_nonzero(self.mask))

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """(left, top, right, bottom) in pixels, right and bottom exclusive; None for an empty mask."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        if rows.size == 0:
            return None
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    def save(self, path: str | os.PathLike) -> Path:
        """Write the mask atomically as a black and white PNG; an existing file is replaced."""
        target = Path(path)
        save_png(mask_image(self.mask), target)
        return target

    def to_rle(self) -> dict[str, Any]:
        """Return the mask in COCO run-length encoding: {"size": [H, W], "counts": str}."""
        from refersam.metrics.masks import encode_mask

        return encode_mask(self.mask)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON fields: phrase, score (4 digits), no_target, box, area, rle; left_out, unknown if not empty."""
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
    """Validate the thresholds of `read_answers`: numbers in [0, 1], or None for the model's default.

    Raises:
        ValueError: a value is outside [0, 1].
    """
    for name, value in (
        ("threshold", threshold),
        ("no_target_threshold", no_target_threshold),
        ("min_component_fraction", min_component_fraction),
    ):
        if value is not None or name == "threshold":
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
    """Yield one answer per phrase of a query; only one answer at full image size is in memory at a time.

    Args:
        model: the model that produced `output`.
        processor: the processor of the model.
        output: the output of `run_queries` for `query`.
        query: the query with P phrases.
        threshold: minimum probability of a mask pixel.
        no_target_threshold: minimum target probability; below it, no object matches. None for the model's default.
        min_component_fraction: minimum area of a connected component, as a fraction of the largest component's area
            (see `drop_specks`). 0 keeps all; None for the model's default.

    Raises:
        NanOutputError: the output contains NaN or infinite values.
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
    """Model output for one phrase.

    Attributes:
        output: the model output with B = 1.
        logits: (1, H, W) float32 mask logits at the image's size.
        target_probability: probability that the phrase has a target; 1 for a model without an object-score head.
    """

    output: ReferSamOutput
    logits: Tensor
    target_probability: float


def phrase_outputs(
    output: ReferSamOutput, sizes: Iterable[tuple[int, int]], processor: Processor
) -> Iterator[PhraseOutput]:
    """Resize the masks of B phrases to their image sizes, one at a time to save memory.

    Args:
        output: the model output for B phrases.
        sizes: B image sizes (height, width) in pixels.
        processor: the processor of the model.

    Raises:
        NanOutputError: the output contains NaN or infinite values.
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
    """Return (B,) target probabilities; 1 for a model without an object-score head."""
    if output.object_score_logits is None:
        return torch.ones(output.mask_logits.shape[0], device=output.mask_logits.device)
    return output.object_score_logits.float().sigmoid()


def confidence(
    output: ReferSamOutput, probabilities: Tensor, iou_is_supervised: bool, inside: Tensor | None = None
) -> Tensor:
    """Return the (B,) expected IoU of the masks, in [0, 1].

    It is the target probability times the predicted IoU. Without IoU supervision, the mean probability inside the mask
    replaces the predicted IoU.

    Args:
        output: the model output for B phrases.
        probabilities: (B, H, W) foreground probabilities.
        iou_is_supervised: the value of `config.supervise_iou`.
        inside: (B, H, W) bool masks; None for all pixels with a probability of at least 0.5.
    """
    if iou_is_supervised:
        expected = output.iou_scores.float().clamp(0, 1)
    else:
        inside = probabilities >= 0.5 if inside is None else inside
        expected = (probabilities * inside).flatten(1).sum(1) / inside.flatten(1).sum(1).clamp(min=1)
    return expected * target_probability(output)
