"""Every protocol against numbers worked by hand, and against a slow twin that goes pixel by pixel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refersam.data.sample import ImageRecord, ReferringSample
from refersam.errors import DataError
from refersam.evaluate import Evaluation, evaluate_predictions
from refersam.evaluate.predictions import Prediction, write_predictions
from refersam.metrics import PROTOCOLS, SampleResult, sum_pixels, summarise
from refersam.metrics.masks import encode_mask

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"
CRIS_SUM = 4 / (8 + 1e-6) + 7 / (10 + 1e-6) + 9 / (10 + 1e-6) + 16 / (16 + 1e-6)


def mask(rows: list[str]) -> np.ndarray:
    """'#' is True."""
    return np.array([[character == "#" for character in row] for row in rows])


def make_sample(name: str, truth: np.ndarray | None, shape: tuple[int, int]) -> ReferringSample:
    """One phrase about an image that is never read."""
    image = ImageRecord(name, Path("no such image.png"), shape[1], shape[0])
    return ReferringSample(name, "a phrase", image, () if truth is None else (encode_mask(truth),))


def score_scenes(scenes: list[dict[str, Any]], protocol: str, folder: Path, **options: Any) -> Evaluation:
    """Through the file format."""
    samples, predictions = [], []
    for scene in scenes:
        predicted = mask(scene["prediction"])
        truth = None if scene["truth"] is None else mask(scene["truth"])
        samples.append(make_sample(scene["sample_id"], truth, predicted.shape))
        predictions.append(Prediction(scene["sample_id"], encode_mask(predicted), scene.get("no_target")))
    path = folder / "predictions.jsonl"
    path.write_bytes(write_predictions(predictions))
    return evaluate_predictions(path, samples, PROTOCOLS[protocol], **options)


def test_there_is_a_golden_file_for_every_protocol() -> None:
    """And for nothing else."""
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(PROTOCOLS)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_golden(name: str, tmp_path: Path) -> None:
    """Metrics as fractions, and the sums in pixels; each file says how they come about."""
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    evaluation = score_scenes(golden["scenes"], name, tmp_path)
    expected = {
        metric: 100 * (CRIS_SUM if isinstance(numerator, str) else numerator) / denominator
        for metric, (numerator, denominator) in golden["metrics"].items()
    }
    assert evaluation.metrics == pytest.approx(expected, rel=1e-12)
    assert list(evaluation.metrics) == list(expected)
    pixels = golden["pixels"]
    sums = tuple(pixels[key] * pixels["each_counts"] for key in ("intersection", "union"))
    assert sum_pixels(PROTOCOLS[name], evaluation.results) == sums


@pytest.mark.parametrize("name", ["original", "lavt", "caris", "cris", "evf"])
def test_protocols_without_a_rule_for_no_target_refuse(name: str, tmp_path: Path) -> None:
    """In words that say which ones can."""
    scenes = json.loads((GOLDEN / "gres.json").read_text())["scenes"]
    with pytest.raises(DataError, match=rf"{name} has no rule .* 3 of 6 have none: choose one of gres, ref-zom, scene"):
        score_scenes(scenes, name, tmp_path)


@pytest.mark.parametrize(("min_pixels", "judged"), [(0, True), (3 * 14400, True), (3 * 14400 + 1, False)])
def test_gres_min_pixels(min_pixels: int, judged: bool, tmp_path: Path) -> None:
    """Without a decision, a mask below the limit at 480 x 480 counts as empty; with one, the limit says nothing."""
    scene = {"sample_id": "1", "truth": None, "prediction": ["###.", "....", "....", "...."]}
    evaluation = score_scenes([scene], "gres", tmp_path, min_pixels=min_pixels)
    assert evaluation.results[0].judged_target is judged
    assert evaluation.metrics["N-acc"] == 100 * (not judged)
    assert sum_pixels(PROTOCOLS["gres"], evaluation.results) == (0, 3 * 14400 if judged else 0)
    decided = score_scenes([scene | {"no_target": False}], "gres", tmp_path, min_pixels=10**6)
    assert decided.results[0].judged_target


def test_a_dropped_mask_stays_in_the_union(tmp_path: Path) -> None:
    """A target judged to be none adds the pixels of prediction or truth: the mask is not cleared."""
    scene = {"sample_id": "1", "truth": ["####", "...."], "prediction": ["....", "#..."]}
    evaluation = score_scenes([scene], "gres", tmp_path, min_pixels=10**6)
    assert evaluation.metrics["T-acc"] == 0
    assert sum_pixels(PROTOCOLS["gres"], evaluation.results) == (0, 5 * 120 * 240)


# ------------------------------------------------------------------------------------------------------ the slow twin

Row = tuple[list[int], list[int] | None, bool | None]
"""Predicted pixels, true pixels (None: no target), the decision; images of 2 x 3 pixels."""


def slow_metrics(name: str, rows: list[Row]) -> dict[str, float]:
    """Written from the tables again, with an if for each protocol."""
    ious: list[tuple[float, bool]] = []
    total_i, total_u, none_right, some_right, empty = 0, 0, 0, 0, 0
    without = sum(truth is None for _, truth, _ in rows)
    targets = len(rows) - without
    for predicted, truth, no_target in rows:
        both, either = 0, 0
        for place, pixel in enumerate(predicted):
            true = 0 if truth is None else truth[place]
            both += 1 if pixel == 1 and true == 1 else 0
            either += 1 if pixel == 1 or true == 1 else 0
        none = no_target if no_target is not None else sum(predicted) == 0
        if truth is None:
            none_right += none
            empty += sum(predicted) == 0
            if name == "gres":
                ious.append((1.0 if none else 0.0, False))
                total_u += 0 if none else either
            continue
        some_right += not none
        if name == "gres" and none:
            ious.append((0.0, True))
            total_u += either
            continue
        if either == 0:
            value = 1.0 if name in ("original", "evf", "sceneref") else 0.0
        else:
            value = both / (either + 1e-6) if name == "cris" else both / either
        ious.append((value, True))
        total_i, total_u = total_i + both, total_u + either
    out: dict[str, float] = {}
    mean, overall = ("gIoU", "cIoU") if name == "gres" else ("mIoU", "oIoU")
    if ious:
        out[mean] = 100 * sum(value for value, _ in ious) / len(ious)
        if name != "cris":
            out[overall] = 100 * total_i / total_u if total_u else 0
    if targets:
        levels = {"caris": (5, 7, 9), "gres": (7, 8, 9), "evf": ()}.get(name, (5, 6, 7, 8, 9))
        for level in levels:
            good = [v > level / 10 if name == "cris" else v >= level / 10 for v, target in ious if target]
            out[f"Pr@{level / 10}"] = 100 * sum(good) / targets
        if name == "gres":
            out["T-acc"] = 100 * some_right / targets
        if name == "sceneref":
            out["false alarms"] = 100 * (targets - some_right) / targets
    if without and name in ("gres", "sceneref"):
        out["N-acc"] = 100 * none_right / without
    if without and name == "ref-zom":
        out["Acc"] = 100 * empty / without
    return out


pixels = st.lists(st.integers(0, 1), min_size=6, max_size=6)


@pytest.mark.parametrize("name", PROTOCOLS)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_slow_twin(name: str, data: st.DataObject) -> None:
    """Random small scenes."""
    truth = st.none() | pixels if PROTOCOLS[name].takes_no_target else pixels
    rows: list[Row] = data.draw(st.lists(st.tuples(pixels, truth, st.none() | st.booleans()), max_size=8))
    results = []
    for predicted, true, no_target in rows:
        both = sum(p & t for p, t in zip(predicted, true or [0] * 6, strict=True))
        judged = not no_target if no_target is not None else any(predicted)
        results.append(SampleResult(both, sum(predicted), sum(true or []), true is not None, judged))
    assert summarise(PROTOCOLS[name], results) == pytest.approx(slow_metrics(name, rows), rel=1e-12)
    shuffled = data.draw(st.permutations(results))
    assert summarise(PROTOCOLS[name], shuffled) == summarise(PROTOCOLS[name], results)  # to the last bit


@pytest.mark.parametrize("name", PROTOCOLS)
@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(counts=st.lists(st.integers(1, 10**6), min_size=1))
def test_a_perfect_prediction_scores_100(name: str, counts: list[int]) -> None:
    """In every metric there is, and no false alarm."""
    results = [SampleResult(count, count, count, True, True) for count in counts]
    if PROTOCOLS[name].takes_no_target:
        results.append(SampleResult(0, 0, 0, False, False))
    metrics = summarise(PROTOCOLS[name], results)
    assert metrics.pop("false alarms", 0) == 0
    assert list(metrics.values()) == pytest.approx([100] * len(metrics), abs=1e-4 if name == "cris" else 0)
