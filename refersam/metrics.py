"""Metrics of referring image segmentation, counted in integers of pixels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

PRECISION_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class SampleResult:
    """One phrase: what was found and what was there.

    Attributes:
        intersection: pixels of prediction and truth.
        union: pixels of prediction or truth.
        has_target: the phrase has a target.
        judged_target: the model says that it has one.
        tags: of the phrase.
        score: the model's confidence.
    """

    intersection: int
    union: int
    has_target: bool
    judged_target: bool
    tags: tuple[str, ...] = ()
    score: float = 1.0

    @property
    def iou(self) -> float:
        """Intersection over union; 1 where both are empty."""
        return self.intersection / self.union if self.union else 1.0


def compare_masks(prediction: np.ndarray, truth: np.ndarray) -> tuple[int, int]:
    """Intersection and union of two (H, W) boolean masks, in pixels.

    Raises:
        ValueError: masks of different shapes.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"Masks must have one shape, but have {prediction.shape} and {truth.shape}.")
    return int(np.count_nonzero(prediction & truth)), int(np.count_nonzero(prediction | truth))


def sceneref_metrics(results: Iterable[SampleResult]) -> dict[str, float]:
    """SceneRef's protocol, in percent.

    `mIoU`, `oIoU` and `Pr@X` (IoU >= X) are over phrases with a target, on the mask before the no-target decision;
    `N-acc` is the share of phrases without a target that are judged so, `false alarms` the share of phrases with one
    that are judged to have none; `mIoU/<tag>` is the mIoU of each phenomenon.
    """
    everything = list(results)
    with_target = [result for result in everything if result.has_target]
    without = [result for result in everything if not result.has_target]
    ious = np.array([result.iou for result in with_target])
    metrics = {"phrases": float(len(everything)), "phrases with target": float(len(with_target))}
    if with_target:
        union = sum(result.union for result in with_target)
        metrics["mIoU"] = 100 * float(ious.mean())
        metrics["oIoU"] = 100 * sum(result.intersection for result in with_target) / max(union, 1)
        for threshold in PRECISION_THRESHOLDS:
            metrics[f"Pr@{threshold}"] = 100 * float((ious >= threshold).mean())
        metrics["false alarms"] = 100 * float(np.mean([not result.judged_target for result in with_target]))
    if without:
        metrics["N-acc"] = 100 * float(np.mean([not result.judged_target for result in without]))
    for tag in dict.fromkeys(result.tags[0] for result in with_target if result.tags):
        metrics[f"mIoU/{tag}"] = 100 * float(np.mean([r.iou for r in with_target if r.tags and r.tags[0] == tag]))
    return metrics
