"""Metrics of SceneRef: those of its protocol, and the mean IoU of each phenomenon."""

from __future__ import annotations

from collections.abc import Iterable

from refersam.metrics.protocols import PROTOCOLS
from refersam.metrics.results import SampleResult
from refersam.metrics.summary import mean_iou_by_tag, summarise


def sceneref_metrics(results: Iterable[SampleResult]) -> dict[str, float]:
    """Return counts of phrases, the metrics of the protocol `sceneref`, and `mIoU/<phenomenon>`, in percent."""
    protocol, results = PROTOCOLS["sceneref"], list(results)
    counts = {"phrases": len(results), "phrases with target": sum(result.has_target for result in results)}
    by_tag = mean_iou_by_tag(protocol, results, first_only=True)
    return counts | summarise(protocol, results) | {f"mIoU/{tag}": value for tag, value in by_tag.items()}
