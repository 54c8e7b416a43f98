"""Extensions: import by name, errors, and the example of the documentation."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from refersam.data import open_dataset
from refersam.training.extension import Extension, load_extension
from refersam.training.recipe import read_settings
from refersam.training.settings import SettingsError, TrainSettings
from refersam.training.trainer import Trainer
from sceneref import SceneRefSettings, write_sceneref

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
MODULE = "extension_of_a_test"


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Call with source code and a name to write an importable module and a recipe."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)

    def write(text: str, name: str = MODULE) -> Path:
        (folder / f"{name}.py").write_text(text)
        path = tmp_path / "recipe.yaml"
        path.write_text(f"extension: {name}\ndata: {{root: x}}\n")
        return path

    yield write
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(str(sys.modules[name].__file__)).parent == folder:
            del sys.modules[name]


def test_without_a_name() -> None:
    """A recipe without extension trains on a data set."""
    extension = load_extension(None)
    assert type(extension) is Extension
    assert extension.settings_type is TrainSettings
    with pytest.raises(SettingsError, match=r"^data\.root is missing: set it to the folder of the data sets"):
        extension.open_source(TrainSettings())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"{MODULE} must have an instance of refersam.training.Extension called 'extension', but has none."),
        ("extension = 3", f"{MODULE} must have an instance of .* called 'extension', but it is of type int."),
        (
            "from refersam.training import Extension\nextension = Extension",
            f"{MODULE} must have an instance of .* called 'extension', but it is of type type.",
        ),
        ("raise ValueError('not\\ntoday')", f"importing '{MODULE}' failed: ValueError: not today"),
        ("1 / 0", f"importing '{MODULE}' failed: ZeroDivisionError: division by zero"),
        ("def f(:", f"importing '{MODULE}' failed: SyntaxError: "),
        ("from refersam.training import Extention", f"importing '{MODULE}' failed: ImportError: cannot import name"),
        ("import no_such_module_either", f"cannot import '{MODULE}': no module named 'no_such_module_either'."),
    ],
)
def test_modules_that_are_refused(text: str, message: str, write_module: Callable[..., Path]) -> None:
    """One sentence that starts with the path of the recipe, raised when the recipe is read."""
    path = write_module(text)
    with pytest.raises(SettingsError, match=rf"^{re.escape(str(path))}: extension: {message}") as caught:
        read_settings(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no_such_module",
            "extension: cannot import 'no_such_module': no module named 'no_such_module'. Install it, or",
        ),
        ("sceneref.nothing", "extension: cannot import 'sceneref.nothing': no module named 'sceneref.nothing'."),
        (".relative", "extension: importing '.relative' failed: "),
        ("''", "extension: importing '' failed: "),
        ("3", "extension must be the import path of a module, but is 3"),
        ("[a, b]", r"extension must be the import path of a module, but is \['a', 'b'\]"),
    ],
)
def test_names_that_are_refused(name: str, message: str, tmp_path: Path) -> None:
    """One sentence."""
    path = tmp_path / "recipe.yaml"
    path.write_text(f"extension: {name}\ndata: {{root: x}}\n")
    with pytest.raises(SettingsError, match=message) as caught:
        read_settings(path)
    assert "\n" not in str(caught.value)


SECTIONS = """
from pydantic import Field
from refersam.training import Extension, Section, TrainSettings

class Part(Section):
    width: int = 3

class Own(Section):
    weight: float = Field(1.0, ge=0)
    part: Part = Part()
    parts: list[Part] = []
    perhaps: Part | None = None
    named: dict[str, Part] = {}

class Settings(TrainSettings):
    own: Own = Own()

class MyExtension(Extension):
    settings_type = Settings

extension = MyExtension()
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("own.wait=1", "unknown setting own.wait, did you mean weight?"),
        ("own.part.widht=1", "unknown setting own.part.widht, did you mean width?"),
        ("own.parts=[{}, {widht: 1}]", "unknown setting own.parts.1.widht, did you mean width?"),
        ("own.perhaps={widht: 1}", "unknown setting own.perhaps.widht, did you mean width?"),
        ("own.named={a: {widht: 1}}", "unknown setting own.named.a.widht, did you mean width?"),
        ("onw={}", "unknown setting onw, did you mean own?"),
        ("own.weight=-1", "own.weight should be greater than or equal to 0, but is -1"),
        ("batch_sise=3", "unknown setting batch_sise, did you mean batch_size?"),
    ],
)
def test_settings_of_an_extension(change: str, message: str, write_module: Callable[..., Path]) -> None:
    """They are validated like all others; an unknown one is reported with the nearest name."""
    path = write_module(SECTIONS)
    with pytest.raises(SettingsError) as caught:
        read_settings(path, [change])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    settings = read_settings(path, ["own.weight=2"])
    assert settings.model_dump()["own"]["weight"] == 2


def test_a_run_names_its_extension(write_module: Callable[..., Path]) -> None:
    """settings.yaml of a run contains the section, and is read with the extension's types."""
    path = write_module(SECTIONS)
    settings = read_settings(path, ["own.part.width=7"])
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    again = read_settings(path)
    assert again == settings
    assert type(again) is load_extension(MODULE).settings_type


# ------------------------------------------------------------------------------------------------- the documentation


def code_block(name: str) -> str:
    """Return the code block of the page that starts with a file name."""
    found = re.search(rf"^```\w+[^\n]*\n# {re.escape(name)}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found.group(1)


def as_json(region: Any) -> dict[str, Any]:
    """Return a run-length encoding for JSON."""
    return {"size": region["size"], "counts": region["counts"].decode()}


@pytest.fixture
def two_datasets(tmp_path: Path) -> Path:
    """Folder with the data set sceneref, and with other scenes as the data set jsonl."""
    root, other = tmp_path / "data", tmp_path / "other"
    scenes = SceneRefSettings(width=64, height=64, phrases_per_scene=2)
    for split in ("train", "val"):
        write_sceneref(root, split, 2, 0, scenes)
    write_sceneref(other, "train", 2, 1, scenes)
    lines = [
        {
            "id": f"copy {sample.sample_id}",
            "image": str(sample.image.path),
            "phrase": sample.phrase,
            **({"rle": [as_json(region) for region in sample.regions]} if sample.has_target else {"no_target": True}),
        }
        for sample in open_dataset(other, "sceneref", "train")
    ]
    (root / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def test_the_example_of_the_documentation(
    two_datasets: Path, write_module: Callable[..., Path], tmp_path: Path, miniature: Callable[..., Any]
) -> None:
    """It trains on both data sets, and its term is logged; an unknown setting is reported with the nearest name."""
    write_module(code_block("my_training.py"), "my_training")
    recipe = yaml.safe_load(code_block("my_recipe.yaml"))
    assert recipe["extension"] == "my_training"
    small = miniature(data={"root": str(two_datasets)}, steps=2).model_dump(mode="json", exclude_unset=True)
    recipe |= small | {"boundary": recipe["boundary"] | {"second_dataset": "jsonl"}}
    path = tmp_path / "my_recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    settings = read_settings(path)
    run = Trainer(settings, tmp_path / "run")
    assert run.source.length == 4
    take_step, seen = run.engine.take_step, []

    def watched(batches: Any, *rest: Any) -> Any:
        seen.extend(name for batch in batches for name in batch.sample_ids)
        return take_step(batches, *rest)

    run.engine.take_step = watched  # type: ignore[method-assign]
    run.run()
    assert [name.startswith("copy ") for name in seen] == [False, False, True, True]
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line for line in lines if line["kind"] == "train"]
    assert len(losses) == 2
    for line in losses:
        own = sum(line[name] for name in ("mask", "dice", "coarse_mask", "coarse_dice"))
        own += 0.5 * (line["iou"] + line["object"])
        assert line["boundary"] > 0
        assert line["total"] == pytest.approx(
            own + settings.model_dump()["boundary"]["weight"] * line["boundary"], rel=1e-3
        )
    assert Trainer(settings, tmp_path / "run", resume=True).step == 2
    with pytest.raises(SettingsError, match=r"unknown setting boundary\.widht, did you mean width\?"):
        read_settings(path, ["boundary.widht=3"])
