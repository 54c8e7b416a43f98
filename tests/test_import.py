"""`import refersam` is fast and has no side effects; names are loaded on first use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import refersam


def run_fresh(code: str, **variables: str) -> str:
    """The output of code in a new interpreter, with these variables of OpenMP alone."""
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment = kept | variables
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()


def test_import_loads_nothing_heavy_and_has_no_side_effects() -> None:
    """Neither torch nor transformers is loaded; logging, warnings, signals and all but one variable are unchanged."""
    code = """
import logging, os, signal, sys, threading, warnings
def state():
    root = logging.getLogger()
    return (dict(os.environ), list(root.handlers), root.level, list(warnings.filters), threading.active_count(),
            signal.getsignal(signal.SIGINT), list(sys.path), sys.excepthook)
before = state()
import refersam
assert os.environ.pop("GOMP_SPINCOUNT") == "1000"
assert state() == before, "import refersam changed the interpreter's state"
loaded = {name.split(".")[0] for name in sys.modules}
heavy = {"torch", "transformers", "numpy", "PIL", "safetensors", "tokenizers", "pydantic", "typer", "rich", "yaml"}
print(sorted(heavy & loaded))
"""
    assert run_fresh(code) == "[]"


@pytest.mark.parametrize(
    ("before", "variables", "expected"),
    [
        ("", {}, "1000"),
        ("import torch", {}, "None"),
        ("", {"GOMP_SPINCOUNT": "7"}, "7"),
        ("", {"OMP_WAIT_POLICY": "ACTIVE"}, "None"),
    ],
)
def test_idle_threads_of_openmp_sleep_soon(before: str, variables: dict[str, str], expected: str) -> None:
    """Set before torch reads it, for child processes too, unless the user has a setting."""
    code = f"{before}\nimport os, refersam\nprint(os.environ.get('GOMP_SPINCOUNT'))"
    assert run_fresh(code, **variables) == expected


def test_dir_and_version_load_nothing_heavy() -> None:
    """Listing the package does not load torch either."""
    code = """
import sys, refersam
assert set(refersam.__all__) <= set(dir(refersam))
assert refersam.__version__
print("torch" in sys.modules)
"""
    assert run_fresh(code) == "False"


def test_help_loads_nothing_heavy() -> None:
    """`refersam --help` and the help of every command are fast."""
    code = """
import contextlib, io, sys
from refersam.cli import main
from refersam.cli.app import app
commands = [command.name or command.callback.__name__ for command in app.registered_commands]
with contextlib.redirect_stdout(io.StringIO()) as out:
    for command in [], *([name] for name in commands):
        sys.argv = ["refersam", *command, "--help"]
        with contextlib.suppress(SystemExit):
            main()
assert "Usage" in out.getvalue() and len(commands) >= 5
heavy = {"torch", "transformers", "safetensors", "tokenizers", "fastapi", "av", "supervision", "gradio", "ray"}
print(sorted(heavy & {name.split(".")[0] for name in sys.modules}))
"""
    assert run_fresh(code) == "[]"


def test_without_what_windows_lacks(tmp_path: Path) -> None:
    """Every module can be imported, and a model can be trained, with a worker and a lock."""
    code = f"""
import builtins, importlib, os, pkgutil, signal, sys
import torch
from transformers import AutoConfig, BertModel, CLIPTextModel, SamModel
hidden = ("fcntl", "grp", "pwd", "resource", "termios", "tty")
really_import = builtins.__import__
def import_on_windows(name, globals=None, *rest):
    if name in hidden and (globals or {{}}).get("__name__", "").startswith("refersam"):
        raise ImportError(name)
    return really_import(name, globals, *rest)
builtins.__import__ = import_on_windows
for name in ("SIGUSR1", "SIGUSR2", "SIGKILL", "SIGHUP", "SIGQUIT", "SIGALRM", "pthread_sigmask", "alarm"):
    delattr(signal, name)
for name in ("killpg", "getpgid", "sched_getaffinity", "sysconf", "getuid", "geteuid", "nice"):
    delattr(os, name)
import refersam
skipped = ("ray_engine", "serving", "web", "__main__")  # Ray is not for Windows; the others need extras
for module in pkgutil.walk_packages(refersam.__path__, "refersam."):
    if not any(word in module.name for word in skipped):
        importlib.import_module(module.name)
from refersam.cli import main
from sceneref.training.source import SceneSource
from sceneref.training.validation import SceneValidation
SceneSource.tokenizer_images, SceneValidation.scene_size = 30, 64
sys.argv = ["refersam", "train", "recipe.yaml", "--out", "run"]
os.chdir({str(tmp_path)!r})
main()
"""
    (tmp_path / "recipe.yaml").write_text(
        "extension: sceneref.training\nsteps: 1\nbatch_size: 1\nlog_every: 1\nloss: {num_points: 64}\n"
        "data: {image_size: 32, phrases_per_image: 1, validation_images: 1, workers: 1}\n"
        "sceneref: {scene_sizes: [64]}\n"
    )
    assert "The model is in run/model/" in run_fresh(code)


@pytest.mark.parametrize("name", refersam.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """Each name of `__all__` can be imported."""
    value = getattr(refersam, name)
    assert isinstance(value, str) if name == "__version__" else callable(value)


def test_unknown_name_is_an_attribute_error() -> None:
    """The error contains the wrong name."""
    with pytest.raises(AttributeError, match="'ReferSamModell'"):
        refersam.ReferSamModell  # noqa: B018
