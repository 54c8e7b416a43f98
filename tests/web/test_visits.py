"""Visits: what clicks do to a question, and that answers are computed once."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refersam import ReferSamPredictor
from refersam.data import open_dataset
from refersam.errors import PromptError
from refersam.web.answers import own_data
from refersam.web.examples import draw_examples
from refersam.web.visits import ALL, Answers, Correction, Visit


@pytest.fixture(scope="module")
def predictor() -> ReferSamPredictor:
    """The bundled model."""
    return ReferSamPredictor.from_pretrained(device="cpu")


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A rendered scene with a star and a ring."""
    return draw_examples(tmp_path)[0][0]


def visit_of(file: Path, *phrases: str) -> Visit:
    """A visit without corrections."""
    return Visit.begin(str(file), "bundled", phrases, (0.5, 0.5))


def test_clicks_and_boxes() -> None:
    """A click corrects one phrase, two make a box, whatever their order, and each can be taken back."""
    visit = visit_of(Path("a.png"), "the star", "the ring")
    clicked = visit.click(1, "add", 3, 4).click(1, "remove", 5, 6)
    assert clicked.corrections == ((), (Correction("add", (3, 4)), Correction("remove", (5, 6))))
    half = clicked.click(0, "box", 9, 2)
    assert (half.corner, half.corrections) == ((9, 2), clicked.corrections)
    assert half.undo(0) == clicked
    whole = half.click(0, "box", 1, 8)
    assert whole.corner is None
    assert whole.corrections[0] == (Correction("box", (1, 2, 10, 9)),)
    assert whole.undo(0) == clicked
    assert clicked.undo(1).corrections[1] == (Correction("add", (3, 4)),)
    assert clicked.clear(1) == visit
    assert visit.undo(0) == visit
    with pytest.raises(PromptError, match="different rows and columns"):
        half.click(0, "box", 9, 5)
    with pytest.raises(PromptError, match="Choose one phrase"):
        visit.chosen(ALL)
    assert visit.chosen("2. the ring") == 1
    assert visit_of(Path("a.png"), "the star").chosen(ALL) == 0


def test_answers_are_corrected_as_the_predictor_does(predictor: ReferSamPredictor, scene: Path) -> None:
    """Also after an undo; the other phrase's answer stays."""
    answers = Answers({"bundled": predictor}, max_pixels=10**6)
    visit = visit_of(scene, "the star", "the ring")
    first = answers.of(visit)
    corrected = answers.of(visit.click(0, "remove", 10, 10).click(0, "add", 40, 50))[0]
    expected = predictor.refine(first[0], points=[(10, 10)], point_labels=[0])
    expected = predictor.refine(expected, points=[(40, 50)])
    np.testing.assert_array_equal(corrected.probability, expected.probability)
    back = answers.of(visit.click(0, "add", 40, 50))
    np.testing.assert_array_equal(back[0].probability, predictor.refine(first[0], points=[(40, 50)]).probability)
    np.testing.assert_array_equal(back[1].probability, first[1].probability)


def test_a_click_runs_the_decoder_only(
    predictor: ReferSamPredictor, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One correction is one call of `refine`; the image is encoded once, and again after other images."""
    calls: list[str] = []

    def counted(name: str) -> Any:
        plain = getattr(predictor, name)
        return lambda *args, **named: calls.append(name) or plain(*args, **named)

    for name in ("set_image", "predict", "refine"):
        monkeypatch.setattr(predictor, name, counted(name))
    answers = Answers({"bundled": predictor}, max_pixels=10**6, most=1)
    visit = visit_of(scene, "the star")
    for number in range(3):
        answers.of(visit)
        visit = visit.click(0, "add", 10 + number, 10)
    assert calls == ["set_image", "predict", "refine", "refine"]
    calls.clear()
    answers.of(visit_of(scene, "the ring"))
    answers.of(visit)  # of which nothing is kept any more
    assert calls == ["predict", "predict", "refine", "refine", "refine"]


def test_own_data_is_training_data(predictor: ReferSamPredictor, scene: Path, tmp_path: Path) -> None:
    """Unpacked, it is read by the project's own format: corrected masks, and what matches nothing."""
    results = predictor.predict(scene, ["the star", "the green elephant"])
    with zipfile.ZipFile(io.BytesIO(own_data(results[0].image, results))) as archive:
        archive.extractall(tmp_path)
        (lines,) = (name for name in archive.namelist() if name.endswith(".jsonl"))
    dataset = open_dataset(tmp_path, "jsonl", Path(lines).stem)
    samples = list(dataset)
    assert [sample.phrase for sample in samples] == ["the star", "the green elephant"]
    for sample, result in zip(samples, results, strict=True):
        np.testing.assert_array_equal(sample.load_mask(), result.mask)
    assert results[1].no_target
    assert json.loads((tmp_path / lines).read_text().splitlines()[1])["no_target"] is True
