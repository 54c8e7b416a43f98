"""Counted result of one phrase, in pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from refersam.metrics.protocols import Protocol


@dataclass(frozen=True, slots=True)
class SampleResult:
    """Counts of one phrase at the protocol's size, before the protocol's rules.

    Attributes:
        intersection: pixels in both prediction and truth.
        predicted: pixels of the prediction.
        truth: pixels of the truth.
        has_target: whether the phrase has a target.
        judged_target: whether the prediction is judged to have a target.
        tags: tags of the phrase, its phenomenon first.
        score: predicted IoU, if the model predicts it.
        target_probability: probability that the phrase has a target, if the model predicts it.
        boundary: intersection and union of the boundary regions in pixels; None if they are not compared.
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
        """Return the pixels in prediction or truth."""
        return self.predicted + self.truth - self.intersection


@dataclass(frozen=True, slots=True)
class Score:
    """Contribution of a sample under a protocol.

    Attributes:
        iou: IoU in [0, 1]; None if it is not part of the mean.
        intersection: pixels added to the sum.
        union: pixels added to the sum.
    """

    iou: float | None
    intersection: int
    union: int


def compare_masks(prediction: np.ndarray, truth: np.ndarray) -> tuple[int, int, int]:
    """Return the pixels of the intersection, the prediction and the truth of (H, W) bool masks.

    Raises:
        ValueError: masks of different shapes.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"Masks must have one shape, but have {prediction.shape} and {truth.shape}.")
    counts = (np.count_nonzero(mask) for mask in (prediction & truth, prediction, truth))
    both, predicted, true = map(int, counts)
    return both, predicted, true


def judge_target(no_target: bool | None, predicted: int, min_pixels: int = 0) -> bool:
    """Return whether a prediction is judged to have a target.

    Args:
        no_target: no-target decision of the model; None for a model without one.
        predicted: positive pixels of its mask, at the protocol's size.
        min_pixels: without a decision, a mask of fewer pixels counts as empty, and an empty one as no target.
    """
    return not no_target if no_target is not None else predicted >= max(1, min_pixels)


def score_sample(protocol: Protocol, result: SampleResult) -> Score:
    """Apply a protocol's rules to one sample.

    Raises:
        KeyError: the protocol has no rule for the case; see `check_protocol`.
    """
    rule = protocol.rules[result.has_target, result.judged_target]
    iou = ratio(protocol, result) if rule.iou == "ratio" else rule.iou
    return Score(iou, result.intersection * rule.intersection, result.union * rule.union)


def ratio(protocol: Protocol, result: SampleResult) -> float:
    """Return the intersection over union of a sample's masks, independent of the judgement."""
    if result.union == 0:
        return protocol.empty_iou
    return result.intersection / (result.union + protocol.union_epsilon)


def score_samples(protocol: Protocol, results: Iterable[SampleResult]) -> Sequence[Score]:
    """Apply `score_sample` to each result."""
    return [score_sample(protocol, result) for result in results]
