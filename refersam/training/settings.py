"""Settings of a training run: one typed declaration, read from YAML, changed by `--set a.b=c`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from refersam.data.sceneref.settings import SceneRefSettings
from refersam.errors import ReferSamError


class SettingsError(ReferSamError, ValueError):
    """A recipe that cannot be used."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class ModelSettings(_Section):
    """What is trained."""

    preset: Literal["tiny", "base", "large", "huge"] = Field("tiny", description="Sizes of the model.")
    text_encoder: Literal["bert", "clip"] = Field("bert", description="Kind of text encoder.")
    config: dict[str, Any] = Field(default_factory=dict, description="Other fields of ReferSamConfig.")
    start_from: str | None = Field(None, description="Folder or Hub id of a ReferSAM model to start from.")


class StageSettings(_Section):
    """Difficulty of the scenes, and size of the input, up to a share of the training."""

    until: float = Field(1.0, gt=0, le=1, description="Share of all steps at which the stage ends.")
    image_size: int | None = Field(
        None, ge=32, multiple_of=32, description="Side of the network's input in pixels; none for data.image_size."
    )
    min_objects: int = Field(2, ge=2, le=10, description="Fewest objects in a picture.")
    max_objects: int = Field(10, ge=2, le=10, description="Most objects in a picture.")
    difficulty: float = Field(1.0, ge=0, le=1, description="How busy the drawing is.")
    named: tuple[Literal["size", "pattern", "colour", "shape"], ...] | None = Field(
        None, min_length=1, description="Attributes that phrases describe objects by; none for all."
    )
    phenomena: dict[str, float] | None = Field(None, description="Share of each phenomenon; none for SceneRef's own.")

    @model_validator(mode="after")
    def _can_be_drawn(self) -> StageSettings:
        SceneRefSettings(
            min_objects=self.min_objects,
            max_objects=self.max_objects,
            phenomena=self.phenomena,
            named=self.named,
            difficulty=self.difficulty,
        )
        return self


class DataSettings(_Section):
    """SceneRef's stream: drawn while training, no picture twice."""

    image_size: int = Field(128, ge=32, le=4096, multiple_of=32, description="Side of the network's input in pixels.")
    picture_sizes: list[Annotated[int, Field(ge=32, le=4096)]] = Field(
        [128], min_length=1, description="Sides of the drawn pictures, in turn."
    )
    phrases_per_picture: int = Field(4, ge=1, le=32, description="Phrases asked of each picture.")
    max_text_tokens: int = Field(20, ge=3, description="Longer phrases are cut.")
    vocab_size: int = Field(1024, ge=256, description="Most entries of the tokenizer trained here.")
    stages: list[StageSettings] = Field([StageSettings()], min_length=1, description="Curriculum, in order.")
    workers: int = Field(1, ge=0, description="Processes that draw pictures.")
    validation_pictures: int = Field(100, ge=1, description="Pictures of the val split that validation runs on.")


class OptimizerSettings(_Section):
    """AdamW, for matrices Muon if wanted, with warm-up, a constant rate, and a polynomial decay to zero."""

    learning_rate: float = Field(1e-3, gt=0, description="Highest rate.")
    matrix_rate: float | None = Field(
        None, gt=0, description="Highest rate of Muon, which then takes the linear layers' matrices; none for AdamW."
    )
    weight_decay: float = Field(0.01, ge=0, description="On matrices and kernels; none on norms, biases, tokens.")
    beta2: float = Field(0.98, gt=0, lt=1, description="AdamW's second moment.")
    warmup_steps: int = Field(200, ge=0, description="Steps of linear warm-up.")
    decay_from: float = Field(0.5, ge=0, lt=1, description="Share of the steps at which the decay starts.")
    decay_power: float = Field(1.0, gt=0, description="Power of the decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="Of the averaged weights that are validated and kept.")


class LossSettings(_Section):
    """Terms beside the paper's four."""

    num_points: int = Field(3136, ge=16, description="Points per mask.")
    iou_weight: float = Field(0.5, ge=0, description="Of the predicted IoU.")
    object_weight: float = Field(0.5, ge=0, description="Of the object score.")


class TrainSettings(_Section):
    """A recipe."""

    model: ModelSettings = Field(default_factory=ModelSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    optimizer: OptimizerSettings = Field(default_factory=OptimizerSettings)
    loss: LossSettings = Field(default_factory=LossSettings)
    steps: int = Field(10_000, ge=1, description="Optimizer steps.")
    batch_pictures: int = Field(4, ge=1, description="Pictures per step and process.")
    seed: int = Field(0, ge=0, description="Of weights, points and pictures.")
    precision: Literal["no", "bf16", "fp16"] = Field("no", description="Mixed precision.")
    log_every: int = Field(50, ge=1, description="Steps between log lines.")
    validate_every: int = Field(1000, ge=1, description="Steps between validations.")
    checkpoint_every: int = Field(500, ge=1, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, description="Newest checkpoints that are kept.")


def read_settings(path: Path, changes: Sequence[str] = ()) -> TrainSettings:
    """Read a recipe.

    Args:
        path: YAML file.
        changes: "a.b=c", c in YAML.

    Raises:
        SettingsError: no such file, not YAML, unknown keys (with the nearest known one), wrong values: all at once.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError as error:
        raise SettingsError(f"No such file: {path}.") from error
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path} must hold settings by name, but holds a {type(content).__name__}.")
    for change in changes:
        _apply_change(content, change)
    try:
        return TrainSettings.model_validate(content)
    except ValidationError as error:
        raise SettingsError(f"{path}: " + "; ".join(_explain(detail) for detail in error.errors())) from error


def _apply_change(content: dict[str, Any], change: str) -> None:
    name, separator, value = change.partition("=")
    *parents, last = name.strip().split(".")
    if not separator or not last:
        raise SettingsError(f"A change must look like optimizer.learning_rate=0.001, but got {change!r}.")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise SettingsError(f"{change!r}: {parent!r} is not a section.")
    try:
        content[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise SettingsError(f"{change!r}: the value is not YAML: {' '.join(str(error).split())}.") from error


def _explain(detail: Any) -> str:
    location = ".".join(str(part) for part in detail["loc"])
    if detail["type"] != "extra_forbidden":
        return f"{location}: {detail['msg']} (got {detail['input']!r})"
    section: Any = TrainSettings
    for part in detail["loc"][:-1]:
        if isinstance(part, str):
            annotation = section.model_fields[part].annotation
            section = getattr(annotation, "__args__", (annotation,))[0]
    nearest = difflib.get_close_matches(str(detail["loc"][-1]), section.model_fields, n=1, cutoff=0.0)
    return f"unknown setting {location}, did you mean {nearest[0]}?" if nearest else f"unknown setting {location}"
