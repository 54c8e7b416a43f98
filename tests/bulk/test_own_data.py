"""Results as own data: what is kept, in which split, and that the next commands read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refersam.bulk.own_data import write_own_data
from refersam.bulk.results import Line
from refersam.data import open_dataset
from refersam.data.datasets import read_dataset
from refersam.errors import DataError
from refersam.inference.answers import Answer

Run = Callable[..., SimpleNamespace]
MASK = np.zeros((20, 30), bool)
MASK[2:8, 3:13] = True


def answer(phrase: str, score: float, no_target: bool = False, mask: np.ndarray = MASK) -> dict[str, Any]:
    return Answer(phrase, mask & (not no_target), mask.astype(np.float32), score, no_target).as_dict()


def write(out: Path, *lines: Line) -> Path:
    """Write results, and their images into images/."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    for line in lines:
        Image.new("RGB", (30, 20), "red").save(out / "images" / line["image"])
    rows = [{"width": 30, "height": 20, **line} for line in lines]
    (out / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return out


def test_what_is_kept(tmp_path: Path) -> None:
    """Masks from the score on; "nothing matches" up to 1 - score; no empty mask of a model that makes no decision."""
    answers = [
        answer("sure", 0.6),
        answer("unsure", 0.59),
        answer("surely none", 0.4, no_target=True),
        answer("perhaps none", 0.41, no_target=True),
        answer("empty", 0.9, mask=np.zeros_like(MASK)),
    ]
    out = write(tmp_path, {"image": "a.png", "results": answers}, {"image": "b.png", "results": answers[1:2]})
    counts = write_own_data(out, out / "images", 0.6)
    assert (counts.with_target, counts.without_target, counts.unsure, counts.empty) == (1, 1, 3, 1)
    assert (counts.train, counts.val) == (0, 1) or (counts.train, counts.val) == (1, 0)
    samples = [sample for split in read_dataset(out, "jsonl").samples.values() for sample in split]
    assert {sample.phrase: sample.has_target for sample in samples} == {"sure": True, "surely none": False}
    np.testing.assert_array_equal(samples[0].load_mask(), MASK)
    assert samples[0].image.path.samefile(out / "images" / "a.png")
    assert sum(json.loads(line).get("score") == 0.6 for line in (out / "train.jsonl").read_text().splitlines()) <= 1
    assert write_own_data(out, out / "images", 0).unsure == 0


def test_splits_are_by_image_and_stay(tmp_path: Path) -> None:
    """About a tenth is in val. More images move none of those before; two images are one in each."""
    lines = [{"image": f"{number}.png", "results": [answer("x", 0.9), answer("y", 0.9)]} for number in range(300)]
    names: dict[str, set[str]] = {}
    for count in (2, 200, 300):
        out = write(tmp_path / str(count), *lines[:count])
        counts = write_own_data(out, out / "images", 0.5)
        index = read_dataset(out, "jsonl")
        splits = {split: {sample.image.path.name for sample in samples} for split, samples in index.samples.items()}
        assert not splits["train"] & splits["val"]
        assert (len(splits["train"]), len(splits["val"])) == (counts.train, counts.val)
        assert all(len(samples) == 2 * len(splits[split]) for split, samples in index.samples.items())
        if count == 2:
            assert (counts.train, counts.val) == (1, 1)
        else:
            assert count / 20 < counts.val < count / 5
            assert all(kept <= splits[split] for split, kept in names.items())
            names = splits


def test_an_image_of_another_folder(tmp_path: Path) -> None:
    """Nothing is written, and what was there stays."""
    out = write(tmp_path, {"image": "a.png", "results": [answer("x", 0.9)]})
    (out / "train.jsonl").write_text("before")
    with pytest.raises(DataError, match=r"results\.jsonl has a\.png, which is not in .*: give --images as in the run"):
        write_own_data(out, out, 0.5)
    assert (out / "train.jsonl").read_text() == "before"


def test_the_three_commands(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    """Label, check, train; a photograph that its camera marks as turned is used upright; a second run adds images."""
    photos = tmp_path / "photos"
    photos.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.jpg", exif=exif if number % 2 else b"")
    label = (
        "segment-many",
        "--images",
        "photos",
        "--phrases",
        "the red circle",
        "--phrases",
        "star",
        "--device",
        "cpu",
    )
    label = (*label, "--no-target-threshold", 0, "--model", tiny_model_folder, "--format", "own-data")
    done = run(*label, "--out", "my_data", "--min-score", 0)
    assert done.code == 0, done.err
    assert "my_data/ has own data: 12 phrases with a mask and 0 without target; " in done.out
    samples = [s for split in ("train", "val") for s in open_dataset("my_data", "jsonl", split)]
    assert {sample.image.load().size for sample in samples} == {(60, 40), (40, 60)}
    assert all(sample.load_mask().shape == np.asarray(sample.image.load()).shape[:2] for sample in samples)
    Image.new("RGB", (50, 50)).save(photos / "6.jpg")
    assert "(6 images done before)" in run(*label, "--out", "my_data", "--min-score", 0).out
    checked = run("data", "check", "--data-root", "my_data", "--dataset", "jsonl", "--workers", 1)
    assert (checked.code, "Nothing wrong was found" in checked.out) == (0, True), checked.out
    shown = run(
        "data", "show", "--data-root", "my_data", "--dataset", "jsonl", "--split", "train", "--out", "sheet.png"
    )
    assert shown.code == 0
    trained = run(
        *("train", "own_data_tiny", "--set", "data.root=my_data", "--set", "data.image_size=64", "--set", "steps=2"),
        *("--set", "epochs=null", "--set", "data.workers=0", "--set", "data.validation_images=1", "--out", "runs/tiny"),
    )
    assert trained.code == 0, trained.err


def test_usage(run: Run, tmp_path: Path) -> None:
    """A score without its format, and files of somebody else."""
    done = run("segment-many", "--images", ".", "--phrases", "x", "--min-score", 0.5)
    assert (done.code, "--min-score belongs to --format own-data" in done.err) == (2, True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "val.jsonl").write_text("{}")
    Image.new("RGB", (50, 50)).save(tmp_path / "6.jpg")
    done = run("segment-many", "--images", ".", "--phrases", "x", "--format", "own-data", "--out", "mine")
    assert (done.code, "val.jsonl was not written by this command" in done.err) == (1, True)
    assert (tmp_path / "mine" / "val.jsonl").read_text() == "{}"
