"""The report: numbers by hand, hostile texts, nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refersam.data.sample import ImageRecord, ReferringSample
from refersam.evaluate import Evaluation, Prediction
from refersam.evaluate.output import describe
from refersam.evaluate.report import facts
from refersam.evaluate.report.images import (
    MAX_BYTES,
    PREDICTION_COLOUR,
    SIDE,
    TRUTH_COLOUR,
    choose_cases,
    data_uri,
    outline,
)
from refersam.evaluate.report.page import render_report
from refersam.metrics import PROTOCOLS, SampleResult
from refersam.metrics.calibration import calibration
from refersam.metrics.masks import encode_mask

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)> \"quoted\" 'single' & {{ 7 * 7 }} \u2028 \ud800"
)
SOURCE = {"model": HOSTILE, "predictions": None, "dataset": HOSTILE, "split": "val", "split_by": HOSTILE}


def build(rows: list[dict[str, Any]], folder: Path, protocol: str = "sceneref") -> Evaluation:
    """An evaluation of given numbers; its images are 10 x 10."""
    Image.new("RGB", (10, 10), "white").save(folder / "image.png")
    samples, predictions, results = [], [], []
    for place, row in enumerate(rows):
        truth = np.zeros(100, bool)
        truth[: row.get("truth", 0)] = True
        record = ImageRecord(str(row.get("image", place)), folder / "image.png", 10, 10)
        regions = (encode_mask(truth.reshape(10, 10)),) if row.get("truth") else ()
        details = {name: row[name] for name in ("tags", "category", "distractors") if name in row}
        samples.append(ReferringSample(str(place), row.get("phrase", "red"), record, regions, **details))
        score, probability = row.get("score"), row.get("probability")
        predictions.append(Prediction(str(place), encode_mask(truth.reshape(10, 10)), None, score, probability))
        results.append(
            SampleResult(
                row.get("intersection", 0),
                row.get("predicted", 0),
                row.get("truth", 0),
                bool(row.get("truth")),
                row.get("judged", True),
                row.get("tags", ()),
                score,
                probability,
            )
        )
    return Evaluation(PROTOCOLS[protocol], samples, predictions, results, (), {"batch_size": 1, "min_pixels": 0})


def found(iou: float, **more: Any) -> dict[str, Any]:
    """A target of 50 pixels, of which some are found and nothing else."""
    return {"truth": 50, "intersection": round(50 * iou), "predicted": round(50 * iou), **more}


def test_histogram(tmp_path: Path) -> None:
    """1 falls into the last part; what is not counted into none."""
    evaluation = build([found(0), found(0.5), found(0.54), found(1), {"predicted": 5}], tmp_path)
    assert facts.iou_histogram(evaluation, 4) == ([1, 0, 2, 1], 2)
    evaluation = build([found(1)] * 43, tmp_path)
    assert facts.iou_histogram(evaluation, 2) == ([0, 43], 60)


def test_breakdowns(tmp_path: Path) -> None:
    """Means and sums by hand; a property with one value only is left out."""
    evaluation = build(
        [
            found(0.5, phrase="red dog", tags=("attribute", "colour"), category="dog", distractors=0),
            found(1, phrase="dog", tags=("attribute",), category="dog", distractors=5),
            {"truth": 10, "predicted": 10, "phrase": "a", "tags": ("relative",), "category": "cat", "distractors": 0},
        ],
        tmp_path,
    )
    made = {breakdown.title: breakdown.groups for breakdown in facts.breakdowns(evaluation)}
    assert made["Phenomenon"] == (
        facts.Group("attribute", 2, 75.0, 75.0),  # I 25 + 50, U 50 + 50
        facts.Group("colour", 1, 50.0, 50.0),
        facts.Group("relative", 1, 0.0, 0.0),
    )
    assert made["Words in the phrase"] == (facts.Group("1", 2, 50.0, 100 * 50 / 70), facts.Group("2", 1, 50.0, 50.0))
    assert [(g.label, g.count) for g in made["Target's share of the image"]] == [
        ("4 to 16 %", 1),
        ("16 % or more", 2),
    ]
    assert [(g.label, g.count) for g in made["Other objects of its category"]] == [("0", 2), ("4 or more", 1)]
    assert [(g.label, g.count) for g in made["Category"]] == [("dog", 2), ("cat", 1)]
    assert facts.breakdowns(build([found(1), found(0)], tmp_path)) == []


def test_calibration(tmp_path: Path) -> None:
    """Two in the bin from 0.8: mean score 0.85, mean IoU 0.5; one of score 1 and IoU 1; one without a target."""
    rows = [found(0, score=0.8), found(1, score=0.9 - 1e-9), found(1, score=1.0), {"predicted": 9, "score": 0.3}]
    made = calibration(build(rows, tmp_path).results)
    assert made is not None
    assert [(each.count, each.mean_score, each.mean_iou) for each in made.bins] == [
        (1, pytest.approx(0.3), 0),
        (2, pytest.approx(0.85), pytest.approx(0.5)),
        (1, 1, 1),
    ]
    assert made.error == pytest.approx((0.3 + 2 * 0.35 + 0) / 4)
    assert calibration(build([found(1, score=7.0)], tmp_path).results) is None
    assert calibration(build([found(1, score=0.5), found(1)], tmp_path).results) is None


def test_trade_off(tmp_path: Path) -> None:
    """Targets at 0.4 and 0.9, none at 0.2 and 0.6; judged at 0.5: one false alarm of two, one of two right."""
    rows = [
        found(1, probability=0.4, judged=False),
        found(1, probability=0.9),
        {"probability": 0.2, "judged": False},
        {"probability": 0.6},
    ]
    curve = facts.trade_off(build(rows, tmp_path))
    assert curve is not None
    assert curve.points == ((0, 0), (0, 50), (50, 50), (50, 100), (100, 100))
    assert (curve.chosen, curve.by) == ((50, 50), "target probability")
    assert facts.trade_off(build(rows[:2], tmp_path)) is None
    assert facts.trade_off(build(rows, tmp_path, "ref-zom")) is None


def test_verdicts(tmp_path: Path) -> None:
    """One of each."""
    rows = [found(0.5), found(0.49), found(1, judged=False), {"judged": False, "predicted": 3}, {"predicted": 3}]
    evaluation = build(rows, tmp_path)
    seen = [facts.verdict(evaluation, place, iou) for place, iou in enumerate(facts.sample_ious(evaluation))]
    assert seen == list(facts.VERDICTS)
    masks_decide = build([{"predicted": 0, "judged": True}, {"predicted": 1, "judged": False}], tmp_path, "ref-zom")
    assert [facts.verdict(masks_decide, place, None) for place in (0, 1)] == ["rightly none", "wrongly found"]


def test_cases(tmp_path: Path) -> None:
    """Best, median and worst; the surest of the equally bad first; no phrase twice, no image twice if avoidable."""
    rows = [found(place / 20, image=place) for place in range(1, 20)]
    rows += [found(0, score=0.1, image=98), found(0, score=0.9, image=99), {"predicted": 3, "score": 0.5}]
    cases = choose_cases(build(rows, tmp_path), count=3)
    assert {title: [case.sample_id for case in group] for title, group in cases.items()} == {
        "Best": ["18", "17", "16"],
        "Median": ["8", "7", "9"],
        "Worst": ["20", "19", "0"],
        "No target, but one was found": ["21"],
    }
    same_image = [found(1, image=1), found(1, image=1), found(0.5, image=2)]
    chosen = choose_cases(build(same_image, tmp_path), count=2)["Best"]
    assert [case.sample_id for case in chosen] == ["1", "2"]


def test_outlines() -> None:
    """Both lines in their colours, at a bounded size."""
    truth = np.zeros((100, 200), bool)
    truth[20:60, 20:60] = True
    drawn = outline(Image.new("RGB", (200, 100), "black"), truth, np.roll(truth, 100, axis=1))
    assert drawn.size == (SIDE, SIDE // 2)
    pixels = np.asarray(drawn)
    left, right = pixels[:, : SIDE // 2], pixels[:, SIDE // 2 :]
    assert (left == TRUTH_COLOUR).all(axis=2).sum() > (right == PREDICTION_COLOUR).all(axis=2).sum() > 100
    assert not (right == TRUTH_COLOUR).all(axis=2).any()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    assert len(data_uri(noise)) < 2 * MAX_BYTES


def test_a_image_that_is_gone(tmp_path: Path) -> None:
    """The report is made without it."""
    evaluation = build([found(1)], tmp_path)
    (tmp_path / "image.png").unlink()
    page = render_report(evaluation, describe(evaluation, SOURCE))
    assert "The image cannot be read." in page


class Page(HTMLParser):
    """Elements with their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        self.in_script = tag == "script"
        if self.in_script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.in_script = False

    def handle_data(self, data: str) -> None:
        if self.in_script:
            self.scripts[-1] += data


@pytest.fixture
def hostile_page(tmp_path: Path) -> str:
    rows = [
        found(place / 10, phrase=HOSTILE, tags=(HOSTILE, "b"), category=HOSTILE + str(place % 2), score=0.5)
        for place in range(8)
    ]
    evaluation = build([*rows, {"phrase": HOSTILE, "predicted": 4, "score": 0.5, "probability": 0.5}], tmp_path)
    samples = [replace(sample, sample_id=HOSTILE + sample.sample_id) for sample in evaluation.samples]
    evaluation = replace(evaluation, samples=samples)
    return render_report(evaluation, describe(evaluation, SOURCE)).encode("utf-8", "replace").decode()


def test_hostile_texts_stay_texts(hostile_page: str) -> None:
    """No element, attribute or script but the page's own; a template in a phrase is not filled in."""
    page = Page(hostile_page)
    assert len(page.scripts) == 2
    assert [attributes for tag, attributes in page.elements if tag == "script"] == [
        {"type": "application/json", "id": "rows"},
        {},
    ]
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "alert(1)" not in page.scripts[1]
    assert "{{ 7 * 7 }}" in hostile_page
    rows = json.loads(page.scripts[0])
    assert len(rows) == 9
    assert rows[0][:2] == [HOSTILE + "0", HOSTILE]
    assert rows[0][2:] == [0.0, 0.5, facts.VERDICTS.index("missed")]


def test_nothing_from_outside(hostile_page: str) -> None:
    """No address, no file; the policy allows the page's own script and embedded images alone."""
    page = Page(hostile_page)
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "action", "srcset", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/jpeg;base64,", "#")), (tag, name)
    own = hostile_page.replace(HOSTILE, "")
    assert "http://" not in own
    assert "https://" not in own
    assert not re.search(r"url\(|@import", own)
    (policy,) = (a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; script-src 'sha256-{digest}'; style-src 'unsafe-inline'"


def test_it_can_be_used_without_eyes_or_mouse(hostile_page: str) -> None:
    """Language, headings, labels, images with a text, charts with a name."""
    page = Page(hostile_page)
    assert ("html", {"lang": "en"}) in page.elements
    for tag, attributes in page.elements:
        assert tag != "img" or attributes.get("alt")
        assert tag != "svg" or (attributes.get("role") == "img" and attributes.get("aria-label"))
        assert tag != "button" or attributes.get("type") == "button"
    assert hostile_page.count("<label>") == 2


def test_a_report_of_nothing(tmp_path: Path) -> None:
    """No phrase, no number, no crash."""
    evaluation = build([], tmp_path)
    page = render_report(evaluation, describe(evaluation, SOURCE))
    assert 'aria-label="Histogram of the IoU of 0 phrases"' in page


def test_numbers_on_the_page(tmp_path: Path) -> None:
    """Protocol, settings and metrics; 0 is 0, not 'no'."""
    evaluation = build([found(0.5), found(1)], tmp_path)
    page = render_report(evaluation, describe(evaluation, SOURCE | {"dataset": "refcoco", "split_by": ""}))
    assert "protocol <strong>sceneref</strong>" in page
    assert "<dt>oIoU</dt><dd>75.00</dd>" in page
    assert "<dt>mIoU</dt><dd>75.00</dd>" in page
    assert '<th scope="row">min pixels</th><td>0</td>' in page
    assert '<th scope="row">batch size</th><td>1</td>' in page
