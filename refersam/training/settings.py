"""Settings of a training run: typed declarations with defaults and descriptions. `recipe` reads them from YAML."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from refersam.data.datasets import DATASETS
from refersam.errors import ReferSamError
from refersam.fields import StrictModel


class SettingsError(ReferSamError, ValueError):
    """A recipe is invalid."""


class ChangeError(SettingsError):
    """A `--set` is invalid, while the recipe is valid."""

    exit_code = 2


class Section(StrictModel):
    """A section of a recipe, which rejects unknown names, wrong types, NaN and infinity."""

    model_config = ConfigDict(validate_default=True)


WEIGHTLESS = frozenset({"domain", "drop_path", "guided_filter_radius", "guided_filter_epsilon"})
"""Fields of a model's configuration that can be changed for a trained model."""


class ModelSettings(Section):
    """The model to train, and the weights to start from."""

    preset: Literal["tiny", "base", "large", "huge"] = Field("tiny", description="Sizes of a new model.")
    text_encoder: Literal["bert", "clip"] = Field("bert", description="Text encoder of a new model.")
    sam: str | None = Field(None, description="Initial weights of SAM: Hub id, folder, or file by Meta.")
    text: str | None = Field(None, description="Initial weights of BERT or CLIP, with sam: Hub id or folder.")
    start_from: str | None = Field(None, description="Folder or Hub id of a trained ReferSAM model to start from.")
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
            raise ValueError("a run starts either from sam and text, or from start_from")
        if self.start_from is not None and not set(self.config) <= WEIGHTLESS:
            raise ValueError(
                "the configuration comes from start_from; config may only change fields without weights: "
                f"{', '.join(sorted(WEIGHTLESS))}"
            )
        return self


class AugmentSettings(Section):
    """Augmentations that keep phrases valid, as shares of the images."""

    flip: float = Field(0.0, ge=0, le=1, description="Share of mirrored images; left and right are swapped in phrases.")
    crop: float = Field(0.0, ge=0, le=1, description="Share of cropped images; targets and mentioned sides are kept.")
    smallest_crop: float = Field(0.6, gt=0, le=1, description="Minimum share of a side that a crop keeps.")
    colour: float = Field(
        0.0, ge=0, lt=1, description="Maximum change of brightness and contrast; 0 for phrases that mention a colour."
    )


class DataSettings(Section):
    """Training and validation data."""

    root: str | None = Field(None, description="Folder of the data sets; not needed by some extensions.")
    dataset: str = Field("refcoco", description="Name of the data set.")
    split: str = Field("train", description="Split to train on.")
    split_by: str | None = Field(None, description="Published partition of the data set; null for the default one.")
    validation_dataset: str | None = Field(None, description="Data set for validation; null for dataset.")
    validation_split: str = Field("val", description="Split for validation.")
    validation_images: int | None = Field(100, ge=1, description="Images for validation; null for the whole split.")
    image_size: int = Field(128, ge=32, le=4096, multiple_of=32, description="Side of the network's input in pixels.")
    phrases_per_image: int = Field(4, ge=1, le=32, description="Phrases per image in a batch.")
    no_target_share: float | None = Field(
        None, ge=0, lt=1, description="Share of phrases without target; null for the share in the data."
    )
    augment: AugmentSettings = Field(default_factory=AugmentSettings)
    max_text_tokens: int = Field(
        20, ge=3, description="Maximum length of a phrase in tokens; longer phrases are truncated."
    )
    vocab_size: int = Field(1024, ge=256, description="Maximum vocabulary size of a tokenizer trained from scratch.")
    workers: int = Field(1, ge=0, description="Number of worker processes for data loading.")

    @field_validator("dataset", "validation_dataset")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None and name not in DATASETS:
            raise ValueError(f"should be one of {', '.join(DATASETS)}")
        return name

    @model_validator(mode="after")
    def _fit_together(self) -> DataSettings:
        if self.dataset == "mixed" and self.validation_dataset is None:
            raise ValueError("mixed has no val split: set validation_dataset, for example to refcoco")
        return self


class OptimizerSettings(Section):
    """AdamW, optionally Muon for matrices; linear warm-up, constant learning rate, polynomial decay to zero."""

    learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate of interactor, prompter, SAM's decoder.")
    muon_learning_rate: float | None = Field(
        None, gt=0, description="Peak learning rate of Muon for matrices of linear layers; null for AdamW."
    )
    image_encoder_lr_scale: float = Field(1.0, gt=0, description="Scales the learning rates of SAM's image encoder.")
    text_encoder_lr_scale: float = Field(1.0, gt=0, description="Scales the learning rates of the text encoder.")
    spatial_prior_lr_scale: float = Field(
        1.0, ge=0, description="Scales the learning rates of the spatial prior; 0 freezes it."
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="Learning rate scale per ViT layer, from the last to the first."
    )
    weight_decay: float = Field(
        0.01, ge=0, description="Weight decay of matrices and kernels; 0 for norms, biases and tokens."
    )
    beta2: float = Field(0.98, gt=0, lt=1, description="AdamW's decay rate of the second moment.")
    warmup_steps: int = Field(200, ge=0, description="Steps of linear warm-up.")
    warmup_from: float = Field(0.0, ge=0, lt=1, description="Initial share of the peak learning rate in the warm-up.")
    decay_from: float = Field(0.5, ge=0, lt=1, description="Share of the steps at which the decay starts.")
    decay_power: float = Field(1.0, gt=0, description="Exponent of the polynomial decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Maximum gradient norm.")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="Decay of the exponential moving average of the weights.")


class LossSettings(Section):
    """Terms of the loss."""

    num_points: int = Field(3136, ge=16, description="Sampled points per mask; 12,544 in the paper.")
    mask_weight: float = Field(1.0, ge=0, description="Weight of the binary cross-entropy.")
    dice_weight: float = Field(1.0, ge=0, description="Weight of the dice loss.")
    coarse_weight: float = Field(1.0, ge=0, description="Weight of both terms for the coarse mask.")
    iou_weight: float = Field(0.5, ge=0, description="Weight of the loss of the predicted IoU.")
    object_weight: float = Field(0.5, ge=0, description="Weight of the loss of the object score.")


class ClickSettings(Section):
    """Training with simulated clicks and boxes beside the phrase."""

    share: float = Field(0.0, ge=0, le=1, description="Share of the batches whose masks are corrected by clicks.")
    rounds: int = Field(3, ge=1, le=20, description="Most corrections per batch; each has its loss.")
    only: bool = Field(
        False, description="Train SAM's decoder and prompt encoder alone, on features of the frozen rest."
    )
    cached_batches: int | None = Field(
        None, ge=1, description="With only: number of batches that are repeated; their features are kept in memory."
    )

    @model_validator(mode="after")
    def _fit_together(self) -> ClickSettings:
        if self.only and not self.share:
            raise ValueError("only needs a share above 0")
        if self.cached_batches is not None and not self.only:
            raise ValueError("cached_batches needs only: true, since features of a model in training change")
        return self


class TrainSettings(Section):
    """A recipe."""

    extension: str | None = Field(
        None, description="Import path of a module that adds settings, images, objectives or phases."
    )
    model: ModelSettings = Field(default_factory=ModelSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    optimizer: OptimizerSettings = Field(default_factory=OptimizerSettings)
    loss: LossSettings = Field(default_factory=LossSettings)
    clicks: ClickSettings = Field(default_factory=ClickSettings)
    steps: int = Field(10_000, ge=1, description="Optimizer steps.")
    epochs: float | None = Field(None, gt=0, description="Epochs over the data set, instead of steps.")
    batch_size: int = Field(4, ge=1, description="Images per forward pass and process.")
    gradient_accumulation_steps: int = Field(1, ge=1, description="Forward passes per optimizer step.")
    seed: int = Field(0, ge=0, lt=2**31, description="Random seed of weights, sampled points and images.")
    precision: Literal["no", "bf16", "fp16"] = Field("no", description="Mixed precision.")
    sharding: Literal["none", "full"] = Field(
        "none", description="full: shard the model over processes (FSDP); none: one full model per process."
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute activations again in the backward pass, not store them."
    )
    max_skipped: int = Field(5, ge=0, description="Maximum skipped steps (NaN or exploding loss) in 100 steps.")
    log_every: int = Field(50, ge=1, description="Steps between log lines.")
    validate_every: int = Field(1000, ge=1, description="Steps between validations.")
    checkpoint_every: int = Field(500, ge=1, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, description="Number of newest checkpoints to keep.")
    keep_best: int = Field(1, ge=0, description="Number of best checkpoints to keep in addition, by validation.")
    final_model: Literal["last", "best"] = Field("last", description="Averaged weights to use as the final model.")
    trackers: list[Literal["wandb", "trackio"]] = Field([], description="Trackers in addition to TensorBoard.")

    @model_validator(mode="after")
    def _fit_together(self) -> TrainSettings:
        has_muon = self.optimizer.muon_learning_rate is not None
        if self.precision == "fp16" and has_muon:
            raise ValueError("optimizer.muon_learning_rate works with precision bf16 or no, not with fp16")
        if self.sharding == "full" and has_muon:
            raise ValueError("sharding: full works without optimizer.muon_learning_rate: Muon needs full matrices")
        if self.sharding == "full" and self.precision == "fp16":
            raise ValueError("sharding: full works with precision bf16 or no, not with fp16")
        if self.final_model == "best" and not self.keep_best:
            raise ValueError("final_model: best needs keep_best of 1 or more")
        return self
