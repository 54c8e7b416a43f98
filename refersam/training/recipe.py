"""Recipes: YAML files with settings, that may extend one another, changed by `--set a.b=c`."""

from __future__ import annotations

import copy
from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from refersam.errors import did_you_mean, field_problem
from refersam.training.bundled import find_recipe
from refersam.training.settings import ChangeError, SettingsError, TrainSettings


def read_settings(recipe: str | Path, changes: Sequence[str] = ()) -> TrainSettings:
    """Read a recipe.

    Args:
        recipe: YAML file, or the name of a recipe of the package. `extends: other.yaml` in it takes what it does not
            set from another one: a path that starts from its folder, or the name of a recipe of the package.
        changes: "a.b=c", c in YAML.

    Raises:
        SettingsError: no such file, not YAML, unknown keys (with the nearest known one), wrong values: all at once.
        ChangeError: the same of `changes` to a recipe that is valid; or steps of a recipe that counts epochs.
    """
    wanted = [split_change(change) for change in changes]
    path = find_recipe(recipe)
    content = read_recipe(path)
    return change_settings(content, wanted, str(path))


def change_settings(
    content: dict[str, Any], changes: Sequence[tuple[str, Any]], where: str, changed: Iterable[str] = ()
) -> TrainSettings:
    """Put changes into settings, and check them.

    Args:
        content: all that is set; changed in place.
        changes: names and values of `split_change`.
        where: begins the error's sentence.
        changed: names of settings that were put over those of a recipe before.

    Raises:
        SettingsError: the settings are wrong without the changes.
        ChangeError: the changes are wrong.
    """
    before = set(_problems(content)) if changes else set()
    try:
        for name, value in changes:
            apply_change(content, name, copy.deepcopy(value))
        return check_settings(content, where, {*changed, *dict(changes)})
    except SettingsError as error:
        after = set(_problems(content))
        if not changes or (after and after <= before):
            raise
        raise ChangeError(str(error)) from error


def read_recipe(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe's own settings over those of the recipe that it `extends`, not yet checked.

    Args:
        path: YAML file.
        below: recipes that extend it.

    Raises:
        SettingsError: no such file, not YAML, or a circle of recipes.
    """
    if path.resolve() in below:
        raise SettingsError(f"{path} extends itself, by way of other recipes.")
    content = read_yaml(path)
    base = content.pop("extends", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise SettingsError(f"{path}: extends must name another recipe, but is {base!r}.")
    return _merged(read_recipe(find_recipe(base, path.parent), (*below, path.resolve())), content)


class _Loader(yaml.SafeLoader):
    """Refuses a setting that is given twice, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds things by name.

    Raises:
        SettingsError: no such file, or not that.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}
    except FileNotFoundError as error:
        raise SettingsError(f"No such file: {path}.") from error
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path} must hold settings by name, but holds a {type(content).__name__}.")
    return content


def check_settings(content: dict[str, Any], where: str, changed: Container[str] = ()) -> TrainSettings:
    """Settings with their types.

    Args:
        content: all that is set.
        where: begins the error's sentence.
        changed: names of the settings that were put over those of a recipe.

    Raises:
        SettingsError: unknown keys or wrong values, all at once; or steps put over a recipe that counts epochs.
    """
    try:
        settings = TrainSettings.model_validate(content)
    except ValidationError as error:
        raise SettingsError(f"{where}: " + "; ".join(_explain(detail) for detail in error.errors())) from error
    if settings.epochs is not None and "steps" in changed:
        raise SettingsError(f"{where} counts epochs, not steps: add --set epochs=null, or set epochs instead.")
    return settings


def changes_since(path: Path, settings: TrainSettings) -> list[str]:
    """What differs from the settings.yaml of a run, which an older version may have written without a newer setting.

    Args:
        path: of settings.yaml.
        settings: the present ones.

    Raises:
        SettingsError: it cannot be read.
    """
    before = read_yaml(path)
    with suppress(ValidationError):  # a setting that is no more: then it is one of the changes
        before = TrainSettings.model_validate(before).model_dump(mode="json")
    return changed_settings(before, settings.model_dump(mode="json"))


def changed_settings(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs, in the order of the new settings, as "optimizer.learning_rate: 0.1 -> 0.2"."""
    changes = []
    for name in dict.fromkeys([*new, *old]):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict) and prefix + name != "model.config":
            changes += changed_settings(before, after, f"{prefix}{name}.")
        elif before != after:
            changes.append(f"{prefix}{name}: {before} -> {after}")
    return changes


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        inner = merged.get(name)
        merged[name] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def split_change(change: str) -> tuple[str, Any]:
    """Name and value of "a.b=c".

    Raises:
        ChangeError: it does not look like that, or c is not YAML.
    """
    name, separator, value = change.partition("=")
    if not separator or not name.strip().split(".")[-1]:
        raise ChangeError(f"A change must look like optimizer.learning_rate=0.001, but got {change!r}.")
    try:
        return name.strip(), yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ChangeError(f"{change!r}: the value is not YAML: {' '.join(str(error).split())}.") from error


def apply_change(content: dict[str, Any], name: str, value: Any) -> None:
    """Put a value at "a.b" into nested settings.

    Raises:
        SettingsError: a part of the name is no section.
    """
    *parents, last = name.split(".")
    section: Any = content
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            problem = "a list here: give it as a whole" if isinstance(section, list) else "not a section"
            raise SettingsError(f"{name}={value}: {parent!r} is {problem}.")
    section[last] = value


def _problems(content: dict[str, Any]) -> list[str]:
    try:
        TrainSettings.model_validate(content)
    except ValidationError as error:
        return [_explain(detail) for detail in error.errors()]
    return []


def _explain(detail: Any) -> str:
    if detail["type"] != "extra_forbidden":
        return field_problem(detail)
    section: Any = TrainSettings
    for part in detail["loc"][:-1]:
        if isinstance(part, str):
            annotation = section.model_fields[part].annotation
            section = getattr(annotation, "__args__", (annotation,))[0]
    name = ".".join(map(str, detail["loc"]))
    return f"unknown setting {name}{did_you_mean(str(detail['loc'][-1]), section.model_fields)}"
