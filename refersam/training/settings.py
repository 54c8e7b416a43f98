"""Settings of a training run: one typed declaration. `recipe` reads them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from refersam.data.datasets import DATASETS
from refersam.errors import ReferSamError
from refersam.fields import StrictModel
from sceneref.settings import SceneRefSettings


class SettingsError(ReferSamError, ValueError):
    """A recipe that cannot be used."""


class ChangeError(SettingsError):
    """A `--set` that cannot be used, with a recipe that can."""

    exit_code = 2


class _Section(StrictModel):
    model_config = ConfigDict(validate_default=True)


WEIGHTLESS = frozenset({"domain", "drop_path", "guided_filter_radius", "guided_filter_epsilon"})
"""Fields of a model's configuration that any trained model can be given another value of."""


class ModelSettings(_Section):
    """What is trained."""

    preset: Literal["tiny", "base", "large", "huge"] = Field("tiny", description="Sizes of a model from scratch.")
    text_encoder: Literal["bert", "clip"] = Field("bert", description="Kind of text encoder of a model from scratch.")
    sam: str | None = Field(None, description="Weights of SAM to start from: Hub id, folder or one of Meta's files.")
    text: str | None = Field(None, description="Weights of BERT or CLIP to start from, with sam: Hub id or folder.")
    start_from: str | None = Field(None, description="Folder or Hub id of a whole ReferSAM model to start from.")
    prior: str | None = Field(
        None, description="Folder or Hub id of a ReferSAM model whose spatial prior to start from, not pretraining one."
    )
    config: dict[str, Any] = Field(default_factory=dict, description="Other fields of ReferSamConfig.")

    @field_validator("config")
    @classmethod
    def _is_of_declared_types(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Check names and types before any model is built."""
        if not config:
            return config
        from refersam.config import check_overrides  # transformers takes seconds to load

        return check_overrides(config)

    @model_validator(mode="after")
    def _has_one_start(self) -> ModelSettings:
        if (self.sam is None) != (self.text is None):
            raise ValueError("sam and text belong together: give both, or neither for a model from scratch")
        if self.sam is not None and self.start_from is not None:
            raise ValueError("a run starts from sam and text, or from start_from, not from both")
        if self.start_from is not None and self.prior is not None:
            raise ValueError("the model in start_from has a spatial prior already: leave out prior")
        if self.start_from is not None and not set(self.config) <= WEIGHTLESS:
            raise ValueError(
                "config is that of the model in start_from, of which only what has no weights can be changed: "
                f"{', '.join(sorted(WEIGHTLESS))}"
            )
        return self


class SceneSettings(_Section):
    """What drawn scenes and their phrases are like."""

    min_objects: int = Field(2, ge=2, le=10, description="Fewest objects in a picture.")
    max_objects: int = Field(10, ge=2, le=10, description="Most objects in a picture.")
    difficulty: float = Field(1.0, ge=0, le=1, description="How busy the drawing is.")
    patterned: float | None = Field(
        None, ge=0, le=1, description="Share of pictures with patterned objects; none for half of difficulty."
    )
    named: tuple[Literal["size", "pattern", "colour", "shape"], ...] | None = Field(
        None, min_length=1, description="Attributes that phrases describe objects by; none for all."
    )
    phenomena: dict[str, float] | None = Field(None, description="Share of each phenomenon; none for SceneRef's own.")

    @field_validator("phenomena")
    @classmethod
    def _without_zeros(cls, shares: dict[str, float] | None) -> dict[str, float] | None:
        """A recipe leaves out what the one that it extends has by a share of 0."""
        return (
            {name: share for name, share in shares.items() if share != 0} if shares and any(shares.values()) else shares
        )

    @model_validator(mode="after")
    def _can_be_drawn(self) -> SceneSettings:
        self.scenes(256, 1)
        return self

    def scenes(self, side: int, phrases: int) -> SceneRefSettings:
        """Of square pictures of `side` pixels with `phrases` phrases each.

        Raises:
            ValueError: they cannot be drawn.
        """
        own = self.model_dump(include=set(SceneSettings.model_fields))
        return SceneRefSettings(width=side, height=side, phrases_per_scene=phrases, **own)


class StageSettings(SceneSettings):
    """Difficulty of the scenes, and size of the input, up to a share of the training."""

    until: float = Field(1.0, gt=0, le=1, description="Share of all steps at which the stage ends.")
    image_size: int | None = Field(
        None, ge=32, multiple_of=32, description="Side of the network's input in pixels; none for data.image_size."
    )
    review: float = Field(
        0.0, ge=0, lt=1, description="Share of pictures that are as in the stage before, against forgetting."
    )


class WordingSettings(_Section):
    """Other ways to say the same; shares of the phrases."""

    synonyms: float = Field(
        0.0, ge=0, le=1, description="Share of phrases with a word of SceneRef by another name; for SceneRef alone."
    )
    typing_errors: float = Field(0.0, ge=0, le=1, description="Share of phrases with a typing error in one word.")
    frames: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share inside a sentence, please mark ...; in lessons in reading a batch's all or none.",
    )


class AugmentSettings(WordingSettings):
    """Changes that leave phrases true; shares of the pictures, or of the phrases."""

    flip: float = Field(0.0, ge=0, le=1, description="Share that is mirrored, left and right swapped in its phrases.")
    crop: float = Field(0.0, ge=0, le=1, description="Share that is cropped, keeping targets and mentioned sides.")
    smallest_crop: float = Field(0.6, gt=0, le=1, description="Least share of a side that a crop keeps.")
    colour: float = Field(0.0, ge=0, lt=1, description="Most change of brightness and contrast, none if spoken of.")


_DRAWN = ("stages", "validation_scenes")
"""Fields of `DataSettings` that describe scenes drawn while training."""


class DataSettings(_Section):
    """Where pictures and phrases come from, and how they are shown."""

    root: str | None = Field(None, description="Folder of the data sets; none draws SceneRef, no picture twice.")
    dataset: str = Field("sceneref", description="Name of the data set.")
    split: str = Field("train", description="Split to train on.")
    split_by: str | None = Field(None, description="Published partition of the data set; none for the usual one.")
    validation_dataset: str | None = Field(None, description="Data set that validation runs on; none for dataset.")
    validation_split: str = Field("val", description="Split that validation runs on.")
    validation_scenes: SceneSettings | None = Field(
        None, description="What SceneRef's validation scenes are like; none for the benchmark's own."
    )
    validation_pictures: int | None = Field(
        100, ge=1, description="First pictures of that split; none for all, of a drawn SceneRef 100."
    )
    image_size: int = Field(128, ge=32, le=4096, multiple_of=32, description="Side of the network's input in pixels.")
    picture_sizes: list[Annotated[int, Field(ge=32, le=4096)]] = Field(
        [128], min_length=1, description="Sides of SceneRef's drawn pictures, in turn."
    )
    phrases_per_picture: int = Field(4, ge=1, le=32, description="Phrases asked of each picture.")
    no_target_share: float | None = Field(
        None, ge=0, lt=1, description="Share of phrases without target; none for as many as there are."
    )
    augment: AugmentSettings = Field(default_factory=AugmentSettings)
    max_text_tokens: int = Field(20, ge=3, description="Longer phrases are cut.")
    vocab_size: int = Field(1024, ge=256, description="Most entries of a tokenizer trained here.")
    stages: list[StageSettings] = Field([StageSettings()], min_length=1, description="SceneRef's curriculum, in order.")
    workers: int = Field(1, ge=0, description="Processes that prepare batches.")

    @field_validator("dataset", "validation_dataset")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None and name not in DATASETS:
            raise ValueError(f"should be one of {', '.join(DATASETS)}")
        return name

    @model_validator(mode="after")
    def _fit_together(self) -> DataSettings:
        if self.root is None:
            if {self.dataset, self.validation_dataset} - {"sceneref", None}:
                raise ValueError("root is needed, the folder of the data sets (docs/datasets.md)")
            if self.no_target_share is not None:
                raise ValueError("no_target_share is for data sets; a drawn SceneRef has stages.phenomena")
        else:
            self._check_for_files()
        return self

    def _check_for_files(self) -> None:
        """Refuse what holds for drawn scenes alone."""
        given = [name for name in _DRAWN if getattr(self, name) != type(self).model_fields[name].get_default()]
        if given:
            verb = "describes" if len(given) == 1 else "describe"
            raise ValueError(f"{' and '.join(given)} {verb} scenes drawn while training: leave out root, or that")
        if self.dataset != "sceneref" and self.augment.synonyms > 0:
            raise ValueError(
                "augment.synonyms puts other words for SceneRef's shapes and colours, such as stick for bar, which are "
                f"wrong in phrases of {self.dataset}: leave it out"
            )
        if self.dataset == "mixed" and self.validation_dataset is None:
            raise ValueError("mixed has no val split: give validation_dataset, such as refcoco")

    @property
    def is_drawn(self) -> bool:
        """Whether scenes are drawn while training."""
        return self.root is None


class OptimizerSettings(_Section):
    """AdamW, for matrices Muon if wanted, with warm-up, a constant rate, and a polynomial decay to zero."""

    learning_rate: float = Field(1e-3, gt=0, description="Highest rate, of the interactor, prompter and SAM's decoder.")
    matrix_rate: float | None = Field(
        None, gt=0, description="Highest rate of Muon, which then takes the linear layers' matrices; none for AdamW."
    )
    backbone_factor: float = Field(1.0, gt=0, description="Of the rates, for SAM's image encoder.")
    text_factor: float = Field(1.0, gt=0, description="Of the rates, for the text encoder.")
    prior_factor: float = Field(1.0, ge=0, description="Of the rate, for the spatial prior; 0 leaves it as it is.")
    layer_decay: float = Field(1.0, gt=0, le=1, description="Further factor per ViT layer, from the last to the first.")
    weight_decay: float = Field(0.01, ge=0, description="On matrices and kernels; none on norms, biases, tokens.")
    beta2: float = Field(0.98, gt=0, lt=1, description="AdamW's second moment.")
    warmup_steps: int = Field(200, ge=0, description="Steps of linear warm-up.")
    warmup_from: float = Field(0.0, ge=0, lt=1, description="Share of the rate at which the warm-up starts.")
    decay_from: float = Field(0.5, ge=0, lt=1, description="Share of the steps at which the decay starts.")
    decay_power: float = Field(1.0, gt=0, description="Power of the decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="Of the averaged weights that are validated and kept.")


_OF_DRAWN_OBJECTS: dict[str, Any] = {"needs_objects": True}
"""Marks a loss term that is learned from what a drawn scene knows of its objects."""


class LossSettings(_Section):
    """The paper's terms, two beside them, and auxiliary ones of drawn scenes."""

    num_points: int = Field(3136, ge=16, description="Points per mask; 12,544 in the paper.")
    mask_weight: float = Field(1.0, ge=0, description="Of binary cross-entropy.")
    dice_weight: float = Field(1.0, ge=0, description="Of dice.")
    coarse_weight: float = Field(1.0, ge=0, description="Of both on the coarse mask.")
    iou_weight: float = Field(0.5, ge=0, description="Of the predicted IoU.")
    object_weight: float = Field(0.5, ge=0, description="Of the object score.")
    grounding_weight: float = Field(
        0.0,
        ge=0,
        description="Of finding all objects that a phrase of a drawn scene mentions; 0 leaves it out.",
        json_schema_extra=_OF_DRAWN_OBJECTS,
    )
    pointing_weight: float = Field(
        0.0,
        ge=0,
        description="Of pointing at objects that a phrase of a drawn scene mentions; 0 leaves it out.",
        json_schema_extra=_OF_DRAWN_OBJECTS,
    )
    looks_weight: float = Field(
        0.0,
        ge=0,
        description="Of telling colour, shape and pattern of a drawn scene's objects; 0 leaves it out.",
        json_schema_extra=_OF_DRAWN_OBJECTS,
    )
    condition_weight: float = Field(
        0.0,
        ge=0,
        description="Of telling where the place is that a phrase speaks of, or what it negates; 0 leaves it out.",
        json_schema_extra=_OF_DRAWN_OBJECTS,
    )
    position_weight: float = Field(
        0.0, ge=0, description="Of telling where in the picture each token of the pyramids is; 0 leaves it out."
    )

    @property
    def needs_heads(self) -> bool:
        """Whether a term is of heads that are thrown away after the training."""
        return self.needs_objects or self.position_weight > 0

    @property
    def needs_objects(self) -> bool:
        """Whether a term asks for what a drawn scene knows of its objects."""
        return bool(self.object_terms)

    @property
    def object_terms(self) -> list[str]:
        """Names of the weights above 0 whose terms ask for that."""
        marked = (name for name, f in type(self).model_fields.items() if f.json_schema_extra == _OF_DRAWN_OBJECTS)
        return [name for name in marked if getattr(self, name) > 0]


class PretrainingSettings(WordingSettings):
    """Lessons on labels of drawn scenes, before the first step, in what sees no phrase or in what reads them.

    How phrases are worded is of part language.
    """

    part: Literal["prior", "encoder", "language"] = Field(
        "prior",
        description="The spatial prior alone; with it SAM's first layers up to the first extraction; or what reads "
        "phrases: text encoder, context tokens and fusions.",
    )
    steps: int = Field(6000, ge=1, description="Optimizer steps.")
    pictures: int = Field(7000, ge=1, description="Pictures drawn for it, shown many times, turned and mirrored.")
    batch_pictures: int = Field(
        16, ge=1, description="Pictures per step and process; of part language, each with one phrase."
    )
    phrases_per_picture: int = Field(32, ge=1, le=256, description="Phrases drawn about a picture, of part language.")
    phenomena: dict[str, float] | None = Field(
        None, description="Share of each phenomenon, of part language; none for SceneRef's own."
    )
    image_size: int = Field(128, ge=32, le=1024, multiple_of=32, description="Side of the pictures in pixels.")
    max_objects: int = Field(8, ge=2, le=10, description="Most objects in a picture.")
    difficulty: float = Field(0.6, ge=0, le=1, description="How busy the drawing is.")
    patterned: float | None = Field(
        None, ge=0, le=1, description="Share of pictures with patterned objects; none for half of difficulty."
    )
    position_weight: float = Field(
        0.0, ge=0, description="Of telling where in the picture a place is, of part encoder; 0 leaves it out."
    )
    learning_rate: float = Field(2e-3, gt=0, description="Highest rate of AdamW.")
    warmup_steps: int = Field(50, ge=1, description="Steps of linear warm-up.")
    decay_from: float = Field(0.65, ge=0, lt=1, description="Share of the steps at which a linear decay starts.")
    log_every: int = Field(100, ge=1, description="Steps between log lines.")
    checkpoint_every: int = Field(500, ge=1, description="Steps between checkpoints.")

    @model_validator(mode="after")
    def _fit_together(self) -> PretrainingSettings:
        if self.position_weight > 0 and self.part != "encoder":
            raise ValueError(
                "position_weight is for part: encoder; the spatial prior's convolutions do not know where they are"
            )
        if self.part == "language" and self.image_size < 64:
            raise ValueError("part: language needs an image_size of 64 or more, but it is 32")
        self.scenes()
        return self

    def scenes(self) -> SceneRefSettings:
        """Of the pictures, with the one phrase each that a scene has at least.

        Raises:
            ValueError: they cannot be drawn.
        """
        return SceneRefSettings(
            width=self.image_size,
            height=self.image_size,
            max_objects=self.max_objects,
            phrases_per_scene=1,
            difficulty=self.difficulty,
            patterned=self.patterned,
            phenomena=self.phenomena,
        )

    def rate(self, step: int) -> float:
        """Learning rate at a step, counted from 0."""
        left = (1 - step / self.steps) / (1 - self.decay_from)
        return self.learning_rate * min(1.0, (step + 1) / self.warmup_steps, left)


def _in_a_list(value: Any) -> Any:
    """One phase may be given without the list around it, and null for none."""
    if value is None:
        return []
    return [value] if isinstance(value, dict | PretrainingSettings) else value


class TrainSettings(_Section):
    """A recipe."""

    pretraining: Annotated[list[PretrainingSettings], BeforeValidator(_in_a_list)] = Field(
        [], description="Phases before the first step, in order; a single one may stand without the list."
    )
    model: ModelSettings = Field(default_factory=ModelSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    optimizer: OptimizerSettings = Field(default_factory=OptimizerSettings)
    loss: LossSettings = Field(default_factory=LossSettings)
    steps: int = Field(10_000, ge=1, description="Optimizer steps.")
    epochs: float | None = Field(None, gt=0, description="Passes over the data set, in place of steps.")
    batch_pictures: int = Field(4, ge=1, description="Pictures per forward pass and process.")
    accumulate: int = Field(1, ge=1, description="Forward passes per step.")
    seed: int = Field(0, ge=0, lt=2**31, description="Of weights, points and pictures.")
    precision: Literal["no", "bf16", "fp16"] = Field("no", description="Mixed precision.")
    sharding: Literal["none", "full"] = Field(
        "none", description="Whether processes share out one model (FSDP), or hold a whole one each."
    )
    gradient_checkpointing: bool = Field(
        False, description="Store the inputs of layers only, and compute the layers twice: less memory, more time."
    )
    max_skipped: int = Field(5, ge=0, description="Steps in 100 whose loss may be no number or explode.")
    explosion: float = Field(20.0, gt=1, description="A loss explodes at this many times the recent mean.")
    log_every: int = Field(50, ge=1, description="Steps between log lines.")
    validate_every: int = Field(1000, ge=1, description="Steps between validations.")
    checkpoint_every: int = Field(500, ge=1, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, description="Newest checkpoints that are kept.")
    keep_best: int = Field(1, ge=0, description="Best checkpoints that are kept beside them, by validation.")
    final_model: Literal["last", "best"] = Field("last", description="Which averaged weights become the final model.")
    trackers: list[Literal["wandb", "trackio"]] = Field([], description="Trackers beside TensorBoard.")

    @model_validator(mode="after")
    def _fit_together(self) -> TrainSettings:
        if self.model.prior is not None and any(phase.part != "language" for phase in self.pretraining):
            raise ValueError("pretraining teaches the spatial prior, and model.prior takes one over: leave out one")
        if self.pretraining and not self.data.is_drawn:
            raise ValueError("pretraining teaches what drawn scenes show: leave it out for a data set")
        if self.epochs is not None and self.data.is_drawn:
            raise ValueError("epochs are passes over a data set, and a drawn SceneRef has no end: give steps")
        if self.precision == "fp16" and self.optimizer.matrix_rate is not None:
            raise ValueError("optimizer.matrix_rate works with precision bf16 or no, not with fp16")
        if self.sharding == "full" and self.optimizer.matrix_rate is not None:
            raise ValueError("sharding: full goes without optimizer.matrix_rate, since Muon needs whole matrices")
        if self.sharding == "full" and self.precision == "fp16":
            raise ValueError("sharding: full works with precision bf16 or no, not with fp16")
        if self.sharding == "full" and self.pretraining:
            raise ValueError("sharding: full is for models that start from published weights: leave out pretraining")
        terms = " and ".join(f"loss.{name}" for name in self.loss.object_terms)
        if terms and not self.data.is_drawn:
            raise ValueError(f"{terms} can only be used with scenes drawn while training: leave out data.root, or that")
        if terms and self.precision == "fp16":
            raise ValueError(f"{terms} can only be used with precision bf16 or no, not with fp16")
        if terms and self.sharding == "full":
            raise ValueError(f"{terms} cannot be used with sharding: full")
        if self.final_model == "best" and not self.keep_best:
            raise ValueError("final_model: best needs keep_best of 1 or more")
        return self
