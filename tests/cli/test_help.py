"""Help of every command: order, panels, completion, and options that are understood alone."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer.main

from refersam.cli import app
from refersam.cli.app import ANSWER_PANEL, DATA_PANEL, ORDER, SERVE_PANEL, TRAIN_PANEL
from refersam.cli.console import BATCH_SIZE, OUT

Run = Callable[..., SimpleNamespace]


def commands() -> Iterator[tuple[str, Any]]:
    """Name and command, without groups."""

    def below(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "commands"):
            yield name, command
        for each, inner in getattr(command, "commands", {}).items():
            yield from below(inner, f"{name} {each}".strip())

    yield from below(typer.main.get_command(app), "")


OPTIONS = [
    pytest.param(option, id=f"{name} {option.name}") for name, command in commands() for option in command.params
]


def test_commands_are_listed_in_the_order_of_use(run: Run) -> None:
    """In panels, each with its commands."""
    text = run("--help").out
    titles = [ANSWER_PANEL, TRAIN_PANEL, DATA_PANEL, SERVE_PANEL]
    places = [text.index(f" {title} ") for title in titles]
    assert places == sorted(places)
    listed = re.findall(r"^│ ([a-z][a-z-]+) ", text, re.MULTILINE)
    group: Any = typer.main.get_command(app)
    assert listed == [name for name in ORDER if name in group.commands]
    assert set(listed) == set(group.commands)
    of_data = re.findall(r"^│ ([a-z][a-z-]+) ", run("data", "--help").out, re.MULTILINE)
    assert of_data == ["prepare", "check", "show", "from-coco", "scenes"]


@pytest.mark.parametrize("option", OPTIONS)
def test_help_is_understood_alone(option: Any) -> None:
    """A sentence that names the thing first: a noun or a verb, not what is left of a longer sentence."""
    text = option.help or ""
    assert re.match(r"[A-Z][\w-]+[ :,]", text), text
    assert len(text.split()) > 1, text
    assert not re.match(r"(Of|For|In|At|That|Also|With|Without|Only|More|Most|Which|How|To|From|By) ", text), text


def test_what_a_model_may_be() -> None:
    """Every option that names one, and `info`, lists what is accepted, and what comes without it."""
    found = [(name, option) for name, command in commands() for option in command.params if option.name == "model"]
    assert len(found) == 9
    for name, option in found:
        assert "a folder" in option.help, name
        assert "a Hub id" in option.help, name
        assert "Without it: the bundled model." in option.help, name
        assert (".onnx" in option.help) == (not name.startswith("export ")), (
            name
        )  # an exported file is not exported again


def test_one_default() -> None:
    """Of --out where it may be left out, and of --batch-size, in the commands and in the library."""
    from refersam.bulk.run import BulkSettings
    from refersam.evaluate import evaluate_model
    from refersam.serving.settings import ServerSettings

    found = {name: command.params for name, command in commands()}
    outs = {name: option.default for name, options in found.items() for option in options if option.name == "out"}
    assert {name for name, default in outs.items() if default == OUT} == {
        "segment",
        "segment-many",
        "video",
        "evaluate",
    }
    assert outs["data show"] == OUT / "sheet.png"
    sizes = [option.default for options in found.values() for option in options if option.name == "batch_size"]
    sizes += [BulkSettings.batch_size, ServerSettings.batch_size]
    sizes += [inspect.signature(evaluate_model).parameters["batch_size"].default]
    assert sizes == [BATCH_SIZE] * 6


@pytest.mark.parametrize(("words", "found"), [("refersam seg", "segment segment-many"), ("refersam data sh", "show")])
def test_completion(words: str, found: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the script that --install-completion writes asks for it; without torch, or it would be slow."""
    monkeypatch.setenv("_REFERSAM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    code = "import sys; from refersam.cli import main\ntry: main()\nfinally: sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout.split()) == (0, found.split()), done.stderr


def test_completion_can_be_installed(run: Run) -> None:
    """The option is there."""
    assert "--install-completion" in run("--help").out
