"""The published package: the wheel outside of the checkout, its extras, the container image."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import refersam

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def start(*arguments: str, folder: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with another folder before the installed packages."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel built from the files tracked by git."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for file in (ROOT / "refersam").rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            target = source / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check", "--no-index"]
    done = start("-m", "pip", "wheel", *options, "--wheel-dir", str(folder), str(source), folder=folder)
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_what_is_needed_and_nothing_else(wheel: Path) -> None:
    """Code, bundled checkpoint, recipes, the report's page, the licence."""
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {"refersam", f"refersam-{refersam.__version__}.dist-info"}
    expected = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "refersam").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {name for name in names if name.startswith("refersam/")} == expected
    assert any(name.startswith("refersam/recipes/") for name in names)
    assert f"refersam-{refersam.__version__}.dist-info/licenses/LICENSE" in names


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_the_wheel_segments_from_outside_of_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """With the bundled model; its recipes are found by name."""
    installed = tmp_path / "installed"
    options = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    done = start("-m", "pip", "install", *options, "--target", str(installed), str(wheel), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    where = start("-c", "import refersam; print(refersam.__file__)", folder=tmp_path, path=installed)
    assert Path(where.stdout.strip()).is_relative_to(installed), where
    command = ["segment", str(ROOT / "examples" / "scene_1.png"), "the orange star", "--device", "cpu", "--json"]
    done = start("-m", "refersam", *command, folder=tmp_path, path=installed)
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)
    assert answer["phrase"] == "the orange star"
    done = start("-m", "refersam", "recipes", "refcoco/base", "--copy", "mine.yaml", folder=tmp_path, path=installed)
    assert done.returncode == 0, done.stderr
    for recipe in ("mine.yaml", "smoke"):
        code = f"from refersam.training.recipe import read_settings; read_settings({recipe!r})"
        done = start("-c", code, folder=tmp_path, path=installed)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / answer["mask"]).is_file()


def test_every_extra_that_an_error_names_is_declared() -> None:
    """`dev` contains all requirements of the tests, in the versions of constraints.txt."""
    extras = PROJECT["optional-dependencies"]
    named = set()
    for file in [*(ROOT / "refersam").rglob("*.py"), *ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        named |= set(re.findall(r"(?:refersam|['\"]\.)\[(\w+)\]", file.read_text()))
        named |= set(re.findall(r"""require\([^,()]+, "(\w+)",""", file.read_text()))
    assert named
    assert named <= set(extras)
    pinned = {_name(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    needed = {_name(requirement) for requirement in [*PROJECT["dependencies"], *extras["dev"]]}
    assert needed <= pinned


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=;~! ]", requirement)[0].lower().replace("-", "_")


def test_constraints_are_in_order() -> None:
    """So that concurrent additions conflict."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()[1:]
    assert lines == sorted(lines, key=str.lower)


def test_the_image_is_made_of_what_is_there() -> None:
    """Every source exists and is not ignored; the user is not root, and the health check matches the server."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    assert sources == allowed
    assert all((ROOT / source).exists() for source in sources)
    assert re.search(r"^USER (?!root|0)\w+$", dockerfile, re.MULTILINE)
    health = re.search(r"http://127\.0\.0\.1:8000(/\w+)", dockerfile)
    assert health is not None
    assert f'@app.get("{health[1]}"' in (ROOT / "refersam" / "serving" / "app.py").read_text()
    assert ".[serve]" in dockerfile


def test_citation() -> None:
    """Valid YAML with the required fields and this version."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
    assert str(citation["version"]) == refersam.__version__
    assert citation["preferred-citation"]["doi"] == "10.1109/TCSVT.2024.3524543"


def test_changelog_knows_this_version() -> None:
    """Or an unreleased section."""
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## \[Unreleased\]$", text, re.MULTILINE) or f"## [{refersam.__version__}]" in text
