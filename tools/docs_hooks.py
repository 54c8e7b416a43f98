"""Preprocessing of Markdown pages for mkdocs (`hooks` in mkdocs.yml)."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

MARKED = re.compile(r"^(?P<start> *```)(?:python (?P<not_run>no-run)|json lines)$", re.MULTILINE)
SETTINGS = "<!-- training settings -->"
SCENEREF_SETTINGS = "<!-- sceneref settings -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Rewrite fence markers that superfences does not support, and insert the tables of settings.

    `python no-run` marks code that tests compile but do not run; it becomes a title. `json lines` becomes `json`.
    """

    def rewrite(match: re.Match[str]) -> str:
        if match["not_run"]:
            return f'{match["start"]}python title="Needs a model, data or a server of your own"'
        return f"{match['start']}json"

    markdown = MARKED.sub(rewrite, markdown)
    if SETTINGS in markdown:
        from refersam.training.settings import TrainSettings

        markdown = markdown.replace(SETTINGS, settings_table(TrainSettings))
    if SCENEREF_SETTINGS in markdown:
        from sceneref.training.settings import SceneRefSection

        markdown = markdown.replace(SCENEREF_SETTINGS, settings_table(SceneRefSection, "sceneref."))
    return markdown


def settings_table(section: type[BaseModel], prefix: str = "") -> str:
    """Return a Markdown table of the settings of a section: name, default, description."""
    rows = [
        f"| `{name}` | {f'`{default}`' if default else ''} | {meaning} |"
        for name, default, meaning in settings(section, prefix)
    ]
    return "\n".join(["| setting | default | |", "|---|---|---|", *rows])


def settings(section: type[BaseModel], before: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (dotted name, default as in a recipe, description) of each setting, nested sections last.

    An optional nested section or a list of sections is also a setting itself.
    """
    nested = []
    for name, field in section.model_fields.items():
        inner = next((part for part in _parts(field.annotation) if issubclass(part, BaseModel)), None)
        if inner is None or field.annotation is not inner:
            default = field.get_default(call_default_factory=True)
            yield before + name, _as_recipe(default), (field.description or "").replace("|", "\\|")
        if inner is not None:
            is_list = typing.get_origin(field.annotation) is list
            nested.append((inner, f"{before}{name}{'[]' if is_list else ''}."))
    for inner, start in nested:
        yield from settings(inner, start)


def _parts(annotation: Any) -> Iterator[type]:
    """Yield the classes in a type annotation."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _parts(part)


def _as_recipe(default: Any) -> str:
    return json.dumps(default, default=lambda part: part.model_dump(exclude_defaults=True))
