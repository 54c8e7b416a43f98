"""Recipes and suites of the package, by name: "smoke", "refcoco/base", "ablations/tiny"."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from refersam.errors import did_you_mean
from refersam.training.settings import SettingsError

RECIPES = Path(__file__).parents[1] / "recipes"
SUFFIX = ".yaml"

_REFERENCE = re.compile(r"^(extends|recipe):([ \t]*)([^\s#]+)", re.MULTILINE)
"""The line of a recipe or suite that names another recipe."""


@dataclass(frozen=True)
class BundledRecipe:
    """A recipe or suite of the package; its name is the path below the package's recipes without suffix."""

    name: str
    path: Path
    text: str

    @property
    def description(self) -> str:
        """First sentence of the comment at the start of the file; empty without comment."""
        lines: list[str] = []
        for line in self.text.splitlines():
            if not line.startswith("#"):
                break
            lines.append(line.removeprefix("#").strip())
        return re.split(r"(?<=[.])\s+(?=[A-Z\d])", " ".join(lines), maxsplit=1)[0].rstrip(".")

    @property
    def is_suite(self) -> bool:
        """Whether the file is a suite for `refersam ablate`, not a recipe for `refersam train`."""
        return re.search(r"^runs:", self.text, re.MULTILINE) is not None

    def to_copy(self) -> str:
        """Return the content for a copy in another folder, with references to other recipes by name."""

        def by_name(match: re.Match[str]) -> str:
            target = Path(os.path.normpath(self.path.parent / match[3].strip("'\"")))
            name = target.relative_to(RECIPES).with_suffix("").as_posix() if target.is_file() else match[3]
            return f"{match[1]}:{match[2]}{name}"

        return _REFERENCE.sub(by_name, self.text)


def bundled_recipes() -> dict[str, BundledRecipe]:
    """Return the recipes and suites of the package by name, in alphabetical order, folders last."""
    paths = sorted(RECIPES.rglob(f"*{SUFFIX}"), key=lambda path: (path.parent != RECIPES, path))
    names = {path.relative_to(RECIPES).with_suffix("").as_posix(): path for path in paths}
    return {name: BundledRecipe(name, path, path.read_text(encoding="utf-8")) for name, path in names.items()}


def find_recipe(recipe: str | Path, folder: Path = Path()) -> Path:
    """Return the path of a recipe or suite: a YAML file relative to `folder`, else a bundled recipe of that name.

    Args:
        recipe: path of a YAML file, or the name of a recipe of the package; an existing file has precedence.
        folder: base folder of relative paths.

    Returns:
        An existing file, or a path that ends in .yaml or .yml and does not exist.

    Raises:
        SettingsError: no file, and no recipe of that name.
    """
    path = folder / recipe
    if path.is_file():
        return path
    name = str(recipe)
    known = bundled_recipes()
    if name in known:
        return known[name].path
    if path.is_dir():
        raise SettingsError(f"Expected a YAML file, but {path} is a folder.")
    if path.suffix in (SUFFIX, ".yml"):
        bare = path.with_suffix("").as_posix()
        near = max((each for each in known if f"/{bare}".endswith(f"/{each}")), key=len, default=None)
        if near is None:
            return path
        raise SettingsError(f"No such file: {path}. The package's recipe of this name is {near}, without .yaml.")
    raise SettingsError(
        f"No such recipe: {name} is neither a YAML file nor the name of a recipe of the package"
        f"{did_you_mean(name, known) or '.'} `refersam recipes` lists the names."
    )
