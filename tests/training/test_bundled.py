"""Recipes of the package: found by name, described, copied."""

from __future__ import annotations

from pathlib import Path

import pytest

from refersam.training.ablation import read_suite
from refersam.training.bundled import RECIPES, BundledRecipe, bundled_recipes, find_recipe
from refersam.training.recipe import read_settings
from refersam.training.settings import SettingsError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three recipes and a suite; the working directory is empty."""
    folder = tmp_path / "package"
    (folder / "deep").mkdir(parents=True)
    (folder / "base.yaml").write_text("# What all\n# share. And more.\n\n# Not this.\nsteps: 7\n")
    (folder / "deep" / "large.yaml").write_text("# Large, at 1.5 times.\nextends: ../base.yaml  # beside\nseed: 3\n")
    (folder / "deep" / "larger.yaml").write_text("extends: large.yaml\nseed: 4\n")
    (folder / "suite.yaml").write_text("# Compared.\nrecipe: 'deep/large.yaml'\nruns: {one: {}}\n")
    monkeypatch.setattr("refersam.training.bundled.RECIPES", folder)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return folder


def test_recipes_by_name(package: Path) -> None:
    """Names are paths without suffix; folders come last."""
    known = bundled_recipes()
    assert list(known) == ["base", "suite", "deep/large", "deep/larger"]
    assert [each.description for each in known.values()] == ["What all share", "Compared", "Large, at 1.5 times", ""]
    assert [name for name, each in known.items() if each.is_suite] == ["suite"]
    assert read_settings("deep/larger").steps == 7
    assert list(read_suite("suite").runs) == [("one", seed) for seed in (0, 1, 2)]


def test_a_file_comes_first(package: Path) -> None:
    """A file of the same name has precedence, also one that extends a recipe of the package by name."""
    Path("base").write_text("extends: deep/large\nseed: 9")
    assert find_recipe("base") == Path("base")
    settings = read_settings("base")
    assert (settings.steps, settings.seed) == (7, 9)


def test_copies_work_elsewhere(package: Path) -> None:
    """A copy has the same settings; comments are kept."""
    for name, recipe in bundled_recipes().items():
        copy = Path(f"copy_of_{name.replace('/', '_')}.yaml")
        copy.write_text(recipe.to_copy())
        read = read_suite if recipe.is_suite else read_settings
        assert read(copy) == read(name)
    assert Path("copy_of_deep_large.yaml").read_text() == "# Large, at 1.5 times.\nextends: base  # beside\nseed: 3\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deep/larg", "No such recipe: deep/larg is neither .* did you mean deep/large. `refersam recipes` lists"),
        ("nothing like it", "neither a YAML file nor the name of a recipe of the package. `refersam recipes` lists"),
        ("deep/large.yaml", "No such file: deep/large.yaml. The package's recipe of this name is deep/large, without"),
        ("recipes/base.yml", "No such file: recipes/base.yml. The package's recipe of this name is base, without"),
        ("nowhere.yaml", "^No such file: nowhere.yaml.$"),
        ("../package/base", "No such recipe"),
        (".", "Expected a YAML file, but .* is a folder"),
    ],
)
def test_what_is_not_found(package: Path, name: str, message: str) -> None:
    """One sentence, with a suggestion."""
    with pytest.raises(SettingsError, match=message):
        read_settings(name)


@pytest.mark.parametrize("recipe", bundled_recipes().values(), ids=lambda recipe: recipe.name)
def test_published_recipes_can_be_listed_and_copied(recipe: BundledRecipe, tmp_path: Path) -> None:
    """Each starts with a description; a copy has the same settings."""
    assert len(recipe.description) > 10
    copy = tmp_path / "copy.yaml"
    copy.write_text(recipe.to_copy())
    read = read_suite if recipe.is_suite else read_settings
    assert read(copy) == read(RECIPES / f"{recipe.name}.yaml")
