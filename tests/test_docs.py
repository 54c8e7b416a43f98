"""README and docs: links lead somewhere, every Python block runs, every command line is one that the program takes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docs_hooks
import pytest
import typer.main
from typer.testing import CliRunner

from refersam.cli import app
from refersam.training.settings import TrainSettings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)")


def blocks() -> Iterator[tuple[str, str, str]]:
    """(page and line, language, text) of every fenced block."""
    for page in PAGES:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            indent = match[1]
            lines = [line.removeprefix(indent) for line in match[3].splitlines()]
            yield f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}", match[2].strip(), "\n".join(lines)


ALL = list(blocks())
RUNS = [
    pytest.param(
        [text for place, language, text in ALL if language == "python" and place.startswith(page.name)], id=page.name
    )
    for page in PAGES
    if page.name != "export.md"  # it needs an exported file: tests/export runs it
]
COMPILES = [pytest.param(text, id=place) for place, language, text in ALL if language == "python no-run"]
COMMANDS = [
    pytest.param(line, id=place)
    for place, language, text in ALL
    if language in ("", "bash", "sh", "console")
    for line in text.replace("\\\n", " ").splitlines()
    if re.search(r"(^|-m )refersam ", line)
]


@pytest.mark.filterwarnings("ignore:OpenCV")
@pytest.mark.parametrize("texts", RUNS)
def test_python_blocks_run(texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page's one after the other, from a folder with the examples in it, as from the checkout."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for text in texts:
        exec(compile(text, "a block", "exec"), names)


@pytest.mark.parametrize("text", COMPILES)
def test_other_python_blocks_compile(text: str) -> None:
    """Those that need weights or data which are not there."""
    compile(text, "a block", "exec")


@pytest.mark.parametrize("line", COMMANDS)
def test_command_lines_are_taken(line: str) -> None:
    """Command, options and arguments are parsed by the program itself; nothing is run."""
    words = shlex.split(line, comments=True)
    start = next(index for index, word in enumerate(words) if word == "refersam")
    words = [word for word in words[start + 1 :] if word != "..." and word[:1] != "[" and word[-1:] != "]"]
    words = words[: next((i for i, word in enumerate(words) if word in ("|", ">", "&&", "&")), len(words))]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name, *words = words
        assert name in command.commands, f"there is no command {name}"
        command = command.commands[name]
    context = command.context_class(command, info_name="refersam", resilient_parsing=False)
    if "..." in line:  # the form of a command, not a whole one
        return
    options, left, _ = command.make_parser(context).parse_args(list(words))
    if "--help" in words:
        return
    required = [parameter.name for parameter in command.params if parameter.required]
    assert not [name for name in required if not options.get(name)]
    assert not left


# Neither data, nor a model of one's own, nor an extra is needed.
RUNNABLE = sorted(
    {
        parameter.values[0].partition(" #")[0].strip()
        for parameter in COMMANDS
        if re.match(r"refersam (--help|data prepare (?!.*--from)|segment examples/(?!.*--model))", parameter.values[0])
    }
)


def test_enough_is_found() -> None:
    """The searches above see the pages."""
    assert len(COMPILES) > 4
    assert len(COMMANDS) > 30
    assert len(RUNNABLE) > 1


@pytest.mark.parametrize("line", RUNNABLE)
def test_command_lines_run(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, shlex.split(line)[1:])
    assert result.exit_code == 0, (result.output, result.exception)
    assert result.output.strip()


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub and mkdocs make them."""
    titles = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_links_lead_somewhere() -> None:
    """Pages, headings and pictures of the repository; pages of docs/ stay in docs/, which is the site."""
    broken = []
    for page in PAGES:
        text = BLOCK.sub("", page.read_text())
        for match in LINK.finditer(text):
            target, anchor = match[1], match[2]
            if "://" in target or target.startswith("mailto:"):
                continue
            place = (page.parent / target).resolve() if target else page
            outside = page.parent.name == "docs" and not place.is_relative_to(ROOT / "docs")
            if outside or not place.exists() or (anchor and anchor not in anchors(place)):
                broken.append(f"{page.name}: {match[0][2:-1]}")
    assert not broken, broken


def test_the_site_shows_every_page() -> None:
    """Each page of docs/ is in the navigation."""
    listed = set(re.findall(r"([a-z_]+\.md)", (ROOT / "mkdocs.yml").read_text()))
    assert {page.name for page in PAGES[1:]} == listed


def test_every_setting_is_in_the_table() -> None:
    """Of the page on the API: each name that a recipe has, with the default that a recipe without it gets."""
    page = docs_hooks.on_page_markdown((ROOT / "docs" / "api.md").read_text())
    rows = dict(re.findall(r"^\| `([a-z0-9_.\[\]]+)` \| `(.*?)` \| \S.+ \|$", page, re.MULTILINE))

    def leaves(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            if isinstance(value, dict) and value:
                yield from leaves(value, f"{before}{name}.")
            elif name != "stages":  # a list of sections
                yield before + name, value

    defaults = dict(leaves(TrainSettings().model_dump(mode="json")))
    assert {name: json.loads(rows[name]) for name in defaults} == defaults
    assert json.loads(rows["data.stages"]) == [{}]
    assert json.loads(rows["data.stages[].difficulty"]) == 1.0
    assert json.loads(rows["pretraining[].steps"]) == 6000


@pytest.mark.slow
def test_site_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """Built strictly, as `make docs` does; no script, style, font or picture has an address outside."""
    pytest.importorskip("mkdocs")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) >= len(PAGES)
    assert not [page for page in pages if "```" in re.sub(r"<[^>]*>", "", page.read_text())], "a fence that is not read"
    for page in pages:
        tags = re.findall(r"<(?:script|img|iframe|source|link)\b[^>]*>", page.read_text())
        loading = [tag for tag in tags if not re.search(r"rel=\"?(?:canonical|prev|next|edit)", tag)]
        assert loading
        assert not [tag for tag in loading if re.search(r"(?:src|href)=[\"']?(?:https?:)?//", tag)], page
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", style.read_text()), style
