"""README and docs: links resolve, every Python block runs, every command line is valid."""

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
import numpy as np
import pytest
import typer.main
from pycocotools import mask as coco_mask
from typer.testing import CliRunner

from refersam.cli import app
from refersam.data import open_dataset
from refersam.data.datasets import DATASETS
from refersam.metrics import PROTOCOLS
from refersam.training.ablation import read_suite
from refersam.training.bundled import bundled_recipes
from refersam.training.recipe import change_settings, read_settings, split_change
from refersam.training.settings import TrainSettings
from sceneref import SceneRefSettings, write_sceneref

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)")


def blocks() -> Iterator[tuple[str, str, str]]:
    """Return (page and line, language, text) of every fenced block."""
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

COPIES = {word for line in COMMANDS for word in re.findall(r"^refersam recipes \S+ --copy (\S+)", line.values[0])}
"""Files that commands in the pages create from a recipe."""
INLINE = [
    (page.name, " ".join(code.split()))
    for page in (*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md")
    for code in re.findall(r"`([^`]+)`", BLOCK.sub("", page.read_text()))
]
OTHERS_OPTIONS = ("--gpus", "--build-arg", "--no-deps", "--signal", "--multi_gpu", "--local-dir")
"""Options of docker, pip, Slurm, accelerate and hf."""


@pytest.mark.filterwarnings("ignore:OpenCV")
@pytest.mark.parametrize("texts", RUNS)
def test_python_blocks_run(texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page in order, in a folder with the examples, as in a checkout."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for text in texts:
        exec(compile(text, "a block", "exec"), names)


@pytest.mark.parametrize("text", COMPILES)
def test_other_python_blocks_compile(text: str) -> None:
    """Blocks that need unavailable weights or data."""
    compile(text, "a block", "exec")


def words_of(line: str) -> list[str]:
    """Return the words after "refersam" and before another program, without optional ones in brackets."""
    words = shlex.split(re.sub(r" \[[^\]]*\]", "", line), comments=True)
    words = [word for word in words[words.index("refersam") + 1 :] if word != "..."]
    return words[: next((i for i, word in enumerate(words) if word in ("|", ">", "&&", "&")), len(words))]


def find_command(words: list[str]) -> tuple[str, Any, list[str]]:
    """Return name and command or command group, and the remaining words."""
    command: Any = typer.main.get_command(app)
    names = []
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name, *words = words
        assert name in command.commands, f"there is no command {name}"
        command = command.commands[name]
        names.append(name)
    return " ".join(names), command, words


def check_values(name: str, values: dict[str, Any]) -> None:
    """Check that recipes, settings, data sets and protocols exist. Words in capitals are placeholders."""
    for option, known in (("dataset", DATASETS), ("protocol", PROTOCOLS)):
        assert values.get(option) in (None, *known), values
    given = values.get("recipe") or values.get("suite")
    if name in ("train", "ablate") and given:
        changes = [change for change in values["changes"] or () if "..." not in change]
        if given in bundled_recipes():
            (read_settings if name == "train" else read_suite)(given, changes)
        else:
            assert given.isupper() or given in COPIES, f"there is no recipe {given}"
            change_settings({}, [split_change(change) for change in changes], given)


@pytest.mark.parametrize("line", COMMANDS)
def test_command_lines_are_taken(line: str) -> None:
    """Command, options, arguments and values are parsed by the program; nothing is run."""
    name, command, words = find_command(words_of(line))
    if hasattr(command, "commands") or "--help" in words:
        command.make_parser(typer.Context(command)).parse_args(list(words))
        return
    if "..." in line:  # the form of a command, not a whole one
        options, left, _ = command.make_parser(typer.Context(command)).parse_args(list(words))
        assert not left
        check_values(name, {"changes": None, **{key: value for key, value in options.items() if value}})
        return
    with command.make_context("refersam", list(words)) as context:
        check_values(name, context.params)


def test_commands_in_sentences_are_taken() -> None:
    """Their options exist; required arguments may be missing."""
    found = 0
    for place, code in INLINE:
        if re.match(r"refersam [a-z-]", code):
            name, command, words = find_command(words_of(code))
            if words and any(words[-1] in each.opts and not each.is_flag for each in command.params):
                words.append("VALUE")  # the sentence is about the option
            options, left, _ = command.make_parser(typer.Context(command)).parse_args(list(words))
            assert not left, (place, code)
            check_values(name, {"changes": None, **{key: value for key, value in options.items() if value}})
            found += 1
    assert found > 10


def test_options_in_sentences_exist() -> None:
    """Options of a command, or of a program in benchmarks/ and tools/."""
    known = set(OTHERS_OPTIONS)
    commands: list[Any] = [typer.main.get_command(app)]
    for command in commands:  # grows while it is walked
        commands += getattr(command, "commands", {}).values()
        known |= {name for each in command.params for name in (*each.opts, *each.secondary_opts)} | {"--help"}
    for folder in ("benchmarks", "tools"):
        for path in (ROOT / folder).glob("*.py"):
            known |= set(re.findall(r"add_argument\(\s*\"(--[\w-]+)\"", path.read_text()))
    unknown = [(place, name) for place, code in INLINE for name in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)]
    assert not [each for each in unknown if each[1] not in known]


def test_names_in_sentences_exist() -> None:
    """Files of the repository, targets of make, recipes and suites."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    recipes = bundled_recipes()
    outputs = {line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}  # such as out, of make demo
    own = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")} - outputs
    folders = "|".join(sorted(own))
    missing = []
    for place, code in INLINE:
        for word in code.split():
            if re.fullmatch(rf"(?:{folders})/[\w/.+-]+|[a-z_.]+/[\w/+.-]+\.(?:py|md|yaml)", word) and not any(
                (folder / word).exists() for folder in (ROOT, ROOT / "refersam")
            ):
                missing.append((place, word))
        target = re.match(r"make ([a-z-]+)", code)
        if target and target[1] not in targets:
            missing.append((place, code))
    for page in PAGES:
        for name in re.findall(r"(?:[Rr]ecipe|[Ss]uite)s? `([\w+/]+)`", page.read_text()):
            if name not in recipes:
                missing.append((page.name, name))
    table = re.search(r"^\| recipe \|.*?\n\n", (ROOT / "docs" / "training.md").read_text(), re.MULTILINE | re.DOTALL)
    assert table is not None
    for row in table[0].strip().splitlines()[2:]:
        for name in re.findall(r"`([\w+/]+)`", row.split("|")[1]):
            if name.replace("DATASET", "refcoco") not in recipes:
                missing.append(("training.md", name))
    assert not missing


def test_own_data_trains(run: Any, tmp_path: Path) -> None:
    """The example of docs/own_data.md, with rendered scenes as own data."""
    write_sceneref(tmp_path / "scenes", "train", 3, 0, SceneRefSettings(width=64, height=64, phrases_per_scene=2))
    samples = open_dataset(tmp_path / "scenes", "sceneref", "train")
    lines = []
    for sample in samples:
        rle = coco_mask.encode(np.asfortranarray(sample.load_mask().astype(np.uint8)))
        target = {"rle": {"size": rle["size"], "counts": rle["counts"].decode()}} if sample.has_target else {}
        lines.append({"image": str(sample.image.path), "phrase": sample.phrase, **(target or {"no_target": True})})
    for split in ("train", "val"):
        path = tmp_path / "my_data" / f"{split}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (trial,) = [each.values[0] for each in COMMANDS if "own_data.md" in str(each.id) and "runs/trial" in each.values[0]]
    done = run(*words_of(trial))
    assert done.code == 0, done.err
    assert "The model is in runs/trial/model/" in done.out


# Neither data, nor a model of one's own, nor an extra is needed.
RUNNABLE = sorted(
    {
        parameter.values[0].partition(" #")[0].strip()
        for parameter in COMMANDS
        if re.match(r"refersam (--help|data prepare (?!.*--from)|segment examples/(?!.*--model))", parameter.values[0])
    }
)


def test_enough_is_found() -> None:
    """The searches above match the pages."""
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
    """Return the anchors of the headings, as generated by GitHub and mkdocs."""
    titles = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_links_lead_somewhere() -> None:
    """Pages, headings and images of the repository; pages of docs/ stay in docs/, which is the site."""
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
    """The table of the API page contains each setting of a recipe with its default."""
    page = docs_hooks.on_page_markdown((ROOT / "docs" / "api.md").read_text())
    rows = dict(re.findall(r"^\| `([a-z0-9_.\[\]]+)` \| `(.*?)` \| \S.+ \|$", page, re.MULTILINE))

    def leaves(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            if isinstance(value, dict) and value:
                yield from leaves(value, f"{before}{name}.")
            else:
                yield before + name, value

    defaults = dict(leaves(TrainSettings().model_dump(mode="json")))
    assert {name: json.loads(rows[name]) for name in defaults} == defaults
    page = docs_hooks.on_page_markdown((ROOT / "docs" / "sceneref.md").read_text())
    rows = dict(re.findall(r"^\| `([a-z0-9_.\[\]]+)` \| `(.*?)` \| \S.+ \|$", page, re.MULTILINE))
    assert json.loads(rows["sceneref.stages"]) == [{}]
    assert json.loads(rows["sceneref.stages[].difficulty"]) == 1.0
    assert json.loads(rows["sceneref.pretraining[].steps"]) == 6000


@pytest.mark.slow
def test_site_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """Built strictly, as `make docs` does; no script, style, font or image is loaded from another host."""
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
