"""Recipes: YAML files with settings, which may extend other recipes, and changes by `--set a.b=c`."""

from __future__ import annotations

import copy
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from refersam.errors import did_you_mean, field_problem, shown
from refersam.training.bundled import find_recipe
from refersam.training.settings import ChangeError, SettingsError, TrainSettings


def read_settings(recipe: str | Path, changes: Sequence[str] = ()) -> TrainSettings:
    """Read a recipe (YAML file or bundled name), apply `changes` ("a.b=c", c in YAML) and check the settings.

    Args:
        recipe: YAML file, or the name of a recipe of the package. With `extends: other.yaml`, it inherits settings from
            another recipe, given by a path relative to its folder or by the name of a recipe of the package.
        changes: "a.b=c", with c in YAML.

    Raises:
        SettingsError: no such file, invalid YAML, unknown settings (with the nearest known name) or invalid values; all
            problems are reported at once.
        ChangeError: invalid changes of a valid recipe, or `steps` for a recipe with `epochs`.
    """
    wanted = [split_change(change) for change in changes]
    path = find_recipe(recipe)
    content = read_recipe(path)
    return change_settings(content, wanted, str(path))


def change_settings(
    content: dict[str, Any], changes: Sequence[tuple[str, Any]], where: str, changed: Iterable[str] = ()
) -> TrainSettings:
    """Apply changes to settings, and validate the result.

    Args:
        content: settings; changed in place.
        changes: names and values of `split_change`.
        where: start of the error message.
        changed: names of settings that already replaced those of a recipe.

    Raises:
        SettingsError: the settings are invalid without the changes.
        ChangeError: the changes are invalid.
    """
    before = set(_validate(content)[1]) if changes else set()
    try:
        for name, value in changes:
            apply_change(content, name, copy.deepcopy(value))
        return check_settings(content, where, {*changed, *dict(changes)})
    except SettingsError as error:
        after = set(_validate(content)[1])
        if not changes or (after and after <= before):
            raise
        raise ChangeError(str(error)) from error


def read_recipe(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a recipe's settings, merged with those of the recipe that it `extends`, without validation.

    Args:
        path: YAML file.
        below: recipes that extend this one.

    Raises:
        SettingsError: no such file, invalid YAML, or circular `extends`.
    """
    if path.resolve() in below:
        raise SettingsError(f"{path} extends itself, directly or through other recipes.")
    content = read_yaml(path)
    if "extends" not in content:
        return content
    base = content.pop("extends")
    if not isinstance(base, str):
        raise SettingsError(f"{path}: extends must name another recipe, but is {base!r}.")
    return _merged(read_recipe(find_recipe(base, path.parent), (*below, path.resolve())), content)


class _Loader(yaml.SafeLoader):
    """YAML loader with the scalars of YAML 1.2, which rejects duplicate settings.

    PyYAML follows YAML 1.1, in which `no`, `off`, `on` and `yes` are booleans, 1e-6 is a string and 2024-05-01 a date,
    and uses the last of duplicate settings.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_BOOL, _FLOAT, _TIMESTAMP = (f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "timestamp"))
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_BOOL, _TIMESTAMP)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    _FLOAT, re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)

_MOST_BYTES = 1 << 20
"""Maximum size of a YAML file of settings, so that other large files are not read completely."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file with a mapping.

    Raises:
        SettingsError: no such file, or no YAML mapping.
    """
    if path.is_dir():
        raise SettingsError(f"Expected a YAML file, but {path} is a folder.")
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise SettingsError(f"No such file: {path}.") from error
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > _MOST_BYTES:
        raise SettingsError(f"{path} is not a YAML file of settings: it has more than {_MOST_BYTES:,} bytes.")
    try:
        content = yaml.load(data.decode("utf-8"), _Loader)
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not a YAML file: expected UTF-8 text, but found other bytes.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}.") from error
    if content is None or content == {}:
        raise SettingsError(f"{path} is empty: expected a YAML mapping of settings, such as steps: 1000.")
    if not isinstance(content, dict):
        found = "a list" if isinstance(content, list) else shown(content)
        raise SettingsError(f"{path} must hold a YAML mapping of settings, such as steps: 1000, but holds {found}.")
    return content


def check_settings(content: dict[str, Any], where: str, changed: Container[str] = ()) -> TrainSettings:
    """Validate settings, and return them as their typed class.

    Args:
        content: settings.
        where: start of the error message.
        changed: names of the settings that replaced those of a recipe.

    Raises:
        SettingsError: unknown settings or invalid values, all at once; or `steps` for a recipe with `epochs`.
    """
    settings, problems = _validate(content)
    if settings is None:
        raise SettingsError(f"{where}: {'; '.join(problems)}")
    if settings.epochs is not None and "steps" in changed:
        raise SettingsError(f"{where} has epochs, which override steps: add --set epochs=null, or set epochs instead.")
    return settings


def changes_since(path: Path, settings: TrainSettings) -> list[str]:
    """Return the differences from the settings.yaml of a run, which an older version may have written.

    Args:
        path: path of settings.yaml.
        settings: current settings.

    Raises:
        SettingsError: the file cannot be read.
    """
    before = read_yaml(path)
    with suppress(ValidationError):  # a removed setting is reported as a change
        before = type(settings).model_validate(before).model_dump(mode="json")
    return changed_settings(before, settings.model_dump(mode="json"))


def changed_settings(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the differences in the order of the new settings, as "optimizer.learning_rate: 0.1 -> 0.2"."""
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
    """Return name and value of "a.b=c".

    Raises:
        ChangeError: another form, or c is not YAML.
    """
    name, separator, value = change.partition("=")
    if not separator or not name.strip().split(".")[-1]:
        raise ChangeError(f"Expected a change such as optimizer.learning_rate=0.001, but got {change!r}.")
    try:
        return name.strip(), yaml.load(value, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ChangeError(f"{change!r}: the value is not YAML: {' '.join(str(error).split())}.") from error


def apply_change(content: dict[str, Any], name: str, value: Any) -> None:
    """Set a value with the name "a.b" in nested settings.

    Raises:
        SettingsError: a part of the name is not a section.
    """
    *parents, last = name.split(".")
    section: Any = content
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            problem = "a list: set the whole list" if isinstance(section, list) else "not a section"
            raise SettingsError(f"{name}={value}: {parent!r} is {problem}.")
    section[last] = value


def _settings_type(content: dict[str, Any]) -> type[TrainSettings]:
    """Return the settings class of the extension that a recipe names."""
    from refersam.training.extension import load_extension

    name = content.get("extension")
    if name is not None and not isinstance(name, str):
        raise SettingsError(f"extension must be the import path of a module, but is {name!r}.")
    return load_extension(name).settings_type


def _validate(content: dict[str, Any]) -> tuple[TrainSettings | None, list[str]]:
    """Return the settings in their types, or None and everything that is wrong with them."""
    kind = TrainSettings
    try:
        kind = _settings_type(content)
        return kind.model_validate(content), []
    except ValidationError as error:
        return None, [_explain(detail, kind) for detail in error.errors()]
    except SettingsError as error:
        return None, [str(error)]


def _explain(detail: Any, kind: type[TrainSettings]) -> str:
    if detail["type"] != "extra_forbidden":
        return field_problem(detail)
    *parents, unknown = map(str, detail["loc"])
    sections: list[type[BaseModel]] = [kind]
    for part in parents:  # list indices and dictionary keys are not fields, and do not change the section
        fields = [section.model_fields[part] for section in sections if part in section.model_fields]
        sections = [inner for field in fields for inner in _sections_in(field.annotation)] or sections
    known = [name for section in sections for name in section.model_fields]
    return f"unknown setting {'.'.join([*parents, unknown])}{did_you_mean(unknown, known)}"


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Return the sections of an annotated type such as `list[StageSettings] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections_in(argument)
