"""Exit codes of every command: 2 after wrong usage, 1 after any other error, 130 after Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer.main

from refersam.cli import app

Run = Callable[..., SimpleNamespace]

IMAGE = str(Path(__file__).parents[2] / "examples" / "scene_1.png")
DATA = ["--data-root", "."]
TO_OUT = ["--out", "out"]
EXTRAS = {
    "demo": "gradio",
    "serve": "fastapi_offline",
    "video": "av",
    "export onnx": "onnx",
    "export openvino": "openvino",
}
"""Packages that the command itself needs, before anything can fail."""

USAGE: dict[str, list[list[str]]] = {
    "segment": [[], ["a.png"], ["a.png", ""], [IMAGE, "star", "--device", "tpu"], ["a.png", "star", "--nope"]],
    "segment-many": [
        ["--phrases", "star", *TO_OUT],  # without --images
        ["--images", ".", "--phrases", "", *TO_OUT],
        ["--images", ".", "--phrases", "star", "--phrases", "list.csv", *TO_OUT],
        ["--images", ".", "--phrases", "star", "--engine", "nope", *TO_OUT],
    ],
    "video": [["clip.mp4"], ["clip.mp4", ""], ["clip.mp4", "star", "--first", "3", "--last", "2"]],
    "info": [["--nope"], ["a", "b"]],
    "recipes": [["nope"], ["--copy", "a.yaml"], ["smoke", "--copy", "a.txt"]],
    "train": [
        ["smoke"],
        ["smoke", "--out", "run", "--set", "steps"],
        ["smoke", "--out", "run", "--set", "steps=0"],
        ["smoke", "--out", "run", "--set", "stepz=1"],
        ["smoke", "--out", "run", "--set", "data.dataset=nope", "--set", "data.root=."],
    ],
    "ablate": [
        ["ablations/tiny"],
        ["ablations/tiny", "--out", "runs", "--set", "seed=1"],
        ["ablations/tiny", "--out", "runs", "--set", "stepz=1"],
    ],
    "evaluate": [
        ["--dataset", "refcoco"],
        [*DATA, "--dataset", "nope", "--split", "val"],
        [*DATA, "--dataset", "refcoco", "--split", "val", "--split-by", "nope"],
        [*DATA, "--dataset", "refcoco", "--split", "val", "--protocol", "nope"],
        [*DATA, "--dataset", "refcoco", "--split", "val", "--text-field", "nope"],
    ],
    "data prepare": [[], [*DATA, "--dataset", "nope"]],
    "data check": [
        [*DATA, "--dataset", "nope"],
        [*DATA, "--dataset", "refcoco", "--split-by", "nope"],
        [*DATA, "--dataset", "jsonl", "--split-by", "unc"],
    ],
    "data show": [[*DATA, "--dataset", "nope", "--split", "val"], [*DATA, "--dataset", "mixed", "--split", "val"]],
    "data from-coco": [
        ["a.json", "b.csv", "--images", "."],
        ["a.json", "b.csv", "--images", ".", "--out", "a.txt"],
        ["a.json", "b.csv", "--out", "val.jsonl"],
    ],
    "data scenes": [[], ["--out", "data", "--split", "nope"]],
    "demo": [["--port", "70000"]],
    "serve": [["--port", "70000"], ["--api-key", ""]],
    "convert official": [["a.pth", "--out", "model"], ["a.pth", "--out", "model", "--preset", "nope"]],
    "export onnx": [[], ["--out", "model.txt"]],
    "export openvino": [[], ["--out", "x", "--calibration", "photos"]],
}
FAILURES: dict[str, list[str]] = {
    "segment": ["nowhere.png", "star"],
    "segment-many": ["--images", "nowhere", "--phrases", "star"],
    "video": ["nowhere.mp4", "star"],
    "info": ["nowhere"],
    "recipes": ["smoke", "--copy", "there.yaml"],
    "train": ["nowhere.yaml", "--out", "run"],
    "ablate": ["nowhere.yaml", "--out", "runs"],
    "evaluate": [*DATA, "--dataset", "refcoco", "--split", "val"],
    "data prepare": [*DATA, "--from", "nowhere"],
    "data check": ["--data-root", "nowhere", "--dataset", "refcoco"],
    "data show": [*DATA, "--dataset", "refcoco", "--split", "val"],
    "data from-coco": ["nowhere.json", "nowhere.csv", "--images", ".", "--out", "val.jsonl"],
    "data scenes": ["--out", "there.yaml"],
    "demo": ["--host", "192.0.2.1"],  # an address of no machine
    "serve": ["--host", "192.0.2.1"],
    "convert official": ["nowhere.pth", "--out", "model", "--preset", "base"],
    "export onnx": ["--model", "nowhere", "--out", "model.onnx"],
    "export openvino": ["--model", "nowhere", "--out", "exported"],
}
INTERRUPTED: dict[str, tuple[str, list[str]]] = {
    "segment": ("refersam.image.load_image", ["a.png", "star"]),
    "segment-many": ("refersam.bulk.items.open_items", ["--images", ".", "--phrases", "star"]),
    "video": ("refersam.video.reader.VideoReader.__init__", ["clip.mp4", "star"]),
    "info": ("refersam.inference.description.describe_model", []),
    "recipes": ("refersam.training.bundled.bundled_recipes", []),
    "train": ("refersam.cli.train.run_with_progress", ["smoke", "--out", "run"]),
    "ablate": ("refersam.training.ablation.run_suite", ["ablations/tiny", "--out", "runs"]),
    "evaluate": ("refersam.data.open_dataset", [*DATA, "--dataset", "refcoco", "--split", "val"]),
    "data prepare": ("refersam.data.prepare.missing_files", DATA),
    "data check": ("refersam.data.check.check_dataset", [*DATA, "--dataset", "refcoco"]),
    "data show": ("refersam.data.open_dataset", [*DATA, "--dataset", "refcoco", "--split", "val"]),
    "data from-coco": ("refersam.data.from_coco.convert_coco", FAILURES["data from-coco"]),
    "data scenes": ("sceneref.write_sceneref", ["--out", "data"]),
    "demo": ("refersam.cli.console.load_predictor", ["--port", "17860"]),
    "serve": ("refersam.serving.run.serve", ["--port", "0"]),
    "convert official": ("refersam.checkpoints.official.convert_official_checkpoint", FAILURES["convert official"]),
    "export onnx": ("refersam.checkpoints.folders.load_model", ["--out", "model.onnx"]),
    "export openvino": ("refersam.checkpoints.folders.load_model", ["--out", "exported"]),
}
"""What is stopped, and the arguments that lead there."""


def commands() -> Iterator[str]:
    """Name every command, groups before their own."""

    def below(command: Any, name: str) -> Iterator[str]:
        if not hasattr(command, "commands"):
            yield name
        for each, inner in getattr(command, "commands", {}).items():
            yield from below(inner, f"{name} {each}".strip())

    yield from below(typer.main.get_command(app), "")


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training prepares within a second."""
    from sceneref.training.source import SceneSource

    monkeypatch.setattr(SceneSource, "tokenizer_images", 5)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Commands set handlers for the life of their process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def skip_without_extra(command: str) -> None:
    if command in EXTRAS:
        pytest.importorskip(EXTRAS[command])


def test_the_tables_have_every_command() -> None:
    """A new command needs its rows."""
    assert set(commands()) == set(USAGE) == set(FAILURES) == set(INTERRUPTED)


@pytest.mark.parametrize(
    ("command", "arguments"), [(name, arguments) for name, rows in USAGE.items() for arguments in rows]
)
def test_wrong_usage(run: Run, command: str, arguments: list[str]) -> None:
    """Code 2; nothing is written."""
    skip_without_extra(command)
    result = run(*command.split(), *arguments)
    assert result.code == 2, result
    assert result.err
    assert "Traceback" not in result.err
    assert not list(Path().iterdir())


@pytest.mark.parametrize("command", FAILURES)
def test_other_errors(run: Run, command: str) -> None:
    """Code 1 and one sentence."""
    skip_without_extra(command)
    Path("there.yaml").write_text("steps: 1")
    result = run(*command.split(), *FAILURES[command])
    assert result.code == 1, result
    assert result.err.strip().startswith("Error: ")
    assert "Traceback" not in result.err
    assert list(Path().iterdir()) == [Path("there.yaml")]


@pytest.mark.parametrize("command", INTERRUPTED)
def test_ctrl_c(run: Run, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code 130, no traceback."""
    skip_without_extra(command)

    def stop(*_: object, **__: object) -> Any:
        raise KeyboardInterrupt

    target, arguments = INTERRUPTED[command]
    monkeypatch.setattr(target, stop)
    result = run(*command.split(), *arguments)
    assert result.code == 130, result
    assert "Traceback" not in result.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_signals_end_the_page(run: Run, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int) -> None:
    """gradio catches the interrupt itself; a page that a service manager ends has done its work."""
    pytest.importorskip("gradio")
    from refersam.web.page import Page

    def launch(**_options: object) -> None:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)

    monkeypatch.setattr("refersam.cli.console.load_predictor", lambda *_: SimpleNamespace(domain=None))
    monkeypatch.setattr(Page, "warm_up", lambda _: None)
    monkeypatch.setattr(
        "refersam.web.layout.build_page", lambda *_: SimpleNamespace(launch=launch, block_thread=lambda: None)
    )
    result = run("demo", "--port", 17860)
    assert result.code == code, result
