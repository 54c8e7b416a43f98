"""What a report shows beside the metrics, as numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from refersam.data.sample import ReferringSample
from refersam.evaluate.run import Evaluation
from refersam.metrics.results import SampleResult, score_samples
from refersam.metrics.summary import percent, sum_pixels

MAX_CATEGORIES = 20
CURVE_POINTS = 200
RIGHT_FROM = 0.5
"""IoU from which a phrase counts as found."""

Labels: TypeAlias = Sequence[str]
Grouping: TypeAlias = Callable[[ReferringSample, SampleResult, int], Labels]
"""(sample, result, pixels of the compared area) -> the groups it is in."""


@dataclass(frozen=True, slots=True)
class Group:
    """Number of counted phrases with a common property, their mean and overall IoU in percent."""

    label: str
    count: int
    mean_iou: float
    overall_iou: float


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Groups by one property, named in `title`."""

    title: str
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class TradeOff:
    """(False alarms, N-acc) in percent for rising thresholds on `by`, and the point that was evaluated."""

    points: tuple[tuple[float, float], ...]
    chosen: tuple[float, float]
    by: str


def sample_ious(evaluation: Evaluation) -> list[float | None]:
    """As the protocol counts each phrase; None where it does not."""
    return [score.iou for score in score_samples(evaluation.protocol, evaluation.results)]


def iou_histogram(evaluation: Evaluation, bins: int = 20) -> tuple[list[int], int]:
    """Return the number of phrases with an IoU in each of `bins` equal parts of [0, 1], and a round end of the axis."""
    ious = [iou for iou in sample_ious(evaluation) if iou is not None]
    counts = np.histogram(ious, bins, (0, 1))[0].tolist()
    power = 10 ** max(0, len(str(max(counts))) - 1)
    return counts, next(step * power for step in (2, 4, 6, 10) if max(counts) <= step * power)


def breakdowns(evaluation: Evaluation) -> list[Breakdown]:
    """Those with at least two groups."""
    categories = Counter(sample.category for sample in evaluation.samples if sample.category)
    common = {name for name, _ in categories.most_common(MAX_CATEGORIES)}

    def by_category(sample: ReferringSample, _result: SampleResult, _area: int) -> Labels:
        return [] if sample.category is None else [sample.category if sample.category in common else "all others"]

    several = tuple(name for name, _ in categories.most_common(MAX_CATEGORIES))
    made = [
        _break_down(evaluation, "Phenomenon", lambda sample, _result, _area: sample.tags, ()),
        _break_down(evaluation, "Words in the phrase", _by_length, tuple(label for _, label in _LENGTHS)),
        _break_down(evaluation, "Target's share of the image", _by_size, tuple(label for _, label in _SIZES)),
        _break_down(evaluation, "Other objects of its category", _by_distractors, ("0", "1", "2", "3", "4 or more")),
        _break_down(evaluation, "Category", by_category, (*several, "all others")),
    ]
    return [breakdown for breakdown in made if len(breakdown.groups) > 1]


_LENGTHS = ((1, "1"), (2, "2"), (4, "3 to 4"), (7, "5 to 7"), (10, "8 to 10"), (math.inf, "11 or more"))
_SIZES = ((0.01, "below 1 %"), (0.04, "1 to 4 %"), (0.16, "4 to 16 %"), (math.inf, "16 % or more"))


def _by_length(sample: ReferringSample, _result: SampleResult, _area: int) -> Labels:
    words = len(sample.phrase.split())
    return [next(label for most, label in _LENGTHS if words <= most)]


def _by_size(sample: ReferringSample, result: SampleResult, area: int) -> Labels:
    return [next(label for below, label in _SIZES if result.truth < below * area)] if sample.has_target else []


def _by_distractors(sample: ReferringSample, _result: SampleResult, _area: int) -> Labels:
    count = sample.distractors
    return [] if count is None else [str(count) if count < 4 else "4 or more"]


def _break_down(evaluation: Evaluation, title: str, grouping: Grouping, order: Labels) -> Breakdown:
    protocol = evaluation.protocol
    members: dict[str, list[tuple[SampleResult, float]]] = {label: [] for label in order}
    for sample, result, iou in zip(evaluation.samples, evaluation.results, sample_ious(evaluation), strict=True):
        if iou is not None:
            area = math.prod(protocol.size(sample.image.height, sample.image.width))
            for label in grouping(sample, result, area):
                members.setdefault(label, []).append((result, iou))
    groups = []
    for label, rows in members.items():
        if rows:
            intersection, union = sum_pixels(protocol, (result for result, _ in rows))
            overall = 100 * intersection / union if union else 0.0
            groups.append(Group(label, len(rows), percent(iou for _, iou in rows) or 0.0, overall))
    return Breakdown(title, tuple(groups))


def trade_off(evaluation: Evaluation) -> TradeOff | None:
    """The curve over all thresholds; None without phrases of both kinds, or without a number to decide by."""
    if not evaluation.protocol.judged:
        return None
    for by in ("target_probability", "score"):
        values = [getattr(result, by) for result in evaluation.results]
        if all(value is not None for value in values):
            break
    else:
        return None
    has_target = np.array([result.has_target for result in evaluation.results])
    if has_target.all() or not has_target.any():
        return None
    judged = np.array([result.judged_target for result in evaluation.results])
    number = np.array(values, dtype=np.float64)
    thresholds = np.append(np.unique(number), np.inf)
    with_target, without = np.sort(number[has_target]), np.sort(number[~has_target])
    alarms = 100 * np.searchsorted(with_target, thresholds) / len(with_target)  # judged none: below the threshold
    right = 100 * np.searchsorted(without, thresholds) / len(without)
    kept = np.unique(np.linspace(0, len(thresholds) - 1, CURVE_POINTS).round().astype(int))
    points = tuple((float(alarms[index]), float(right[index])) for index in kept)
    chosen = (100 * float((~judged[has_target]).mean()), 100 * float((~judged[~has_target]).mean()))
    return TradeOff(points, chosen, by.replace("_", " "))


VERDICTS = ("found", "missed", "false alarm", "rightly none", "wrongly found")


def verdict(evaluation: Evaluation, position: int, iou: float | None) -> str:
    """One of `VERDICTS`."""
    result = evaluation.results[position]
    judged = result.judged_target if evaluation.protocol.judged else result.predicted > 0
    if not result.has_target:
        return "wrongly found" if judged else "rightly none"
    if evaluation.protocol.judged and not judged:
        return "false alarm"
    return "found" if iou is not None and iou >= RIGHT_FROM else "missed"
