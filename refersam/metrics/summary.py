"""Metrics of a protocol in percent, from counted samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from refersam.metrics.protocols import Protocol
from refersam.metrics.results import SampleResult, Score, score_samples

Pairs = Sequence[tuple[SampleResult, Score]]


def _mean_iou(_: Protocol, pairs: Pairs) -> float | None:
    return percent(score.iou for _, score in pairs if score.iou is not None)


def _overall_iou(_: Protocol, pairs: Pairs) -> float | None:
    if all(score.iou is None for _, score in pairs):
        return None
    union = sum(score.union for _, score in pairs)
    return 100 * sum(score.intersection for _, score in pairs) / union if union else 0.0


def _found_right(_: Protocol, pairs: Pairs) -> float | None:
    return percent(result.judged_target for result, _ in pairs if result.has_target)


def _false_alarms(_: Protocol, pairs: Pairs) -> float | None:
    return percent(not result.judged_target for result, _ in pairs if result.has_target)


def _none_right(_: Protocol, pairs: Pairs) -> float | None:
    return percent(not result.judged_target for result, _ in pairs if not result.has_target)


def _empty_masks(_: Protocol, pairs: Pairs) -> float | None:
    return percent(result.predicted == 0 for result, _ in pairs if not result.has_target)


def _boundary_iou(protocol: Protocol, pairs: Pairs) -> float | None:
    values = []
    for result, score in pairs:
        if result.boundary is not None and result.has_target and score.iou is not None:
            intersection, union = result.boundary
            is_ratio = protocol.rules[result.has_target, result.judged_target].iou == "ratio"
            empty = protocol.empty_iou if is_ratio else score.iou
            values.append(intersection / union if is_ratio and union else empty)
    return percent(values)


METRICS: Mapping[str, Callable[[Protocol, Pairs], float | None]] = MappingProxyType(
    {
        "oIoU": _overall_iou,
        "cIoU": _overall_iou,
        "mIoU": _mean_iou,
        "gIoU": _mean_iou,
        "N-acc": _none_right,
        "T-acc": _found_right,
        "Acc": _empty_masks,
        "false alarms": _false_alarms,
        "mBIoU": _boundary_iou,
    }
)
"""By name; beside these a protocol may list "Pr", which stands for all of its Pr@X. Every protocol has "mBIoU"."""

MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "oIoU": "sum of intersections over sum of unions",
        "cIoU": "sum of intersections over sum of unions",
        "mIoU": "mean IoU of the phrases with a target",
        "gIoU": "mean IoU of all phrases; 1 for a phrase rightly judged to have no target",
        "N-acc": "phrases without a target that are judged so",
        "T-acc": "phrases with a target that are judged to have one",
        "Acc": "phrases without a target whose mask has no pixel",
        "false alarms": "phrases with a target that are judged to have none",
        "mBIoU": "mean boundary IoU of the phrases with a target",
    }
)


def summarise(protocol: Protocol, results: Iterable[SampleResult]) -> dict[str, float]:
    """Return a protocol's metrics in percent, in its order, without those that no sample contributes to.

    The result does not depend on the order of the samples, not even in the last bit.
    """
    results = list(results)
    pairs = list(zip(results, score_samples(protocol, results), strict=True))
    metrics: dict[str, float | None] = {}
    for name in (*protocol.metrics, "mBIoU"):
        if name == "Pr":
            metrics |= {f"Pr@{threshold}": _precision(protocol, pairs, threshold) for threshold in protocol.precision}
        else:
            metrics[name] = METRICS[name](protocol, pairs)
    return {name: value for name, value in metrics.items() if value is not None}


def _precision(protocol: Protocol, pairs: Pairs, threshold: float) -> float | None:
    ious = (score.iou for result, score in pairs if result.has_target and score.iou is not None)
    return percent(iou >= threshold if protocol.precision_inclusive else iou > threshold for iou in ious)


def percent(values: Iterable[float]) -> float | None:
    """Return 100 times the mean, exactly rounded in any order; None without a value."""
    listed = list(values)
    return 100 * math.fsum(listed) / len(listed) if listed else None


def sum_pixels(protocol: Protocol, results: Iterable[SampleResult]) -> tuple[int, int]:
    """Return the integers behind oIoU and cIoU: sums of intersections and unions in pixels."""
    scores = score_samples(protocol, results)
    return sum(score.intersection for score in scores), sum(score.union for score in scores)


def mean_iou_by_tag(protocol: Protocol, results: Iterable[SampleResult], first_only: bool = False) -> dict[str, float]:
    """Return the mean IoU in percent of each tag's counted samples, in order of first appearance.

    Args:
        protocol: evaluation protocol.
        results: counted samples.
        first_only: whether a sample belongs to its first tag only, its phenomenon.
    """
    results = list(results)
    values: dict[str, list[float]] = {}
    for result, score in zip(results, score_samples(protocol, results), strict=True):
        if score.iou is not None:
            for tag in result.tags[:1] if first_only else result.tags:
                values.setdefault(tag, []).append(score.iou)
    return {tag: percent(ious) or 0.0 for tag, ious in values.items()}
