"""Scores after clicks, worked out by hand."""

from __future__ import annotations

import pytest

from refersam.metrics import PROTOCOLS, SampleResult
from refersam.metrics.clicks import click_curve


def result(intersection: int, truth: int = 100, *, judged: bool = True) -> SampleResult:
    """A mask inside its target."""
    return SampleResult(intersection, intersection, truth, truth > 0, judged)


def test_curve_by_hand() -> None:
    """Four phrases and two clicks; one has no target, one is judged to have none and counts by its mask."""
    first = [result(92), result(40), result(86, judged=False), SampleResult(0, 7, 0, False, True)]
    second = [result(92), result(88), result(89), SampleResult(0, 0, 0, False, False)]
    third = [result(95), result(89), result(91), SampleResult(0, 0, 0, False, False)]
    curve = click_curve(PROTOCOLS["sceneref"], [first, second, third])
    assert curve is not None
    assert (curve.phrases, curve.clicks, curve.missed) == (3, 2, 1)
    assert curve.mean_iou == pytest.approx([(92 + 40 + 86) / 3, (92 + 88 + 89) / 3, (95 + 89 + 91) / 3])
    assert curve.overall_iou == pytest.approx(curve.mean_iou)  # all targets are of one size
    assert curve.missed_mean_iou == pytest.approx([40, 88, 89])
    assert curve.noc == {85: pytest.approx(1 / 3), 90: pytest.approx((0 + 2 + 2) / 3)}
    assert curve.failures == {85: 0, 90: 1}
    written = curve.as_dict()
    assert written["NoC@90"] == curve.noc[90]
    assert written["failures@90"] == 1
    assert written["most_clicks"] == 2


def test_nothing_to_click() -> None:
    """Without a phrase with a target there is no curve; without a missed one no curve of these."""
    assert click_curve(PROTOCOLS["sceneref"], [[SampleResult(0, 0, 0, False, False)]] * 2) is None
    curve = click_curve(PROTOCOLS["sceneref"], [[result(80)], [result(90)]])
    assert curve is not None
    assert curve.missed_mean_iou == ()
    assert curve.noc == {85: 1, 90: 1}
