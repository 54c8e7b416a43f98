"""The whole command: results, stops, failures, and the same from Ray."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refersam import ReferSamPredictor
from refersam.bulk.items import Item
from refersam.bulk.run import BulkSettings, LocalEngine

Run = Callable[..., SimpleNamespace]
ASKED = ("--phrases", "the red circle", "--phrases", "star", "--no-target-threshold", 0)


@pytest.fixture(scope="module")
def predictor(tiny_model_folder: Path) -> ReferSamPredictor:
    """The random tiny model."""
    return ReferSamPredictor.from_pretrained(tiny_model_folder, device="cpu")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Seven images of different sizes, one of them broken."""
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(7):
        pixels = np.random.default_rng(index).integers(0, 256, (30 + index, 50 - index, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    content = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(content[: len(content) // 2])
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    """Of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_results_are_those_of_single_images(
    run: Run, images: Path, tiny_model_folder: Path, predictor: ReferSamPredictor, tmp_path: Path
) -> None:
    """In order; a broken image is reported at the end, with exit code 1, and stops nothing."""
    out = tmp_path / "out"
    arguments = ("--images", images, *ASKED, "--out", out, "--model", tiny_model_folder, "--format", "coco")
    (images / "notes.txt").touch()
    done = run("segment-many", *arguments)
    assert done.code == 1
    assert "Skipped: 1 file of other types (.txt: 1)" in done.out
    assert "1 image failed" in done.out
    assert "3.png is broken or cut off" in done.out
    results = rows(out / "results.jsonl")
    assert [row["image"] for row in results] == [f"{index}.png" for index in (0, 1, 2, 4, 5, 6)]
    assert [row["image"] for row in rows(out / "failures.jsonl")] == ["3.png"]
    for row in results:
        singles = predictor.predict(images / row["image"], ["the red circle", "star"], no_target_threshold=0)
        for result, single in zip(row["results"], singles, strict=True):
            assert result["phrase"] == single.phrase
            assert result["score"] == pytest.approx(single.score, abs=2e-4)
            assert abs(result["area"] - single.area) <= 2  # a batch may round in another way
            assert result["rle"]["size"] == [row["height"], row["width"]] == list(single.mask.shape)
    assert len(json.loads((out / "instances.json").read_text())["images"]) == 6

    before = (out / "results.jsonl").read_bytes()
    Image.new("RGB", (40, 30)).save(images / "3.png")
    again = run("segment-many", *arguments)
    assert (again.code, "6 images done before" in again.out) == (0, True)
    assert (out / "results.jsonl").read_bytes().startswith(before)
    assert rows(out / "results.jsonl")[-1]["image"] == "3.png"
    assert not (out / "failures.jsonl").exists()
    nothing_to_do = run("segment-many", *arguments)
    assert (nothing_to_do.code, "7 images done before" in nothing_to_do.out) == (0, True)


def test_a_kill_loses_nothing_and_repeats_nothing(
    run: Run, images: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """Killed while it works, then started again: the file that an undisturbed run writes, to the byte."""
    for index in range(7, 60):
        Image.new("RGB", (30, 30), (4 * index, 90, 200)).save(images / f"{index}.png")
    arguments = ["--images", images, *ASKED, "--model", tiny_model_folder, "--device", "cpu", "--batch-size", 2]
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    assert run("segment-many", *arguments, "--out", undisturbed).code == 1
    command = [sys.executable, "-m", "refersam", "segment-many", *arguments, "--out", out, "--format", "png"]
    work = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    part = out / "results.jsonl.part"
    end = time.monotonic() + 120
    while not (part.exists() and part.read_bytes().count(b"\n") >= 3):
        assert work.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.005)
    work.send_signal(signal.SIGKILL)
    work.wait()
    done_before = part.read_bytes().count(b"\n")
    assert 3 <= done_before < 59
    masks = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    finished = run("segment-many", *arguments, "--out", out, "--format", "png")
    assert f"({done_before} images done before)" in finished.out
    results, expected = rows(out / "results.jsonl"), rows(undisturbed / "results.jsonl")
    assert [row["image"] for row in results] == [row["image"] for row in expected]
    for row in results:
        for result in row["results"]:
            assert (out / result.pop("mask")).is_file()
    assert results == expected
    kept = [path for path, time_written in masks.items() if path.stat().st_mtime_ns == time_written]
    assert len(kept) >= 2 * done_before


def test_memory_holds_a_few_images(predictor: ReferSamPredictor, tmp_path: Path) -> None:
    """The source is read only as far ahead as the next batch needs."""
    Image.new("RGB", (30, 30)).save(tmp_path / "a.png")
    taken = 0

    def items() -> Any:
        nonlocal taken
        for index in range(1000):
            taken += 1
            yield Item(f"{index}", str(tmp_path / "a.png"), ("star",))

    lines = LocalEngine(predictor, BulkSettings(batch_size=2, workers=2))(items())
    for _ in range(6):
        next(lines)
    lines.close()  # type: ignore[attr-defined]
    assert taken <= 20


def test_many_phrases_run_in_parts(predictor: ReferSamPredictor, tmp_path: Path) -> None:
    """All are answered, in order; one batch or several give the same."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    items = [Item("a", str(tmp_path / "a.png"), tuple(f"{colour} star" for colour in ("red", "blue", "green")))]
    whole, parts = (
        next(LocalEngine(predictor, BulkSettings(batch_size=size, no_target_threshold=0))(items)) for size in (8, 2)
    )
    assert [result["phrase"] for result in parts["results"]] == list(items[0].phrases)
    assert [result["area"] for result in parts["results"]] == pytest.approx(
        [result["area"] for result in whole["results"]], abs=2
    )


def test_usage_errors_write_nothing(run: Run, tmp_path: Path) -> None:
    """Nothing to do, and what was done with other settings."""
    (tmp_path / "empty").mkdir()
    done = run("segment-many", "--images", "empty", "--phrases", "star", "--out", "out")
    assert (done.code, "No image was found in empty" in done.err) == (1, True)
    assert run("segment-many", "--images", "missing", "--phrases", "star", "--out", "out2").code == 1
    assert not (tmp_path / "out2").exists()
    listed = tmp_path / "instances.json"
    listed.write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "categories": [{"name": "star"}]}))
    before = listed.read_bytes()
    done = run("segment-many", "--phrases", listed, "--out", tmp_path, "--format", "coco")
    assert (done.code, "is what is read, and would be lost" in done.err, listed.read_bytes()) == (1, True, before)


def test_ctrl_c_says_how_to_go_on(
    run: Run, images: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No traceback."""

    def stop(*_: object, **__: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("refersam.bulk.run.run_queries", stop)
    done = run("segment-many", "--images", images, *ASKED, "--out", "out", "--model", tiny_model_folder)
    assert (done.code, "goes on with what is missing" in done.out, "Traceback" in done.err) == (130, True, False)


def test_without_ray_the_extra_is_named(run: Run, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence."""
    monkeypatch.setitem(sys.modules, "ray", None)
    done = run("segment-many", "--images", images, *ASKED, "--out", "out", "--engine", "ray")
    assert done.code == 1
    assert "--engine ray needs the package ray: run pip install '.[ray]' in a clone of the repository." in done.err


@pytest.mark.slow
def test_ray_writes_the_same_file(run: Run, images: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    """On a cluster of this machine's processes; to the byte, failures too."""
    pytest.importorskip("ray.data", reason="Ray is not installed: pip install '.[ray]'")
    arguments = ("--images", images, *ASKED, "--model", tiny_model_folder, "--device", "cpu", "--batch-size", 2)
    for engine in ("local", "ray"):
        done = run("segment-many", *arguments, "--out", engine, "--engine", engine, "--workers", 1)
        assert (done.code, "3.png is broken" in done.out) == (1, True)
    for name in ("results.jsonl", "failures.jsonl"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
