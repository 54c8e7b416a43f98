"""`transformers.pipeline("referring-image-segmentation")`: its answers are the predictor's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from refersam import ReferSamPredictor
from refersam.checkpoints.folders import BUNDLED_CHECKPOINT
from refersam.errors import ImageError, PhraseError, PromptError, ReferSamError

TASK = "referring-image-segmentation"
EXAMPLES = Path(__file__).parents[2] / "examples"
SCENES = [str(EXAMPLES / f"scene_{number}.png") for number in (1, 2, 3)]
PHRASES = ["the orange star", "every red object", "the purple elephant"]


@pytest.fixture(scope="module")
def segmenter() -> Any:
    """The bundled model, by name."""
    return pipeline(TASK, model=str(BUNDLED_CHECKPOINT), device="cpu")


@pytest.fixture(scope="module")
def predictor() -> ReferSamPredictor:
    """The same model."""
    return ReferSamPredictor.from_pretrained(device="cpu")


def assert_same(found: list[dict[str, Any]], expected: list[Any], most_different: int = 0) -> None:
    """Every entry; masks but for so many pixels, which a batch may round in another way."""
    assert [entry["label"] for entry in found] == [answer.phrase for answer in expected]
    for entry, answer in zip(found, expected, strict=True):
        assert set(entry) == {"label", "score", "mask", "box", "no_target"}
        assert entry["mask"].mode == "L"
        mask = np.asarray(entry["mask"])
        assert set(np.unique(mask)) <= {0, 255}
        assert np.count_nonzero((mask == 255) != answer.mask) <= most_different
        assert entry["score"] == pytest.approx(answer.score, abs=1e-4)
        assert entry["no_target"] == answer.no_target
        if not most_different:
            assert entry["box"] == answer.box


def test_one_image(segmenter: Any, predictor: ReferSamPredictor) -> None:
    """As path, PIL image, array and bytes; one phrase or several; one of them found, one absent."""
    expected = predictor.predict(SCENES[0], PHRASES)
    assert {answer.no_target for answer in expected} == {True, False}
    image = Image.open(SCENES[0])
    for source in (SCENES[0], Path(SCENES[0]), image, np.asarray(image.convert("RGB"))):
        assert_same(segmenter(source, phrases=PHRASES), expected)
    assert_same(segmenter(SCENES[0], PHRASES[0]), [predictor.predict(SCENES[0], PHRASES[0])])
    single = segmenter({"image": SCENES[0], "phrases": PHRASES[0]}, threshold=0.3, no_target_threshold=0)
    assert_same(single, [predictor.predict(SCENES[0], PHRASES[0], 0.3, 0)])


@pytest.mark.parametrize("batch_size", [1, 2])
def test_several_images(segmenter: Any, predictor: ReferSamPredictor, batch_size: int) -> None:
    """A list of lists, in order, also where the numbers of phrases and words differ within a batch."""
    asked = [{"image": scene, "phrases": PHRASES[: 1 + place % 2]} for place, scene in enumerate(SCENES)]
    found = segmenter(asked, batch_size=batch_size)
    assert len(found) == len(SCENES)
    for entries, question in zip(found, asked, strict=True):
        assert_same(entries, predictor.predict(question["image"], question["phrases"]), 4 * (batch_size - 1))
    same = segmenter(SCENES, phrases=PHRASES, batch_size=batch_size)
    for entries, scene in zip(same, SCENES, strict=True):
        assert_same(entries, predictor.predict(scene, PHRASES), 4 * (batch_size - 1))
    assert segmenter([], phrases=PHRASES) == []


def test_a_generator_is_read_as_it_is_asked_for(segmenter: Any) -> None:
    """Not all at once."""
    opened = []

    def images() -> Iterator[str]:
        for scene in SCENES:
            opened.append(scene)
            yield scene

    answers = iter(segmenter(images(), phrases="a circle"))
    next(answers)
    assert len(opened) <= 2
    assert len(list(answers)) == 2


def test_what_is_refused(segmenter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence each; an address is a file that is not there, and nothing is fetched."""
    import socket

    def forbidden(*_arguments: object, **_options: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "create_connection", forbidden)
    monkeypatch.setattr(socket.socket, "connect", forbidden)
    with pytest.raises(ImageError, match=r"http://127\.0\.0\.1:9/x\.png is a web address"):
        segmenter("http://127.0.0.1:9/x.png", phrases="a star")
    with pytest.raises(ImageError, match="not an image"):
        segmenter(b"data", phrases="a star")
    with pytest.raises(PhraseError, match="What to find is missing"):
        segmenter(SCENES[0])
    with pytest.raises(PhraseError, match="at least one word"):
        segmenter(SCENES[0], phrases=["a star", " "])
    with pytest.raises(ValueError, match="threshold must be a number from 0 to 1"):
        segmenter(SCENES[0], phrases="a star", threshold=2)
    with pytest.raises(ValueError, match="An image with phrases must be"):
        segmenter({"photo": SCENES[0]}, phrases="a star")
    with pytest.raises(TypeError, match="top_k"):
        segmenter(SCENES[0], phrases="a star", top_k=3)


def test_dtypes(segmenter: Any, tiny_model_folder: Path) -> None:
    """float32, though the box stores half of the bytes; another one where it is asked for."""
    assert segmenter.model.dtype is torch.float32
    half = pipeline(TASK, model=str(tiny_model_folder), dtype=torch.bfloat16, device="cpu")
    assert half.model.dtype is torch.bfloat16
    assert len(half(SCENES[0], phrases=PHRASES)) == 3


def test_clicks(segmenter: Any, predictor: ReferSamPredictor) -> None:
    """Points and a box, as arguments or with the image, in batches with others; one box only."""
    expected = predictor.predict(
        SCENES[0], "the star", points=[(40, 50), (9, 9)], point_labels=[1, 0], box=(9, 9, 99, 99)
    )
    prompts = {"points": [(40, 50), (9, 9)], "point_labels": [1, 0], "boxes": [(9, 9, 99, 99)]}
    assert_same(segmenter(SCENES[0], phrases="the star", **prompts), [expected])
    assert_same(segmenter(SCENES[0], phrases="the star", **{**prompts, "boxes": (9, 9, 99, 99)}), [expected])
    asked = [{"image": SCENES[0], "phrases": "the star", **prompts}, SCENES[1]]
    clicked, plain = segmenter(asked, phrases="every red object", batch_size=2)
    assert_same(clicked, [expected])
    assert_same(plain, [predictor.predict(SCENES[1], "every red object")])
    with pytest.raises(PromptError, match="At most one box"):
        segmenter(SCENES[0], phrases="the star", boxes=[(1, 1, 9, 9), (2, 2, 8, 8)])
    with pytest.raises(PromptError):
        segmenter(SCENES[0], phrases=PHRASES, points=[(1, 1)])


def test_saved_and_loaded_without_foreign_code(segmenter: Any, predictor: ReferSamPredictor, tmp_path: Path) -> None:
    """No Python file is written, and none is asked to be trusted; the model may also be given with its processor."""
    segmenter.save_pretrained(tmp_path / "saved")
    assert not list((tmp_path / "saved").rglob("*.py"))
    expected = predictor.predict(SCENES[0], PHRASES)
    again = pipeline(TASK, model=str(tmp_path / "saved"), device="cpu")
    assert_same(again(SCENES[0], phrases=PHRASES), expected)
    given = pipeline(TASK, model=segmenter.model, processor=segmenter.processor, device="cpu")
    assert_same(given(SCENES[0], phrases=PHRASES), expected)


def test_without_a_model_the_bundled_one_answers(segmenter: Any) -> None:
    """As everywhere in this package."""
    assert pipeline(TASK, device="cpu")(SCENES[0], phrases="a star") == segmenter(SCENES[0], phrases="a star")


def test_weights_that_are_missing_are_reported(tiny_model_folder: Path, tmp_path: Path) -> None:
    """In one sentence: they are not drawn at random."""
    from safetensors.torch import load_file, save_file

    (tmp_path / "model").mkdir()
    for path in tiny_model_folder.iterdir():
        (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights.pop("interactor.context_tokens")
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ReferSamError, match=r"1 missing \(interactor\.context_tokens\)"):
        pipeline(TASK, model=str(tmp_path / "model"), device="cpu")
