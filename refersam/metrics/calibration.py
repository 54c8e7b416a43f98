"""Calibration of scores: how well they predict the IoU of their masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refersam.metrics.results import SampleResult


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Phrases whose score lies in one tenth of [0, 1]; means in [0, 1]."""

    count: int
    mean_score: float
    mean_iou: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration of scores against the masks' IoU.

    Attributes:
        bins: bins with phrases, by rising score.
        error: the expected calibration error in [0, 1]: mean distance between score and IoU of the bins, each weighted
            by its phrases.
    """

    bins: tuple[CalibrationBin, ...]
    error: float


def calibration(results: Sequence[SampleResult], bins: int = 10) -> Calibration | None:
    """Compare scores with the IoU of the masks, which is 0 for a phrase without target.

    Return None unless each score is given and in [0, 1].
    """
    scores = [result.score for result in results]
    if not scores or any(score is None or not 0 <= score <= 1 for score in scores):
        return None
    score = np.array(scores, dtype=np.float64)
    iou = np.array([result.intersection / max(result.union, 1) for result in results])
    number = np.minimum((score * bins).astype(int), bins - 1)
    made = tuple(
        CalibrationBin(int(inside.sum()), float(score[inside].mean()), float(iou[inside].mean()))
        for inside in (number == index for index in range(bins))
        if inside.any()
    )
    error = sum(each.count * abs(each.mean_score - each.mean_iou) for each in made) / len(scores)
    return Calibration(made, error)
