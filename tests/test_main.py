"""Entry point: interruption before the command has started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

INTERRUPTED_IMPORT = """
import os, runpy, signal, sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == {name!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv = ["refersam", "segment", {image!r}, "star"]
runpy.run_module("refersam", run_name="__main__")
"""
SCENE = Path(__file__).parents[1] / "examples" / "scene_1.png"


@pytest.mark.parametrize("name", ["refersam.cli", "typer", "refersam.cli.segment", "refersam.image", "torch"])
def test_an_interruption_is_quiet(name: str, tmp_path: Path) -> None:
    """During the import of the command line, and during the imports of the command."""
    code = INTERRUPTED_IMPORT.format(name=name, image=str(SCENE))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert not list(tmp_path.iterdir())


def test_an_ignored_interruption_stays_ignored(tmp_path: Path) -> None:
    """As shells start background jobs."""
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    code += INTERRUPTED_IMPORT.format(name="typer", image="nowhere.png")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "No such file" in done.stderr


def test_the_installed_command_is_this_entry_point() -> None:
    """Of pyproject.toml."""
    scripts = tomllib.loads((SCENE.parents[1] / "pyproject.toml").read_text())["project"]["scripts"]
    module, function = scripts["refersam"].split(":")
    assert module == "refersam.__main__"
    assert callable(getattr(import_module(module), function))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
