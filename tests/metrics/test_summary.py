"""Counting and SceneRef's summary against scenes worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from refersam.errors import DataError
from refersam.metrics import (
    PROTOCOLS,
    SampleResult,
    check_protocol,
    compare_masks,
    default_protocol,
    get_protocol,
    mean_iou_by_tag,
    score_sample,
)
from sceneref.metrics import sceneref_metrics


def mask(*rows: str) -> np.ndarray:
    """'#' is True."""
    return np.array([[character == "#" for character in row] for row in rows])


def result(intersection: int, union: int, has_target: bool, judged_target: bool, *tags: str) -> SampleResult:
    """A prediction whose true pixels are the intersection alone."""
    return SampleResult(intersection, union, intersection, has_target, judged_target, tags)


def test_compare_masks_by_hand() -> None:
    """Two squares of 2 x 2 that share one pixel."""
    one = mask("##..", "##..", "....")
    other = mask("....", ".##.", ".##.")
    assert compare_masks(one, other) == (1, 4, 4)
    assert compare_masks(one, one) == (4, 4, 4)
    assert compare_masks(one, ~one) == (0, 4, 8)
    assert compare_masks(mask("...."), mask("....")) == (0, 0, 0)
    assert SampleResult(1, 4, 4, True, True).union == 7


def test_masks_of_different_shapes_are_refused() -> None:
    """Never broadcast."""
    with pytest.raises(ValueError, match=r"\(1, 4\) and \(1, 1\)"):
        compare_masks(mask("####"), mask("#"))


@pytest.mark.parametrize(
    ("name", "iou"),
    [("original", 1), ("evf", 1), ("sceneref", 1), ("lavt", 0), ("caris", 0), ("cris", 0), ("gres", 0), ("ref-zom", 0)],
)
def test_iou_of_two_empty_masks(name: str, iou: float) -> None:
    """By protocol; where something was found, it is 0 for all."""
    assert score_sample(PROTOCOLS[name], result(0, 0, True, True)).iou == iou
    assert score_sample(PROTOCOLS[name], result(0, 5, True, True)).iou == 0


def test_sceneref_metrics_by_hand() -> None:
    """Four phrases with a target, IoU 1/2, 9/10, 0 and 1; three without one."""
    results = [
        result(5, 10, True, True, "relative", "colour"),
        result(90, 100, True, True, "relative"),
        result(0, 40, True, False, "ordinal"),
        result(50, 50, True, True, "attribute"),
        # Without a target: their pixels must count nowhere, only the judgement does.
        result(0, 1000, False, False, "no-target"),
        result(0, 0, False, True, "no-target"),
        result(0, 7, False, False, "no-target"),
    ]
    assert sceneref_metrics(results) == pytest.approx(
        {
            "phrases": 7,
            "phrases with target": 4,
            "mIoU": 100 * (0.5 + 0.9 + 0 + 1) / 4,  # 60
            "oIoU": 100 * (5 + 90 + 0 + 50) / (10 + 100 + 40 + 50),  # 145 / 200 = 72.5
            "Pr@0.5": 75,  # exactly 0.5 counts
            "Pr@0.6": 50,
            "Pr@0.7": 50,
            "Pr@0.8": 50,
            "Pr@0.9": 50,  # exactly 0.9 counts
            "false alarms": 25,  # one of four
            "N-acc": 200 / 3,  # two of three
            "mIoU/relative": 70,
            "mIoU/ordinal": 0,
            "mIoU/attribute": 100,
        }
    )
    every_tag = mean_iou_by_tag(PROTOCOLS["sceneref"], results)
    assert every_tag == pytest.approx({"relative": 70, "colour": 50, "ordinal": 0, "attribute": 100})


def test_metrics_of_one_kind_only() -> None:
    """What cannot be said is left out, instead of being 0 or NaN."""
    without = sceneref_metrics([result(0, 3, False, False)])
    assert without == {"phrases": 1, "phrases with target": 0, "N-acc": 100}
    found = sceneref_metrics([result(0, 0, True, True)])
    assert "N-acc" not in found
    assert (found["mIoU"], found["oIoU"]) == (100, 0)
    assert sceneref_metrics([]) == {"phrases": 0, "phrases with target": 0}


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("refcoco", "original"),
        ("refcoco+", "original"),
        ("refcocog", "original"),
        ("grefcoco", "gres"),
        ("refzom", "ref-zom"),
        ("sceneref", "sceneref"),
    ],
)
def test_protocol_by_data_set(dataset: str, name: str) -> None:
    """Whatever its phrases are."""
    assert default_protocol(dataset, [True]).name == default_protocol(dataset, [True, False]).name == name


def test_protocol_of_own_data() -> None:
    """It depends on whether a phrase has no target."""
    assert default_protocol("jsonl", [True, True]).name == "original"
    assert default_protocol("jsonl", [True, False]).name == "gres"


def test_unfit_and_unknown_protocols() -> None:
    """One sentence each."""
    check_protocol(PROTOCOLS["lavt"], [True, True])
    check_protocol(PROTOCOLS["gres"], [True, False])
    with pytest.raises(DataError, match="lavt has no rule for phrases without a target, but 1 of 3 have none"):
        check_protocol(PROTOCOLS["lavt"], [True, False, True])
    with pytest.raises(DataError, match="no protocol 'lovt': choose one of original, lavt"):
        get_protocol("lovt")
