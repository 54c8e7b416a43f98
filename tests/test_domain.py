"""Domain of a model: stored in its files, logged once, and part of every result."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from PIL import Image
from transformers import pipeline

from refersam import ReferSamConfig, ReferSamModel, ReferSamPredictor
from refersam import domain as domain_module
from refersam.bulk.coco import write_coco
from refersam.bulk.items import Item
from refersam.bulk.run import BulkSettings, LocalEngine
from refersam.checkpoints.folders import BUNDLED_CHECKPOINT
from refersam.domain import SYNTHETIC_SCENES, domain_warning
from refersam.training.building import build_model, build_processor
from refersam.training.extension import load_extension
from refersam.training.recipe import read_settings

Run = Callable[..., SimpleNamespace]
ROOT = Path(__file__).parents[1]
SCENE = ROOT / "examples" / "scene_1.png"


@pytest.fixture
def copy_with(tmp_path: Path) -> Callable[..., Path]:
    """Call with fields of the configuration to copy the bundled model with them to a separate directory."""

    def make(**fields: Any) -> Path:
        folder = tmp_path / "model"
        folder.mkdir()
        for file in BUNDLED_CHECKPOINT.iterdir():
            if file.name != "config.json":
                (folder / file.name).symlink_to(file)
        config = {**json.loads((BUNDLED_CHECKPOINT / "config.json").read_text()), **fields}
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


@pytest.fixture
def warnings_of(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Call to get the warnings about domains since the start of the test."""
    monkeypatch.setattr(domain_module, "_warned", set())
    caplog.set_level(logging.WARNING, logger=domain_module.logger.name)
    return lambda: [record.getMessage() for record in caplog.records if record.name == domain_module.logger.name]


def test_kept_by_save_and_load(small_config: Callable[..., Any], tmp_path: Path) -> None:
    """Stored in configuration and model; None by default."""
    assert ReferSamConfig.from_preset("tiny").domain is None
    assert ReferSamConfig.from_preset("tiny", domain="chest X-rays").domain == "chest X-rays"
    ReferSamModel(small_config(domain="chest X-rays")).save_pretrained(tmp_path)
    assert ReferSamModel.from_pretrained(tmp_path).config.domain == "chest X-rays"
    ReferSamModel(small_config()).save_pretrained(tmp_path)
    assert ReferSamConfig.from_pretrained(tmp_path).domain is None


@pytest.mark.parametrize("domain", ["", "  ", "two\nlines", "caf\u00e9", "x" * 81, 3, ["scenes"]])
def test_wrong_domains_are_refused(domain: object) -> None:
    """It is shown on pages and sent in headers, and may come from an untrusted file."""
    with pytest.raises(ValueError, match=r"domain (must|should) "):
        ReferSamConfig.from_preset("tiny", domain=domain)


def test_python_logs_it_once_per_model(copy_with: Callable[..., Path], warnings_of: Callable[[], list[str]]) -> None:
    """By predictor and pipeline, with advice; not for a general model."""
    for _ in range(2):
        assert ReferSamPredictor.from_pretrained(device="cpu").domain == SYNTHETIC_SCENES
    pipeline("referring-image-segmentation", model=str(BUNDLED_CHECKPOINT), device="cpu")
    assert warnings_of() == [domain_warning(SYNTHETIC_SCENES)]
    assert "synthetic scenes only" in warnings_of()[0]
    assert "load a published model (--model clipseg" in warnings_of()[0]
    assert ReferSamPredictor.from_pretrained(copy_with(domain=None), device="cpu").domain is None
    assert len(warnings_of()) == 1


def test_the_command_line_goes_by_the_field(run: Run, copy_with: Callable[..., Path]) -> None:
    """In the table's warning and in valid JSON; depends on the model, not on the option --model."""
    table = run("segment", SCENE, "star", "--device", "cpu")
    assert (table.code, table.err) == (0, "")
    assert domain_warning(SYNTHETIC_SCENES) in table.out
    found = run("segment", SCENE, "star", "--device", "cpu", "--json")
    assert [row["domain"] for row in json.loads(found.out)] == [SYNTHETIC_SCENES]
    assert found.err.strip() == domain_warning(SYNTHETIC_SCENES)
    other = run("segment", SCENE, "star", "--device", "cpu", "--model", copy_with(domain="chest X-rays"))
    assert domain_warning("chest X-rays") in other.out
    assert json.loads(run("info", "--json").out)["domain"] == SYNTHETIC_SCENES
    assert "synthetic scenes only" in run("info").out


def test_general_models_say_nothing(run: Run, tiny_model_folder: Path) -> None:
    """Neither on screen nor in files."""
    found = run("segment", SCENE, "star", "--device", "cpu", "--json", "--model", tiny_model_folder)
    assert (found.code, found.err) == (0, "")
    assert all("domain" not in row for row in json.loads(found.out))


def test_bulk_results_carry_it(run: Run, tmp_path: Path, tiny_model_folder: Path) -> None:
    """In each line and in `info` of the COCO file; the command warns."""
    (tmp_path / "images").mkdir()
    Image.open(SCENE).save(tmp_path / "images" / "scene.png")
    options = ("--images", "images", "--phrases", "the orange star", "--out", "out", "--format", "coco")
    done = run("segment-many", *options, "--device", "cpu")
    assert domain_warning(SYNTHETIC_SCENES) in done.out
    assert json.loads(Path("out/results.jsonl").read_text())["domain"] == SYNTHETIC_SCENES
    assert json.loads(Path("out/instances.json").read_text())["info"] == {"domain": SYNTHETIC_SCENES}
    general = LocalEngine(ReferSamPredictor.from_pretrained(tiny_model_folder, device="cpu"), BulkSettings())
    lines = list(general([Item("scene.png", str(SCENE), ("star",))]))
    assert "domain" not in lines[0]
    write_coco(lines, tmp_path / "general.json")
    assert "info" not in json.loads((tmp_path / "general.json").read_text())


def test_recipes_of_synthetic_scenes_set_it(tmp_path: Path) -> None:
    """Only recipes of rendered scenes; a run may remove the domain of its initial model."""
    for path in (ROOT / "recipes").rglob("*.yaml"):
        if "recipe" not in yaml.safe_load(path.read_text()):
            settings = read_settings(path)
            assert settings.model.config.get("domain") == (SYNTHETIC_SCENES if settings.extension else None), path
    recipe = tmp_path / "recipe.yaml"
    for config, domain in (("{}", SYNTHETIC_SCENES), ("{domain: null}", None)):
        start = f"model: {{start_from: {BUNDLED_CHECKPOINT}, config: {config}}}"
        recipe.write_text(f"extension: sceneref.training\n{start}")
        settings = read_settings(recipe)
        source = load_extension(settings.extension).open_source(settings)
        assert build_model(settings, build_processor(settings, source)).config.domain == domain
