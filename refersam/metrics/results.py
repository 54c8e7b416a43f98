"""One phrase, counted in integers of pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from refersam.metrics.protocols import Protocol


@dataclass(frozen=True, slots=True)
class SampleResult:
    """What was found and what was there, at the protocol's size, before any rule of the protocol.

    Attributes:
        intersection: pixels of prediction and truth.
        predicted: pixels of the prediction.
        truth: pixels of the truth.
        has_target: the phrase has a target.
        judged_target: the prediction is judged to have one.
        tags: of the phrase, its phenomenon first.
        score: the IoU that the model expects, as far as it says.
        target_probability: that the phrase has a target, as far as the model says.
        boundary: intersection and union of the boundary regions in pixels; None where they were not compared.
    """

    intersection: int
    predicted: int
    truth: int
    has_target: bool
    judged_target: bool
    tags: tuple[str, ...] = ()
    score: float | None = None
    target_probability: float | None = None
    boundary: tuple[int, int] | None = None

    @property
    def union(self) -> int:
        """Pixels of prediction or truth."""
        return self.predicted + self.truth - self.intersection


@dataclass(frozen=True, slots=True)
class Score:
    """What a sample adds under a protocol.

    Attributes:
        iou: in [0, 1]; None where it does not go into the mean.
        intersection: pixels added to the sum.
        union: pixels added to the sum.
    """

    iou: float | None
    intersection: int
    union: int


def compare_masks(prediction: np.ndarray, truth: np.ndarray) -> tuple[int, int, int]:
    """Pixels of both, of the prediction and of the truth; the masks are (H, W) bool.

    Raises:
        ValueError: masks of different shapes.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"Masks must have one shape, but have {prediction.shape} and {truth.shape}.")
    counts = (np.count_nonzero(mask) for mask in (prediction & truth, prediction, truth))
    both, predicted, true = map(int, counts)
    return both, predicted, true


def judge_target(no_target: bool | None, predicted: int, min_pixels: int = 0) -> bool:
    """Whether a prediction is judged to have a target.

    Args:
        no_target: the model's own decision; None for a model without one.
        predicted: positive pixels of its mask, at the protocol's size.
        min_pixels: without a decision, a mask of fewer pixels counts as empty, and an empty one as no target.
    """
    return not no_target if no_target is not None else predicted >= max(1, min_pixels)


def score_sample(protocol: Protocol, result: SampleResult) -> Score:
    """Apply a protocol's rules to one sample.

    Raises:
        KeyError: the protocol has no rule for it; see `check_protocol`.
    """
    rule = protocol.rules[result.has_target, result.judged_target]
    iou = ratio(protocol, result) if rule.iou == "ratio" else rule.iou
    return Score(iou, result.intersection * rule.intersection, result.union * rule.union)


def ratio(protocol: Protocol, result: SampleResult) -> float:
    """Intersection over union of a sample's masks, whatever was judged."""
    if result.union == 0:
        return protocol.empty_iou
    return result.intersection / (result.union + protocol.union_epsilon)


def score_samples(protocol: Protocol, results: Iterable[SampleResult]) -> Sequence[Score]:
    """`score_sample` of each."""
    return [score_sample(protocol, result) for result in results]
