"""Recipes: read, changed, refused with all that is wrong at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from refersam import ReferSamConfig
from refersam.training.ablation import read_suite
from refersam.training.bundled import RECIPES
from refersam.training.recipe import changed_settings, changes_since, read_settings
from refersam.training.settings import ChangeError, SettingsError, TrainSettings

ROOT = Path(__file__).parents[2]


def recipe(folder: Path, text: str) -> Path:
    """A recipe of that text."""
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_an_empty_recipe_is_all_defaults(tmp_path: Path) -> None:
    """Every setting has one."""
    assert read_settings(recipe(tmp_path, "")) == TrainSettings()


PUBLISHED = sorted(path for path in RECIPES.rglob("*.yaml") if path.parent.name != "ablations")


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_published_recipes_are_valid(path: Path) -> None:
    """And say something; what they set for the model's configuration are fields of it."""
    settings = read_settings(path)
    assert settings != TrainSettings()
    assert set(settings.model.config) <= set(ReferSamConfig().to_dict())


def test_there_is_a_recipe_for_every_benchmark_and_size() -> None:
    """Each trains on its data set, with its weights of SAM and text."""
    for folder in ("refcoco", "refcoco+", "refcocog", "mixed", "grefcoco", "refzom"):
        for size in ("base", "large", "huge"):
            settings = read_settings(RECIPES / folder / f"{size}.yaml")
            assert (settings.data.dataset, settings.model.sam) == (folder, f"facebook/sam-vit-{size}")
            assert settings.batch_pictures * settings.accumulate * settings.data.phrases_per_picture == 16
        assert "clip" in str(read_settings(RECIPES / folder / "base_clip.yaml").model.text)


def test_the_documentation_names_settings_that_exist() -> None:
    """docs/training.md: every setting with its section."""
    text = (ROOT / "docs" / "training.md").read_text()
    for section, name in re.findall(r"`(data|optimizer|loss|model)\.([a-z_]+)", text):
        assert name in type(getattr(TrainSettings(), section)).model_fields, name


@pytest.mark.parametrize("path", sorted(RECIPES.glob("ablations/*.yaml")), ids=lambda path: path.stem)
def test_published_suites_are_valid(path: Path) -> None:
    """All of their runs build settings, each other than the rest, and a configuration."""
    runs = read_suite(path).runs
    dumped = [settings.model_dump_json() for settings in runs.values()]
    assert len(set(dumped)) == len(dumped) >= 9
    for settings in runs.values():
        ReferSamConfig.from_preset("tiny", **settings.model.config)


def test_a_recipe_extends_another(tmp_path: Path) -> None:
    """Section by section, lists whole, by way of a third; --set is over all; a circle is told as such."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "base.yaml").write_text(
        "steps: 5\noptimizer: {learning_rate: 0.5, beta2: 0.9}\ndata: {picture_sizes: [32]}"
    )
    (tmp_path / "deep" / "middle.yaml").write_text("extends: ../base.yaml\noptimizer: {beta2: 0.8}")
    path = recipe(tmp_path, "extends: deep/middle.yaml\ndata: {picture_sizes: [64, 96]}")
    settings = read_settings(path, ["seed=4"])
    assert (settings.steps, settings.seed, settings.data.picture_sizes) == (5, 4, [64, 96])
    assert (settings.optimizer.learning_rate, settings.optimizer.beta2) == (0.5, 0.8)
    (tmp_path / "base.yaml").write_text("extends: recipe.yaml")
    with pytest.raises(SettingsError, match="extends itself"):
        read_settings(path)
    with pytest.raises(SettingsError, match="extends must name another recipe, but is 3"):
        read_settings(recipe(tmp_path, "extends: 3"))
    with pytest.raises(SettingsError, match="No such file"):
        read_settings(recipe(tmp_path, "extends: nowhere.yaml"))


def test_steps_of_a_recipe_that_counts_epochs() -> None:
    """They would be without effect."""
    path, root = RECIPES / "own_data.yaml", "data.root=somewhere"
    with pytest.raises(SettingsError, match="counts epochs, not steps: add --set epochs=null"):
        read_settings(path, [root, "steps=100"])
    settings = read_settings(path, [root, "steps=100", "epochs=null"])
    assert (settings.steps, settings.epochs) == (100, None)


def test_settings_of_an_older_version(tmp_path: Path) -> None:
    """What it did not know has its default, which is no change; what is known no more is one."""
    content = TrainSettings().model_dump(mode="json")
    del content["sharding"]
    path = recipe(tmp_path, yaml.safe_dump(content))
    assert changes_since(path, TrainSettings()) == []
    assert changes_since(path, TrainSettings(steps=3)) == ["steps: 10000 -> 3"]
    gone = recipe(tmp_path, yaml.safe_dump({**TrainSettings().model_dump(mode="json"), "gone": 1}))
    assert changes_since(gone, TrainSettings()) == ["gone: 1 -> None"]


def test_changed_settings_by_hand() -> None:
    """Nested names; fields of the model's configuration as one."""
    old, new = (
        TrainSettings().model_dump(),
        TrainSettings.model_validate({"steps": 3, "data": {"workers": 2}}).model_dump(),
    )
    assert changed_settings(old, new) == ["data.workers: 1 -> 2", "steps: 10000 -> 3"]
    assert changed_settings(old, old) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("data: {dataset: refcoco}", "data: root is needed, the folder of the data sets"),
        ("data: {dataset: coco, root: x}", "data.dataset: should be one of refcoco, "),
        ("data: {dataset: mixed, root: x}", "data: mixed has no val split: give validation_dataset"),
        ("data: {root: x, stages: [{max_objects: 3}]}", "data: stages and validation_scenes are SceneRef's"),
        ("data: {no_target_share: 0.1}", "data: no_target_share is for data sets"),
        ("epochs: 3", "epochs are passes over a data set"),
        ("steps: 3\nseed: 1\nsteps: 4", "'steps' is given twice"),
        ("seed: 2024-13-45", "cannot be read as YAML"),
        ("seed: " + "[" * 3000, "cannot be read as YAML"),
        ("optimizer: {learning_rate: .inf}", "optimizer.learning_rate should be a finite number"),
        ("model: {sam: x}", "model: sam and text belong together"),
        ("model: {sam: x, text: y, start_from: z}", "model: a run starts from sam and text, or from start_from"),
        ("model: {start_from: x, config: {num_sparse_tokens: 2}}", "of which only what has no weights can be changed"),
        ("model: {start_from: x, prior: y}", "model: the model in start_from has a spatial prior already"),
        (
            "{pretraining: [{part: language}, {}], model: {prior: y}}",
            "pretraining teaches the spatial prior, and model.prior takes one",
        ),
        ("data: {validation_scenes: {min_objects: 5, max_objects: 3}}", "data.validation_scenes"),
        ("{precision: fp16, optimizer: {matrix_rate: 0.1}}", "optimizer.matrix_rate works with precision bf16 or no"),
        (
            "{loss: {grounding_weight: 1}, data: {root: x, dataset: refcoco}}",
            "loss.grounding_weight and looks_weight need drawn",
        ),
        (
            "{loss: {looks_weight: 1}, sharding: full}",
            "loss.grounding_weight and looks_weight go without sharding: full",
        ),
        (
            "{loss: {looks_weight: 1}, precision: fp16}",
            "loss.grounding_weight and looks_weight work with precision bf16",
        ),
        ("seed: 5000000000", "seed should be less than 2147483648"),
        ("{final_model: best, keep_best: 0}", "final_model: best needs keep_best"),
        ("data: {augment: {flipp: 1}}", "unknown setting data.augment.flipp, did you mean flip?"),
    ],
)
def test_settings_that_do_not_fit_together(tmp_path: Path, text: str, told: str) -> None:
    """One sentence with the place, and what to do."""
    with pytest.raises(SettingsError) as caught:
        read_settings(recipe(tmp_path, text))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_share_of_none_is_left_out(tmp_path: Path) -> None:
    """So a recipe can do without what the one that it extends has, and says the same as one that never had it."""
    without = recipe(tmp_path, "data: {stages: [{phenomena: {attribute: 1, several: 0}}]}")
    assert read_settings(without).data.stages[0].phenomena == {"attribute": 1}
    with pytest.raises(SettingsError, match="not all zero"):
        read_settings(recipe(tmp_path, "data: {stages: [{phenomena: {attribute: 0}}]}"))


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
        "batch_pictures should be greater than or equal to 1, but is 0",
        "precision should be 'no', 'bf16' or 'fp16', but is 'fp8'",
        "unknown setting optimizer.learningrate, did you mean learning_rate?",
        "optimizer.beta2 should be less than 1, but is 1.5",
        "data.image_size should be a multiple of 32, but is 100",
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
        ("data: {stages: []}", r"data.stages should have at least 1 item, but is \[\]"),
        ("data: {picture_sizes: [128, 16]}", "data.picture_sizes.1 should be .*32"),
        ("pretraining: {position_weight: 1}", "pretraining.0: .*position_weight is for part: encoder"),
        ("pretraining: {part: language, image_size: 32}", "pretraining.0: .*image_size of 64 or more, but it is 32"),
        ("pretraining: {phenomena: {colour: 1}}", "pretraining.0: .*Unknown phenomena .'colour'."),
        ("data: 3", "data should be a valid dictionary, but is 3"),
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


def test_a_part_of_a_list_cannot_be_changed(tmp_path: Path) -> None:
    """Only the whole list."""
    with pytest.raises(SettingsError, match="'pretraining' is a list here: give it as a whole"):
        read_settings(recipe(tmp_path, "pretraining: [{steps: 4}]"), ["pretraining.steps=3"])


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
        ("steps=many", "steps should be a valid integer"),
        ("steps=", "steps should be a valid integer"),
        ("optimizer.learning_rat=1", "unknown setting optimizer.learning_rat, did you mean learning_rate?"),
        ("optimiser.beta2=0.5", "unknown setting optimiser, did you mean optimizer?"),
    ],
)
def test_changes_that_are_refused(tmp_path: Path, change: str, told: str) -> None:
    """The sentence says how it must look, or which setting was meant."""
    with pytest.raises(ChangeError) as caught:
        read_settings(recipe(tmp_path, "steps: 4"), [change])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_change_is_blamed_for_its_own_mistakes_only(tmp_path: Path) -> None:
    """A recipe that is wrong without it, or needs it, is told apart from a change that is wrong."""
    path = recipe(tmp_path, "steps: 0")
    with pytest.raises(SettingsError) as caught:
        read_settings(path, ["seed=4"])
    assert type(caught.value) is SettingsError
    with pytest.raises(ChangeError, match=r"steps should.*stepz|stepz.*steps should"):
        read_settings(path, ["stepz=4"])
    assert read_settings(path, ["steps=3"]).steps == 3
