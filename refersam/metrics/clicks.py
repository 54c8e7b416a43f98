"""Scores of masks that are corrected by clicks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from refersam.metrics.protocols import Protocol
from refersam.metrics.results import SampleResult, ratio
from refersam.metrics.summary import percent

NOC_THRESHOLDS = (85, 90)
"""IoU in percent up to which clicks are counted."""
MISSED_BELOW = 0.5
"""IoU of the phrase alone below which its target counts as missed."""


@dataclass(frozen=True)
class ClickCurve:
    """Scores of the phrases with a target after 0, 1, ..., N clicks, on the masks before the no-target decision.

    Attributes:
        phrases: number of phrases with a target.
        mean_iou: N + 1 values in percent.
        overall_iou: N + 1 values in percent.
        missed: number of phrases that are missed without a click (IoU below `MISSED_BELOW`).
        missed_mean_iou: N + 1 values in percent, of these phrases; empty without any.
        noc: threshold in percent -> NoC: mean number of clicks until the IoU reaches it. A phrase that is right without
            a click counts 0, and one that never reaches it N.
        failures: threshold in percent -> number of phrases that do not reach it with N clicks.
    """

    phrases: int
    mean_iou: tuple[float, ...]
    overall_iou: tuple[float, ...]
    missed: int
    missed_mean_iou: tuple[float, ...]
    noc: dict[int, float]
    failures: dict[int, int]

    @property
    def clicks(self) -> int:
        """N."""
        return len(self.mean_iou) - 1

    @property
    def metrics(self) -> dict[str, float]:
        """NoC by name."""
        return {f"NoC@{threshold}": value for threshold, value in self.noc.items()}

    def as_dict(self) -> dict[str, Any]:
        """Return all values for JSON."""
        return {
            "most_clicks": self.clicks,
            "phrases": self.phrases,
            "mIoU": list(self.mean_iou),
            "oIoU": list(self.overall_iou),
            "missed_phrases": self.missed,
            "missed_mIoU": list(self.missed_mean_iou),
            **self.metrics,
            **{f"failures@{threshold}": count for threshold, count in self.failures.items()},
        }


def click_curve(protocol: Protocol, rounds: Sequence[Sequence[SampleResult]]) -> ClickCurve | None:
    """Score corrected masks.

    Args:
        protocol: whose IoU counts.
        rounds: results of the same samples after 0, 1, ..., N clicks.

    Returns:
        The scores; None without a phrase with a target.
    """
    samples = [row for row in zip(*rounds, strict=True) if row[0].has_target]
    if not samples:
        return None
    ious = [[ratio(protocol, result) for result in row] for row in samples]
    missed = [row for row in ious if row[0] < MISSED_BELOW]
    overall = []
    for results in zip(*samples, strict=True):
        union = sum(result.union for result in results)
        overall.append(100 * sum(result.intersection for result in results) / union if union else 0.0)
    noc, failures = {}, {}
    for threshold in NOC_THRESHOLDS:
        needed = [next((count for count, iou in enumerate(row) if iou >= threshold / 100), None) for row in ious]
        noc[threshold] = sum(len(rounds) - 1 if count is None else count for count in needed) / len(needed)
        failures[threshold] = needed.count(None)
    return ClickCurve(len(samples), _means(ious), tuple(overall), len(missed), _means(missed), noc, failures)


def _means(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Average each column, in percent."""
    return tuple(percent(column) or 0.0 for column in zip(*rows, strict=True))
