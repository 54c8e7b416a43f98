"""Identities that every protocol's numbers keep, whatever is scored."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refersam.metrics import PROTOCOLS, SampleResult, compare_masks, judge_target, score_samples, sum_pixels, summarise

QUICK = settings(max_examples=60, deadline=None, derandomize=True, database=None)
EVERY = pytest.mark.parametrize("name", PROTOCOLS)
JUDGING = [name for name, protocol in PROTOCOLS.items() if protocol.takes_no_target]
Results = list[SampleResult]


@st.composite
def results(draw: st.DrawFn, with_target: bool | None = None) -> SampleResult:
    """One counted phrase; with `with_target` None, of either kind."""
    has_target = draw(st.booleans()) if with_target is None else with_target
    both = draw(st.integers(0, 50)) if has_target else 0
    truth = both + draw(st.integers(0, 50)) if has_target else 0
    predicted = both + draw(st.integers(0, 50))
    return SampleResult(both, predicted, truth, has_target, draw(st.booleans()))


some_results = st.lists(results(with_target=None), min_size=1, max_size=12)
targets = st.lists(results(with_target=True), min_size=1, max_size=12)


def scored(name: str, all_results: Results) -> Results:
    """Those that the protocol has a rule for."""
    kept = [each for each in all_results if each.has_target or PROTOCOLS[name].takes_no_target]
    return kept or [SampleResult(1, 1, 1, True, True)]


@EVERY
@QUICK
@given(some_results, st.randoms(use_true_random=False))
def test_the_order_of_the_samples_does_not_matter(name: str, drawn: Results, shuffled: random.Random) -> None:
    """Not in the last bit."""
    ordered = scored(name, drawn)
    mixed = list(ordered)
    shuffled.shuffle(mixed)
    assert summarise(PROTOCOLS[name], mixed) == summarise(PROTOCOLS[name], ordered)


@EVERY
@QUICK
@given(some_results, some_results)
def test_parts_add_up_to_the_whole(name: str, first: Results, second: Results) -> None:
    """Pixels are sums over the parts, means are weighted means of the parts' means."""
    protocol, parts = PROTOCOLS[name], [scored(name, first), scored(name, second)]
    whole = [*parts[0], *parts[1]]
    sums = [sum_pixels(protocol, part) for part in parts]
    assert sum_pixels(protocol, whole) == tuple(map(sum, zip(*sums, strict=True)))
    numbers: list[Callable[[SampleResult], bool]] = [lambda each: each.has_target, lambda each: not each.has_target]
    counted = {"T-acc": numbers[0], "false alarms": numbers[0], "N-acc": numbers[1], "Acc": numbers[1]}
    made = [summarise(protocol, part) for part in parts]
    for metric, value in summarise(protocol, whole).items():
        if metric in ("oIoU", "cIoU"):
            continue
        if metric in ("mIoU", "gIoU"):
            weights = [sum(score.iou is not None for score in score_samples(protocol, part)) for part in parts]
        else:
            weights = [sum(map(counted.get(metric, numbers[0]), part)) for part in parts]
        total = sum(weight * each.get(metric, 0.0) for weight, each in zip(weights, made, strict=True))
        assert value == pytest.approx(total / sum(weights), abs=1e-9)


@EVERY
@QUICK
@given(targets)
def test_overall_iou_is_the_ratio_of_sums_and_bounded_by_single_ious(name: str, drawn: Results) -> None:
    """Exact in fractions; a mediant is between the smallest and the largest of its ratios."""
    protocol = PROTOCOLS[name]
    judged = [replace(each, judged_target=True) for each in drawn]
    metrics = summarise(protocol, judged)
    overall = metrics.get("oIoU", metrics.get("cIoU"))
    if overall is None:
        assert name == "cris"
        return
    union = sum(each.union for each in judged)
    ratio = Fraction(sum(each.intersection for each in judged), union) if union else Fraction(0)
    assert overall == pytest.approx(100 * float(ratio), abs=1e-9)
    ious = [each.intersection / each.union for each in judged if each.union]
    if ious:
        assert 100 * min(ious) - 1e-9 <= overall <= 100 * max(ious) + 1e-9


@EVERY
@QUICK
@given(some_results)
def test_metrics_are_percentages_and_precision_falls(name: str, drawn: Results) -> None:
    """0 to 100; fewer phrases reach a higher IoU; Markov's inequality bounds Pr@X by the mean over targets."""
    protocol, kept = PROTOCOLS[name], scored(name, drawn)
    metrics = summarise(protocol, kept)
    assert all(0 <= value <= 100 for value in metrics.values())
    precisions = [metrics[f"Pr@{x}"] for x in protocol.precision if f"Pr@{x}" in metrics]
    assert precisions == sorted(precisions, reverse=True)
    ious = [
        s.iou for r, s in zip(kept, score_samples(protocol, kept), strict=True) if r.has_target and s.iou is not None
    ]
    for x in protocol.precision if precisions else ():
        assert x * metrics[f"Pr@{x}"] <= 100 * math.fsum(ious) / len(ious) + 1e-9


@EVERY
@QUICK
@given(targets)
def test_prediction_and_truth_can_be_swapped(name: str, drawn: Results) -> None:
    """IoU is symmetric; only the judgement is not, and is kept."""
    swapped = [replace(each, predicted=each.truth, truth=each.predicted) for each in drawn]
    assert summarise(PROTOCOLS[name], swapped) == summarise(PROTOCOLS[name], drawn)


@EVERY
@QUICK
@given(some_results, st.integers(2, 5))
def test_the_unit_of_area_does_not_matter(name: str, drawn: Results, factor: int) -> None:
    """All counts times a factor, as at a larger size of the images."""
    kept = scored(name, drawn)
    larger = [
        replace(r, intersection=factor * r.intersection, predicted=factor * r.predicted, truth=factor * r.truth)
        for r in kept
    ]
    assert summarise(PROTOCOLS[name], larger) == pytest.approx(summarise(PROTOCOLS[name], kept), abs=1e-4)


@pytest.mark.parametrize("name", JUDGING)
@QUICK
@given(some_results, st.booleans(), st.integers(0, 50))
def test_phrases_without_a_target_and_the_mean(name: str, drawn: Results, judged: bool, predicted: int) -> None:
    """gRefCOCO counts 1 or 0 for one more such phrase; Ref-ZOM and SceneRef leave its IoU out."""
    protocol, count = PROTOCOLS[name], len(drawn)
    before = summarise(protocol, drawn)
    after = summarise(protocol, [*drawn, SampleResult(0, predicted, 0, False, judged)])
    if name == "gres":
        assert after["gIoU"] == pytest.approx((count * before["gIoU"] + 100 * (not judged)) / (count + 1))
    else:
        assert {m: before.get(m) for m in ("oIoU", "mIoU")} == {m: after.get(m) for m in ("oIoU", "mIoU")}


@QUICK
@given(some_results)
def test_grefcoco_by_its_parts(drawn: Results) -> None:
    """gIoU, N-acc and T-acc from the four cases; a dropped mask's pixels stay in the union of cIoU."""
    cases = {case: [r for r in drawn if (r.has_target, r.judged_target) == case] for case in PROTOCOLS["gres"].rules}
    kept, dropped, invented, right = (
        cases[case] for case in ((True, True), (True, False), (False, True), (False, False))
    )
    metrics = summarise(PROTOCOLS["gres"], drawn)
    ious = [r.intersection / r.union if r.union else 0.0 for r in kept]
    assert metrics["gIoU"] == pytest.approx(100 * (math.fsum(ious) + len(right)) / len(drawn))
    expected = {"T-acc": (len(kept), len(kept) + len(dropped)), "N-acc": (len(right), len(right) + len(invented))}
    for name, (good, total) in expected.items():
        assert metrics.get(name) == (pytest.approx(100 * good / total) if total else None)
    union = sum(r.union for r in (*kept, *dropped, *invented))
    assert metrics["cIoU"] == pytest.approx(100 * sum(r.intersection for r in kept) / union if union else 0)


@QUICK
@given(some_results)
def test_false_alarms_complete_the_found_targets(drawn: Results) -> None:
    """SceneRef's false alarms are what gRefCOCO's T-acc lacks of 100, and both have the same N-acc."""
    scene, general = (summarise(PROTOCOLS[name], drawn) for name in ("sceneref", "gres"))
    assert scene.get("N-acc") == general.get("N-acc")
    if "T-acc" in general:
        assert scene["false alarms"] == pytest.approx(100 - general["T-acc"])


@QUICK
@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_masks_are_counted_as_sets_of_pixels(height: int, width: int, data: st.DataObject) -> None:
    """The twin are Python's sets; without its own decision, a prediction has a target from `min_pixels` pixels on."""
    one, other = (
        data.draw(st.sets(st.integers(0, height * width - 1)).map(frozenset), label=label) for label in ("one", "other")
    )
    masks = [np.isin(np.arange(height * width), list(pixels)).reshape(height, width) for pixels in (one, other)]
    counts = compare_masks(*masks)
    assert counts == (len(one & other), len(one), len(other))
    assert SampleResult(*counts, True, True).union == len(one | other)
    least = data.draw(st.integers(0, 40))
    assert judge_target(None, len(one), least) == (len(one) > 0 and len(one) >= least)
