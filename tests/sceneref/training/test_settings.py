"""The recipe's section `sceneref`: reading, validation, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from refersam.training.recipe import read_settings
from refersam.training.settings import SettingsError
from sceneref.training.settings import SceneRefTrainSettings

OBJECTIVES = ("grounding", "pointing", "attributes", "conditions")


def recipe(folder: Path, text: str) -> Path:
    """Write a recipe with the extension and this text."""
    path = folder / "recipe.yaml"
    path.write_text(f"extension: sceneref.training\n{text}")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {root: x}", "data.root is for data sets, but extension: sceneref.training renders its images"),
        ("data: {no_target_share: 0.1}", "data.no_target_share is for data sets"),
        ("epochs: 3", "epochs are passes over a data set, but rendered scenes have no end"),
        ("model: {start_from: x}\nsceneref: {spatial_prior_from: y}", "has a spatial prior: leave out"),
        (
            "sceneref: {pretraining: [{part: text}, {}], spatial_prior_from: y}",
            "pretraining replaces the spatial prior of spatial_prior_from",
        ),
        ("sharding: full\nsceneref: {pretraining: {}}", "sharding: full works without sceneref.objectives and"),
        ("sceneref: {stages: [{min_objects: 5, max_objects: 3}]}", "sceneref.stages.0: Value error, .*min_objects <="),
        ("sceneref: {validation: {min_objects: 5, max_objects: 3}}", "sceneref.validation"),
        ("sceneref: {stages: [{phenomena: {colour: 1}}]}", "sceneref.stages.0: .*Unknown phenomena"),
        ("sceneref: {stages: [{phenomena: {attribute: 0}}]}", "not all zero"),
        ("sceneref: {stages: []}", "sceneref.stages should have at least 1 item"),
        (
            "sceneref: {stages: [{until: 0.5}, {untill: 1}]}",
            "unknown setting sceneref.stages.1.untill, did you mean until",
        ),
        ("sceneref: {scene_sizes: [128, 16]}", "sceneref.scene_sizes.1 should be .*32"),
        ("sceneref: {pretraining: {position_weight: 1}}", "position_weight is for part: encoder"),
        ("sceneref: {pretraining: {part: text, image_size: 32}}", "image_size of 64 or more, but it is 32"),
        ("sceneref: {pretraining: {phenomena: {colour: 1}}}", "Unknown phenomena"),
        ("sceneref: {rewording: {synonym: 0.1}}", "unknown setting sceneref.rewording.synonym, did you mean synonyms"),
    ],
)
def test_recipes_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    """One sentence with the name of the setting and the remedy."""
    with pytest.raises(SettingsError, match=message.replace("Value error, ", "")) as caught:
        read_settings(recipe(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("sharding: full", "sharding: full works without sceneref.objectives"),
        ("precision: fp16", "sceneref.objectives work with precision bf16 or no, not with fp16"),
    ],
)
def test_what_objectives_do_without(tmp_path: Path, objective: str, other: str, message: str) -> None:
    """Their heads are neither sharded nor scaled."""
    with pytest.raises(SettingsError, match=message):
        read_settings(recipe(tmp_path, f"sceneref: {{objectives: {{{objective}: 1}}}}\n{other}"))


def test_photographs_have_no_section(tmp_path: Path) -> None:
    """Text augmentation is for SceneRef's vocabulary and scenes."""
    path = tmp_path / "recipe.yaml"
    path.write_text("data: {root: x}\nsceneref: {rewording: {synonyms: 0.1}}")
    with pytest.raises(SettingsError, match="unknown setting sceneref"):
        read_settings(path)


def test_a_share_of_none_is_left_out(tmp_path: Path) -> None:
    """A recipe removes a phenomenon of the recipe that it extends."""
    settings = read_settings(recipe(tmp_path, "sceneref: {stages: [{phenomena: {attribute: 1, several: 0}}]}"))
    assert isinstance(settings, SceneRefTrainSettings)
    assert settings.sceneref.stages[0].phenomena == {"attribute": 1}


def test_settings_survive_being_written(tmp_path: Path) -> None:
    """settings.yaml of a run is a recipe, and names the extension; a single phase needs no list."""
    changes = ["sceneref.stages=[{until: 0.5}, {until: 1}]", "sceneref.pretraining={steps: 3}"]
    settings = read_settings(recipe(tmp_path, "steps: 7"), changes)
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    again = read_settings(path)
    assert again == settings
    assert isinstance(again, SceneRefTrainSettings)
    assert [phase.steps for phase in again.sceneref.pretraining] == [3]
