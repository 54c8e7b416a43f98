"""`refersam recipes`: list, print, copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from refersam.training.bundled import bundled_recipes
from refersam.training.recipe import read_settings

Run = Callable[..., SimpleNamespace]


def test_list(run: Run) -> None:
    """A line for each, in the terminal's width; suites name their command."""
    result = run("recipes")
    assert (result.code, result.err) == (0, "")
    lines = {line.split()[1]: line for line in result.out.splitlines() if line.startswith("│")}
    known = bundled_recipes()
    assert list(lines) == list(known)
    for name, recipe in known.items():
        assert ("refersam ablate" in lines[name]) == recipe.is_suite
        assert recipe.description[:40] in lines[name]


def test_print(run: Run) -> None:
    """The file as it is."""
    result = run("recipes", "smoke")
    assert (result.code, result.out, result.err) == (0, bundled_recipes()["smoke"].text, "")


def test_copy(run: Run) -> None:
    """A file with the same settings elsewhere, which is never written over."""
    result = run("recipes", "refcoco/base", "--copy", "new/mine.yaml")
    assert result.code == 0, result.err
    assert "refersam train new/mine.yaml --out DIR" in result.out
    assert read_settings("new/mine.yaml") == read_settings("refcoco/base")
    Path("new/mine.yaml").write_text("steps: 3")
    again = run("recipes", "refcoco/base", "--copy", "new/mine.yaml")
    assert (again.code, again.err) == (1, "Error: new/mine.yaml exists already: name a new file with --copy.\n")
    assert Path("new/mine.yaml").read_text() == "steps: 3"
    assert "did you mean smoke" in run("recipes", "smoek").err
