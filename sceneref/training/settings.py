"""Settings of a training on SceneRef: the recipe's section `sceneref`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from refersam.training.settings import Section, TrainSettings
from sceneref.settings import SceneRefSettings


class SceneSettings(Section):
    """Content of rendered scenes and of their phrases."""

    min_objects: int = Field(2, ge=2, le=10, description="Fewest objects in an image.")
    max_objects: int = Field(10, ge=2, le=10, description="Most objects in an image.")
    difficulty: float = Field(1.0, ge=0, le=1, description="Visual complexity: background, shading, overlap.")
    patterned: float | None = Field(
        None, ge=0, le=1, description="Share of images with patterned objects; null for half of difficulty."
    )
    named: tuple[Literal["size", "pattern", "colour", "shape"], ...] | None = Field(
        None, min_length=1, description="Attributes that phrases describe objects by; null for all."
    )
    phenomena: dict[str, float] | None = Field(
        None, description="Share of each phenomenon; null for SceneRef's own shares."
    )

    @field_validator("phenomena")
    @classmethod
    def _drop_zeros(cls, shares: dict[str, float] | None) -> dict[str, float] | None:
        """Remove phenomena with a share of 0, by which a recipe excludes a phenomenon of the recipe that it extends."""
        return (
            {name: share for name, share in shares.items() if share != 0} if shares and any(shares.values()) else shares
        )

    @model_validator(mode="after")
    def _can_be_rendered(self) -> SceneSettings:
        self.scenes(256, 1)
        return self

    def scenes(self, side: int, phrases: int) -> SceneRefSettings:
        """Return generator settings for square images.

        Args:
            side: side of the images in pixels.
            phrases: number of phrases per image.

        Raises:
            ValueError: invalid settings.
        """
        own = self.model_dump(include=set(SceneSettings.model_fields))
        return SceneRefSettings(width=side, height=side, phrases_per_scene=phrases, **own)


class StageSettings(SceneSettings):
    """One stage of the curriculum."""

    until: float = Field(1.0, gt=0, le=1, description="Share of all steps at which the stage ends.")
    image_size: int | None = Field(
        None, ge=32, multiple_of=32, description="Side of the network's input in pixels; null for data.image_size."
    )
    review: float = Field(
        0.0, ge=0, lt=1, description="Share of images of the previous stage, to prevent forgetting it."
    )


class RewordingSettings(Section):
    """Text augmentation, as shares of the phrases."""

    synonyms: float = Field(0.0, ge=0, le=1, description="Share of phrases with one word replaced by a synonym.")
    typing_errors: float = Field(0.0, ge=0, le=1, description="Share of phrases with a typing error in one word.")
    sentences: float = Field(
        0.0,
        ge=0,
        le=1,
        description='Share of phrases inside a sentence ("please mark ..."); in text pretraining, share of batches.',
    )


class ObjectiveSettings(Section):
    """Weights of the auxiliary objectives; 0 disables an objective."""

    grounding: float = Field(0.0, ge=0, description="Weight of segmenting the objects that the phrase mentions.")
    pointing: float = Field(
        0.0, ge=0, description="Weight of a softmax over all cells for the objects that the phrase mentions."
    )
    attributes: float = Field(0.0, ge=0, description="Weight of classifying colour, shape and pattern of every object.")
    conditions: float = Field(
        0.0, ge=0, description="Weight of segmenting the region or the negation that the phrase states."
    )
    positions: float = Field(0.0, ge=0, description="Weight of regressing the position of each pyramid token.")

    @property
    def needs_objects(self) -> bool:
        """Whether an enabled objective needs labels of the scene's objects."""
        return any((self.grounding, self.pointing, self.attributes, self.conditions))

    @property
    def any(self) -> bool:
        """Whether any objective is enabled."""
        return self.needs_objects or self.positions > 0


class PretrainingSettings(RewordingSettings):
    """A pretraining phase, run before the first step of training. Text augmentation is for `part: text`."""

    part: Literal["prior", "encoder", "text"] = Field(
        "prior",
        description="Parts to train: prior for the spatial prior; encoder for it and SAM's layers up to the first "
        "extraction; text for text encoder, context tokens and fusions, on cached image tokens.",
    )
    steps: int = Field(6000, ge=1, description="Optimizer steps.")
    images: int = Field(7000, ge=1, description="Number of rendered scenes, which are used repeatedly.")
    batch_size: int = Field(16, ge=1, description="Images per step and process; for part text, phrases.")
    phrases_per_image: int = Field(32, ge=1, le=256, description="Phrases generated per image, for part text.")
    phenomena: dict[str, float] | None = Field(
        None, description="Share of each phenomenon, for part text; null for SceneRef's own shares."
    )
    image_size: int = Field(128, ge=32, le=1024, multiple_of=32, description="Side of the images in pixels.")
    max_objects: int = Field(8, ge=2, le=10, description="Most objects in an image.")
    difficulty: float = Field(0.6, ge=0, le=1, description="Visual complexity: background, shading, overlap.")
    patterned: float | None = Field(
        None, ge=0, le=1, description="Share of images with patterned objects; null for half of difficulty."
    )
    position_weight: float = Field(
        0.0, ge=0, description="Weight of regressing token positions, for part encoder; 0 disables it."
    )
    learning_rate: float = Field(2e-3, gt=0, description="Peak learning rate of AdamW.")
    warmup_steps: int = Field(50, ge=1, description="Steps of linear warm-up.")
    decay_from: float = Field(0.65, ge=0, lt=1, description="Share of the steps at which the linear decay starts.")
    log_every: int = Field(100, ge=1, description="Steps between log lines.")
    checkpoint_every: int = Field(500, ge=1, description="Steps between checkpoints.")

    @model_validator(mode="after")
    def _fit_together(self) -> PretrainingSettings:
        if self.position_weight > 0 and self.part != "encoder":
            raise ValueError(
                "position_weight is for part: encoder; the spatial prior's convolutions cannot represent positions"
            )
        if self.part == "text" and self.image_size < 64:
            raise ValueError("part: text needs an image_size of 64 or more, but it is 32")
        self.scenes()
        return self

    def scenes(self) -> SceneRefSettings:
        """Return generator settings for the images, with one phrase per scene, the minimum.

        Raises:
            ValueError: invalid settings.
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

    def lr_factor(self, step: int) -> float:
        """Return the learning rate at a step, counted from 0, as a share of the peak learning rate."""
        left = (1 - step / self.steps) / (1 - self.decay_from)
        return min(1.0, (step + 1) / self.warmup_steps, left)


def _as_list(value: Any) -> Any:
    """Accept a single phase without the list around it, and null for none."""
    if value is None:
        return []
    return [value] if isinstance(value, dict | PretrainingSettings) else value


class SceneRefSection(Section):
    """The recipe's section `sceneref`."""

    stages: list[StageSettings] = Field([StageSettings()], min_length=1, description="Curriculum, in order.")
    scene_sizes: list[Annotated[int, Field(ge=32, le=4096)]] = Field(
        [128], min_length=1, description="Sides of the rendered images in pixels, used cyclically."
    )
    validation: SceneSettings = Field(
        default_factory=SceneSettings, description="Content of the validation scenes; the benchmark's by default."
    )
    rewording: RewordingSettings = Field(default_factory=RewordingSettings)
    objectives: ObjectiveSettings = Field(default_factory=ObjectiveSettings)
    pretraining: Annotated[list[PretrainingSettings], BeforeValidator(_as_list)] = Field(
        [], description="Phases before the first step, in order; a list, or a single phase."
    )
    spatial_prior_from: str | None = Field(
        None, description="Folder or Hub id of a ReferSAM model that provides the initial spatial prior."
    )


class SceneRefTrainSettings(TrainSettings):
    """A recipe with `extension: sceneref.training`: training images are rendered without repetition."""

    sceneref: SceneRefSection = Field(default_factory=SceneRefSection)

    @model_validator(mode="after")
    def _fit_sceneref(self) -> SceneRefTrainSettings:
        section = self.sceneref
        if self.data.root is not None:
            raise ValueError("data.root is for data sets, but extension: sceneref.training renders its images")
        if self.data.no_target_share is not None:
            raise ValueError("data.no_target_share is for data sets; set the share no-target of sceneref.stages")
        if self.epochs is not None:
            raise ValueError("epochs are passes over a data set, but rendered scenes have no end: give steps")
        if section.spatial_prior_from is not None:
            if self.model.start_from is not None:
                raise ValueError("the model in model.start_from has a spatial prior: leave out spatial_prior_from")
            if any(phase.part != "text" for phase in section.pretraining):
                raise ValueError("pretraining replaces the spatial prior of spatial_prior_from: leave out one of them")
        if section.objectives.needs_objects and self.precision == "fp16":
            raise ValueError("sceneref.objectives work with precision bf16 or no, not with fp16")
        if self.sharding == "full" and (section.objectives.any or section.pretraining):
            raise ValueError("sharding: full works without sceneref.objectives and sceneref.pretraining")
        return self
