"""Recipes: reading, changes, and errors that list all problems at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from refersam import ReferSamConfig
from refersam.training.ablation import read_suite
from refersam.training.bundled import RECIPES
from refersam.training.recipe import changed_settings, changes_since, read_settings
from refersam.training.settings import ChangeError, SettingsError, TrainSettings

ROOT = Path(__file__).parents[2]


def recipe(folder: Path, text: str) -> Path:
    """Write a recipe with this text."""
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", ["", "# steps: 3\n", "---\n", "{}"])
def test_an_empty_recipe_is_refused(tmp_path: Path, text: str) -> None:
    """Also with comments only, and if another recipe extends it: it would start 10,000 steps."""
    path = recipe(tmp_path, text)
    with pytest.raises(SettingsError, match=r"^.*recipe\.yaml is empty: expected a YAML mapping of settings"):
        read_settings(path, ["steps=3"])
    (tmp_path / "next.yaml").write_text("extends: recipe.yaml")
    with pytest.raises(SettingsError, match=r"recipe\.yaml is empty"):
        read_settings(tmp_path / "next.yaml")


def test_a_recipe_may_extend_another_and_nothing_else(tmp_path: Path) -> None:
    """It must name a recipe."""
    recipe(tmp_path, "steps: 3")
    path = tmp_path / "next.yaml"
    path.write_text("extends: recipe.yaml")
    assert read_settings(path) == TrainSettings(steps=3)
    path.write_text("extends:")
    with pytest.raises(SettingsError, match="extends must name another recipe, but is None"):
        read_settings(path)


@pytest.mark.parametrize("given", ["recipe", "change"])
@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("precision", "no", "no"),
        ("gradient_checkpointing", "on", True),
        ("gradient_checkpointing", "off", False),
        ("data.root", "no", "no"),
        ("data.root", "2024-05-01", "2024-05-01"),
        ("optimizer.learning_rate", "1e-6", 1e-6),
        ("optimizer.learning_rate", "'1e-6'", 1e-6),
        ("steps", "1e3", 1000),
        ("model.config.injection_gate_init", "1e-6", 1e-6),
        ("model.config.injection_gate_init", "'1e-6'", 1e-6),
        ("model.config.injection_gate_init", ".5E-3", 5e-4),
        ("model.config.drop_path", "0", 0.0),
        ("model.config.use_prompter", "no", False),
        ("model.config.freeze_text_encoder", "null", None),
        (
            "model.config.text_config",
            "{layer_norm_eps: 1e-6, use_cache: off}",
            {"layer_norm_eps": 1e-6, "use_cache": False},
        ),
    ],
)
def test_words_and_numbers_have_the_declared_type(
    tmp_path: Path, given: str, name: str, text: str, value: object
) -> None:
    """YAML 1.1 reads no as false and 1e-6 as text: in a recipe and with --set, in sections and in model.config."""
    if given == "recipe":
        *sections, last = name.split(".")
        lines = [f"{'  ' * depth}{section}:\n" for depth, section in enumerate(sections)]
        settings = read_settings(recipe(tmp_path, f"{''.join(lines)}{'  ' * len(sections)}{last}: {text}"))
    else:
        settings = read_settings(recipe(tmp_path, "seed: 1"), [f"{name}={text}"])
    found: Any = settings.model_dump()
    for part in name.split("."):
        found = found[part]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("injection_gate_init=small", "injection_gate_init should be a valid number, but is 'small'"),
        ("fusion_num_heads=1.5", "fusion_num_heads should be a valid integer, but is 1.5"),
        ("fusion_num_heads=true", "fusion_num_heads should be a valid integer, but is True"),
        ("use_prompter=maybe", "use_prompter should be a valid boolean, but is 'maybe'"),
        ("layer_groups=[[0, one]]", "layer_groups.0.1 should be a valid integer, but is 'one'"),
        ("vision_config=3", "vision_config should be a SamVisionConfig or a dictionary of its fields, but is 3"),
        ("use_promter=false", "unknown field use_promter, did you mean use_prompter?"),
        ("return_dict=false", "unknown field return_dict (not a field of ReferSamConfig)"),
        ("vision_config={hidden_sise: 3}", "unknown field vision_config.hidden_sise, did you mean hidden_size?"),
        ("text_config={hidden_size: wide}", "text_config.hidden_size should be a valid integer, but is 'wide'"),
        ("text_config={model_type: t5}", "text_config.model_type must be one of bert, clip_text_model, but is 't5'"),
    ],
)
def test_wrong_fields_of_the_model_are_refused(tmp_path: Path, change: str, message: str) -> None:
    """Validated when settings are read, before data or models are loaded."""
    with pytest.raises(SettingsError) as caught:
        read_settings(recipe(tmp_path, "steps: 4"), [f"model.config.{change}"])
    assert f"model.config: {message}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truth_value_is_nan(tmp_path: Path) -> None:
    """pydantic would convert true to 1: one step, or a second moment of 1."""
    with pytest.raises(SettingsError) as caught:
        read_settings(recipe(tmp_path, "steps: true\noptimizer: {beta2: false}"))
    assert "steps should be a valid integer, but is True" in str(caught.value)
    assert "optimizer.beta2 should be a valid number, but is False" in str(caught.value)


PUBLISHED = sorted(path for path in RECIPES.rglob("*.yaml") if path.parent.name != "ablations")


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_published_recipes_are_valid(path: Path) -> None:
    """Each has a description; model.config contains fields of the configuration only."""
    settings = read_settings(path)
    assert settings != TrainSettings()
    assert set(settings.model.config) <= set(ReferSamConfig().to_dict())


def test_there_is_a_recipe_for_every_benchmark_and_size() -> None:
    """Each uses its data set, and its weights of SAM and text encoder."""
    for folder in ("refcoco", "refcoco+", "refcocog", "mixed", "grefcoco", "refzom"):
        for size in ("base", "large", "huge"):
            settings = read_settings(RECIPES / folder / f"{size}.yaml")
            assert (settings.data.dataset, settings.model.sam) == (folder, f"facebook/sam-vit-{size}")
            assert settings.batch_size * settings.gradient_accumulation_steps * settings.data.phrases_per_image == 16
        assert "clip" in str(read_settings(RECIPES / folder / "base_clip.yaml").model.text)


def test_the_documentation_names_settings_that_exist() -> None:
    """docs/training.md describes every setting with its section."""
    text = (ROOT / "docs" / "training.md").read_text()
    for section, name in re.findall(r"`(data|optimizer|loss|model)\.([a-z_]+)", text):
        assert name in type(getattr(TrainSettings(), section)).model_fields, name


@pytest.mark.parametrize("path", sorted(RECIPES.glob("ablations/*.yaml")), ids=lambda path: path.stem)
def test_published_suites_are_valid(path: Path) -> None:
    """All runs have valid and different settings, and a valid configuration."""
    runs = read_suite(path).runs
    dumped = [settings.model_dump_json() for settings in runs.values()]
    assert len(set(dumped)) == len(dumped) >= 9
    for settings in runs.values():
        ReferSamConfig.from_preset("tiny", **settings.model.config)


def test_a_recipe_extends_another(tmp_path: Path) -> None:
    """Sections are merged, lists are replaced, over two levels; --set has precedence; cycles are errors."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "base.yaml").write_text("steps: 5\noptimizer: {learning_rate: 0.5, beta2: 0.9}\ntrackers: [wandb]")
    (tmp_path / "deep" / "middle.yaml").write_text("extends: ../base.yaml\noptimizer: {beta2: 0.8}")
    path = recipe(tmp_path, "extends: deep/middle.yaml\ntrackers: [trackio, wandb]")
    settings = read_settings(path, ["seed=4"])
    assert (settings.steps, settings.seed, settings.trackers) == (5, 4, ["trackio", "wandb"])
    assert (settings.optimizer.learning_rate, settings.optimizer.beta2) == (0.5, 0.8)
    (tmp_path / "base.yaml").write_text("extends: recipe.yaml")
    with pytest.raises(SettingsError, match="extends itself"):
        read_settings(path)
    with pytest.raises(SettingsError, match="extends must name another recipe, but is 3"):
        read_settings(recipe(tmp_path, "extends: 3"))
    with pytest.raises(SettingsError, match="No such file"):
        read_settings(recipe(tmp_path, "extends: nowhere.yaml"))


def test_steps_of_a_recipe_that_counts_epochs() -> None:
    """They would have no effect."""
    path, root = RECIPES / "own_data.yaml", "data.root=somewhere"
    with pytest.raises(SettingsError, match="has epochs, which override steps: add --set epochs=null"):
        read_settings(path, [root, "steps=100"])
    settings = read_settings(path, [root, "steps=100", "epochs=null"])
    assert (settings.steps, settings.epochs) == (100, None)


def test_settings_of_an_older_version(tmp_path: Path) -> None:
    """Settings unknown to the old version have their defaults, which are no changes; removed settings are changes."""
    content = TrainSettings().model_dump(mode="json")
    del content["sharding"]
    path = recipe(tmp_path, yaml.safe_dump(content))
    assert changes_since(path, TrainSettings()) == []
    assert changes_since(path, TrainSettings(steps=3)) == ["steps: 10000 -> 3"]
    gone = recipe(tmp_path, yaml.safe_dump({**TrainSettings().model_dump(mode="json"), "gone": 1}))
    assert changes_since(gone, TrainSettings()) == ["gone: 1 -> None"]


def test_changed_settings_by_hand() -> None:
    """Nested names; model.config counts as one setting."""
    old, new = (
        TrainSettings().model_dump(),
        TrainSettings.model_validate({"steps": 3, "data": {"workers": 2}}).model_dump(),
    )
    assert changed_settings(old, new) == ["data.workers: 1 -> 2", "steps: 10000 -> 3"]
    assert changed_settings(old, old) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {dataset: coco, root: x}", "data.dataset: should be one of refcoco, "),
        ("data: {dataset: mixed, root: x}", "data: mixed has no val split: set validation_dataset"),
        ("steps: 3\nseed: 1\nsteps: 4", "'steps' is given twice"),
        ("seed: 2024-13-45", "seed should be a valid integer, but is '2024-13-45'"),
        ("seed: " + "[" * 3000, "cannot be read as YAML"),
        ("optimizer: {learning_rate: .inf}", "optimizer.learning_rate should be a finite number"),
        ("model: {sam: x}", "model: sam and text belong together"),
        ("model: {sam: x, text: y, start_from: z}", "model: a run starts either from sam and text, or from start_from"),
        ("model: {start_from: x, config: {num_sparse_tokens: 2}}", "config may only change fields without weights"),
        (
            "{precision: fp16, optimizer: {muon_learning_rate: 0.1}}",
            "optimizer.muon_learning_rate works with precision bf16 or no",
        ),
        ("seed: 5000000000", "seed should be less than 2147483648"),
        ("{final_model: best, keep_best: 0}", "final_model: best needs keep_best"),
        ("data: {augment: {flipp: 1}}", "unknown setting data.augment.flipp, did you mean flip?"),
    ],
)
def test_settings_that_do_not_fit_together(tmp_path: Path, text: str, message: str) -> None:
    """One sentence with the name of the setting and the remedy."""
    with pytest.raises(SettingsError) as caught:
        read_settings(recipe(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_survive_being_written(tmp_path: Path) -> None:
    """settings.yaml of a run is a recipe."""
    settings = read_settings(recipe(tmp_path, "steps: 7"), ["model.config.num_sparse_tokens=2"])
    again = read_settings(recipe(tmp_path, yaml.safe_dump(settings.model_dump())))
    assert again == settings
    assert again.model.config == {"num_sparse_tokens": 2}


def test_changes_win_over_the_recipe(tmp_path: Path) -> None:
    """The last of two changes applies; a value may contain '='."""
    path = recipe(tmp_path, "steps: 5\noptimizer: {learning_rate: 0.5, beta2: 0.9}")
    changed = read_settings(path, ["steps=6", "steps=7", "optimizer.learning_rate=1e-3", "model.start_from=a=b"])
    assert (changed.steps, changed.optimizer.learning_rate, changed.optimizer.beta2) == (7, 0.001, 0.9)
    assert changed.model.start_from == "a=b"


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    """A typing error, a number out of range, an unknown word, a nested name: each with its path."""
    path = recipe(
        tmp_path,
        """
        stepz: 3
        batch_size: 0
        precision: fp8
        optimizer: {learningrate: 0.1, beta2: 1.5}
        data: {image_size: 100, augment: {flipp: 1}}
        """,
    )
    with pytest.raises(SettingsError) as caught:
        read_settings(path)
    message = str(caught.value)
    for part in (
        "unknown setting stepz, did you mean steps?",
        "batch_size should be greater than or equal to 1, but is 0",
        "precision should be 'no', 'bf16' or 'fp16', but is 'fp8'",
        "unknown setting optimizer.learningrate, did you mean learning_rate?",
        "optimizer.beta2 should be less than 1, but is 1.5",
        "data.image_size should be a multiple of 32, but is 100",
        "unknown setting data.augment.flipp, did you mean flip?",
    ):
        assert part in message
    assert message.startswith(str(path))
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: 3", "data should be a valid dictionary, but is 3"),
        ("[1, 2]", "must hold a YAML mapping of settings, such as steps: 1000, but holds a list"),
        ("[]", "must hold a YAML mapping of settings, such as steps: 1000, but holds a list"),
        ("just words", "must hold a YAML mapping of settings, .* but holds 'just words'"),
        ("false", "must hold a YAML mapping of settings, .* but holds False"),
        ("1: 2", "a name should be text, but is 1"),
        ("a: [1,\nb: }", "cannot be read as YAML"),
        ("a: !!python/object/apply:os.system ['true']", "cannot be read as YAML"),
    ],
)
def test_recipes_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    """One sentence on one line."""
    with pytest.raises(SettingsError, match=message) as caught:
        read_settings(recipe(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_part_of_a_list_cannot_be_changed(tmp_path: Path) -> None:
    """Only the whole list can be set."""
    with pytest.raises(SettingsError, match="'trackers' is a list: set the whole list"):
        read_settings(recipe(tmp_path, "trackers: [wandb]"), ["trackers.first=trackio"])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, a folder, binary, too large."""
    with pytest.raises(SettingsError, match=r"^No such file: .*nowhere\.yaml\.$"):
        read_settings(tmp_path / "nowhere.yaml")
    with pytest.raises(SettingsError, match=r"Expected a YAML file, but .* is a folder"):
        read_settings(tmp_path)
    for content, message in (
        (b"\x89PNG\r\n\x1a\n", "is not a YAML file: expected UTF-8 text"),
        (b"\0" * 64, "cannot be read as YAML"),
        (b"a" * (2 << 20), "is not a YAML file of settings: it has more than 1,048,576 bytes"),
    ):
        (tmp_path / "binary.yaml").write_bytes(content)
        with pytest.raises(SettingsError, match=message) as caught:
            read_settings(tmp_path / "binary.yaml")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("steps", "Expected a change such as optimizer.learning_rate=0.001, but got 'steps'"),
        ("=3", "Expected a change such as"),
        ("optimizer.=3", "Expected a change such as"),
        ("steps.more=3", "'steps' is not a section"),
        ("steps=[", "the value is not YAML"),
        ("steps=many", "steps should be a valid integer"),
        ("steps=", "steps should be a valid integer"),
        ("optimizer.learning_rat=1", "unknown setting optimizer.learning_rat, did you mean learning_rate?"),
        ("optimiser.beta2=0.5", "unknown setting optimiser, did you mean optimizer?"),
    ],
)
def test_changes_that_are_refused(tmp_path: Path, change: str, message: str) -> None:
    """The sentence shows the expected form, or the nearest setting."""
    with pytest.raises(ChangeError) as caught:
        read_settings(recipe(tmp_path, "steps: 4"), [change])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_change_is_blamed_for_its_own_mistakes_only(tmp_path: Path) -> None:
    """An invalid recipe is distinguished from an invalid change."""
    path = recipe(tmp_path, "steps: 0")
    with pytest.raises(SettingsError) as caught:
        read_settings(path, ["seed=4"])
    assert type(caught.value) is SettingsError
    with pytest.raises(ChangeError, match=r"steps should.*stepz|stepz.*steps should"):
        read_settings(path, ["stepz=4"])
    assert read_settings(path, ["steps=3"]).steps == 3
