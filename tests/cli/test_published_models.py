"""Every command that answers phrases, with each family of published models."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import refersam
from refersam import ReferSamPredictor
from refersam.data import open_dataset
from refersam.metrics.masks import decode_mask
from refersam.serving.app import create_app
from refersam.serving.settings import ServerSettings
from refersam.video.writer import VideoWriter
from refersam.web.page import Page, PageSettings
from sceneref import SceneRefSettings, write_sceneref

Run = Callable[..., SimpleNamespace]
PHRASES = ("the dog", "red cat on the left")


@pytest.fixture(params=["clipseg", "grounded-sam", "sam3"])
def model(request: pytest.FixtureRequest, published_models: dict[str, str]) -> str:
    """The name of a small random model."""
    return published_models[request.param]


@pytest.fixture
def predictor(model: str) -> ReferSamPredictor:
    """The same model."""
    return refersam.load_predictor(model, device="cpu")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Two sizes."""
    folder = tmp_path / "images"
    folder.mkdir()
    files = []
    for number, size in enumerate([(96, 64), (64, 96), (96, 64)]):
        pixels = np.random.default_rng(number).integers(0, 256, (6, 9, 3), dtype=np.uint8)
        files.append(folder / f"{number}.png")
        Image.fromarray(pixels).resize(size).save(files[-1])
    return files


def test_segment(run: Run, model: str, images: list[Path], predictor: ReferSamPredictor) -> None:
    result = run("segment", images[0], *PHRASES, "--model", model, "--device", "cpu", "--json")
    assert result.code == 0, result.err
    for row, answer in zip(json.loads(result.out), predictor.predict(images[0], PHRASES), strict=True):
        np.testing.assert_array_equal(decode_mask(row["rle"]), answer.mask)
        assert row["no_target"] == answer.no_target
        assert "domain" not in row


def test_segment_many(run: Run, model: str, images: list[Path], predictor: ReferSamPredictor) -> None:
    options = [option for phrase in PHRASES for option in ("--phrases", phrase)]
    result = run("segment-many", "--images", images[0].parent, *options, "--model", model, "--device", "cpu")
    assert result.code == 0, result.err
    lines = [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]
    assert len(lines) == len(images)
    for file, line in zip(images, lines, strict=True):
        for row, answer in zip(line["results"], predictor.predict(file, PHRASES), strict=True):
            assert row["score"] == pytest.approx(answer.score, abs=1e-3)
            assert (decode_mask(row["rle"]) != answer.mask).mean() < 1e-3


def test_video(run: Run, model: str, images: list[Path]) -> None:
    with VideoWriter(Path("clip.mp4"), 10, (96, 64)) as writer:
        for number in range(2):
            writer.add(Image.open(images[0]), number / 10)
    result = run("video", "clip.mp4", PHRASES[0], "--model", model, "--device", "cpu", "--out", "out")
    assert result.code == 0, result.err
    (lines,) = Path("out").glob("*.jsonl")
    assert len(lines.read_text().splitlines()) == 2


@pytest.mark.parametrize("protocol", ["gres", "sceneref", "ref-zom"])
def test_evaluate(run: Run, model: str, predictor: ReferSamPredictor, protocol: str, tmp_path: Path) -> None:
    """The masks that are scored are those of `predict`, at the image's own size."""
    write_sceneref(tmp_path / "data", "val", 3, 0, SceneRefSettings(width=80, height=72, phrases_per_scene=3))
    result = run(
        *("evaluate", "--model", model, "--data-root", tmp_path / "data", "--dataset", "sceneref", "--split", "val"),
        *("--protocol", protocol, "--device", "cpu", "--workers", 0, "--out", "out"),
    )
    assert result.code == 0, result.err
    rows = [json.loads(line) for line in Path("out/predictions.jsonl").read_text().splitlines()]
    samples = open_dataset(tmp_path / "data", "sceneref", "val")
    for sample, row in zip(samples, rows, strict=True):
        answer = predictor.predict(sample.image.load(), sample.phrase)
        mask = answer.probability >= 0.5
        assert (decode_mask(row["mask"]) != mask).mean() < 1e-3
        if predictor.model.config.object_score_head:
            assert row["no_target"] == answer.no_target
    settings = json.loads(Path("out/metrics.json").read_text())["settings"]
    assert settings["no_target_threshold"] == predictor.model.config.no_target_threshold


def test_serve(predictor: ReferSamPredictor, images: list[Path]) -> None:
    with TestClient(create_app(predictor, ServerSettings())) as client:
        reply = client.post(
            "/v1/segment", files={"image": images[0].read_bytes()}, data={"phrases": list(PHRASES)}
        ).json()
        image = client.post(
            "/v1/segment", files={"image": images[0].read_bytes()}, data={"phrases": PHRASES[0], "format": "png"}
        )
    for row, answer in zip(reply["results"], predictor.predict(images[0], PHRASES), strict=True):
        np.testing.assert_array_equal(decode_mask(row["rle"]), answer.mask)
    assert Image.open(io.BytesIO(image.content)).size == (96, 64)


def test_demo(predictor: ReferSamPredictor, images: list[Path], tmp_path: Path) -> None:
    page = Page({"published": predictor}, tmp_path / "page", PageSettings())
    page.warm_up()
    threshold = page.no_target_threshold("published")
    answers = page.answers(page.ask(str(images[0]), "\n".join(PHRASES), "published", 0.5, threshold))
    for one, other in zip(answers, predictor.predict(images[0], PHRASES), strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
