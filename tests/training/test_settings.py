"""Recipes: read, changed, refused with all that is wrong at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from refersam.training.settings import SettingsError, TrainSettings, read_settings

RECIPES = Path(__file__).parents[2] / "recipes"


def recipe(folder: Path, text: str) -> Path:
    """A recipe of that text."""
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_an_empty_recipe_is_all_defaults(tmp_path: Path) -> None:
    """Every setting has one."""
    assert read_settings(recipe(tmp_path, "")) == TrainSettings()


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_published_recipes_are_valid(path: Path) -> None:
    """And say something."""
    assert read_settings(path) != TrainSettings()


def test_settings_survive_being_written(tmp_path: Path) -> None:
    """settings.yaml of a run is a recipe."""
    changes = [
        "data.stages=[{until: 0.5, phenomena: {attribute: 1.0}}, {until: 1}]",
        "model.config.num_sparse_tokens=2",
    ]
    settings = read_settings(recipe(tmp_path, "steps: 7"), changes)
    again = read_settings(recipe(tmp_path, yaml.safe_dump(settings.model_dump())))
    assert again == settings
    assert again.data.stages[0].phenomena == {"attribute": 1.0}
    assert again.model.config == {"num_sparse_tokens": 2}


def test_changes_win_over_the_recipe(tmp_path: Path) -> None:
    """The last one of two; a value may hold '='; numbers as YAML 1.1 reads them, and 1e-3 too."""
    path = recipe(tmp_path, "steps: 5\noptimizer: {learning_rate: 0.5, beta2: 0.9}")
    changed = read_settings(path, ["steps=6", "steps=7", "optimizer.learning_rate=1e-3", "model.start_from=a=b"])
    assert (changed.steps, changed.optimizer.learning_rate, changed.optimizer.beta2) == (7, 0.001, 0.9)
    assert changed.model.start_from == "a=b"


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    """A typing error, a wrong number, a wrong word, something deep inside: each with its place."""
    path = recipe(
        tmp_path,
        """
        stepz: 3
        batch_pictures: 0
        precision: fp8
        optimizer: {learningrate: 0.1, beta2: 1.5}
        data: {image_size: 100, stages: [{until: 0.5}, {untill: 1}]}
        """,
    )
    with pytest.raises(SettingsError) as caught:
        read_settings(path)
    message = str(caught.value)
    for part in (
        "unknown setting stepz, did you mean steps?",
        "batch_pictures: Input should be greater than or equal to 1 (got 0)",
        "precision: Input should be 'no', 'bf16' or 'fp16' (got 'fp8')",
        "unknown setting optimizer.learningrate, did you mean learning_rate?",
        "optimizer.beta2: Input should be less than 1 (got 1.5)",
        "data.image_size: Input should be a multiple of 32 (got 100)",
        "unknown setting data.stages.1.untill, did you mean until?",
    ):
        assert part in message
    assert message.startswith(str(path))
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("data: {stages: [{min_objects: 5, max_objects: 3}]}", "data.stages.0: .*min_objects <= max_objects"),
        ("data: {stages: [{phenomena: {colour: 1}}]}", "data.stages.0: .*Unknown phenomena .'colour'."),
        ("data: {stages: []}", "data.stages: "),
        ("data: {picture_sizes: [128, 16]}", "data.picture_sizes.1: .*32"),
        ("data: 3", "data: "),
        ("[1, 2]", "must hold settings by name, but holds a list"),
        ("just words", "must hold settings by name, but holds a str"),
        ("a: [1,\nb: }", "cannot be read as YAML"),
        ("a: !!python/object/apply:os.system ['true']", "cannot be read as YAML"),
    ],
)
def test_recipes_that_are_refused(tmp_path: Path, text: str, told: str) -> None:
    """One sentence, on one line."""
    with pytest.raises(SettingsError, match=told) as caught:
        read_settings(recipe(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, a folder, binary."""
    with pytest.raises(SettingsError, match=r"^No such file: .*nowhere\.yaml\.$"):
        read_settings(tmp_path / "nowhere.yaml")
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        read_settings(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80\x81")
    with pytest.raises(SettingsError, match="cannot be read as YAML"):
        read_settings(tmp_path / "binary.yaml")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("steps", "must look like optimizer.learning_rate=0.001, but got 'steps'"),
        ("=3", "must look like"),
        ("optimizer.=3", "must look like"),
        ("steps.more=3", "'steps' is not a section"),
        ("steps=[", "the value is not YAML"),
        ("steps=many", "steps: Input should be a valid integer"),
        ("steps=", "steps: Input should be a valid integer"),
        ("optimizer.learning_rat=1", "unknown setting optimizer.learning_rat, did you mean learning_rate?"),
        ("optimiser.beta2=0.5", "unknown setting optimiser, did you mean optimizer?"),
    ],
)
def test_changes_that_are_refused(tmp_path: Path, change: str, told: str) -> None:
    """The sentence says how it must look, or which setting was meant."""
    with pytest.raises(SettingsError) as caught:
        read_settings(recipe(tmp_path, "steps: 4"), [change])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
