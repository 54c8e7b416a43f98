"""Construction of the initial model and processor of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from refersam.checkpoints.backbones import model_from_backbones
from refersam.checkpoints.folders import load_model
from refersam.config import ReferSamConfig
from refersam.errors import CheckpointError, ReferSamError
from refersam.hub import DownloadError
from refersam.model.refersam import ReferSamModel
from refersam.model.spatial_prior import SpatialPrior
from refersam.processor import ReferSamImageProcessor, ReferSamProcessor
from refersam.tokenizer import train_tokenizer
from refersam.training.settings import ModelSettings, SettingsError, TrainSettings
from refersam.training.sources import Source


def build_processor(settings: TrainSettings, source: Source) -> ReferSamProcessor:
    """Build the processor of a run.

    The tokenizer is that of the initial weights; without them, it is trained on the phrases of the data.

    Raises:
        CheckpointError: the named checkpoint has no tokenizer.
    """
    if settings.model.start_from is not None:
        with _naming_the_setting(settings.model):
            tokenizer = load_model(settings.model.start_from)[1].tokenizer
    elif settings.model.text is not None:
        with _naming_the_setting(settings.model):
            tokenizer = ReferSamProcessor.from_text_encoder(settings.model.text).tokenizer
    else:
        tokenizer = train_tokenizer(source.phrases(), settings.data.vocab_size)
    side = settings.data.image_size
    image_processor = ReferSamImageProcessor(size={"height": side, "width": side})
    return ReferSamProcessor(image_processor, tokenizer, max_text_tokens=settings.data.max_text_tokens)


def build_model(settings: TrainSettings, processor: ReferSamProcessor) -> ReferSamModel:
    """Build the model of a run: from scratch, from SAM and a text encoder, or from a trained model.

    Raises:
        CheckpointError: weights that are missing, unsafe or of another model.
        SettingsError: incompatible sizes.
    """
    asked = settings.model
    try:
        with _naming_the_setting(asked):
            model = _start_model(asked, processor)
    except ReferSamError:
        raise
    except (ValueError, TypeError, AttributeError, ZeroDivisionError, RuntimeError) as error:  # of wrong sizes
        raise SettingsError(f"model.config: {error}") from error
    room = model.config.text_config.max_position_embeddings
    if settings.data.max_text_tokens > room:
        raise SettingsError(
            f"data.max_text_tokens must be at most {room}, the limit of the text encoder, but is "
            f"{settings.data.max_text_tokens}."
        )
    prior = spatial_prior_of(model)
    if prior is not None and settings.optimizer.spatial_prior_lr_scale == 0:
        prior.requires_grad_(False)
    model.config.supports_clicks |= settings.clicks.share > 0
    model.interactor.gradient_checkpointing = settings.gradient_checkpointing
    return model


def _start_model(asked: ModelSettings, processor: ReferSamProcessor) -> ReferSamModel:
    if asked.start_from is not None:
        return load_model(asked.start_from, asked.config)[0]
    if asked.sam is not None and asked.text is not None:
        return model_from_backbones(asked.sam, asked.text, **asked.config)
    config = ReferSamConfig.from_preset(asked.preset, asked.text_encoder, **asked.config)
    config.text_config.vocab_size = len(processor.tokenizer)
    return ReferSamModel(config)


@contextmanager
def _naming_the_setting(asked: ModelSettings) -> Iterator[None]:
    """Add the name of the setting with the Hub id to errors about missing downloads."""
    try:
        yield
    except DownloadError as error:
        names = ("sam", "text", "start_from")
        settings = " and ".join(f"model.{name}" for name in names if getattr(asked, name) == error.name)
        raise CheckpointError(f"{settings}: {error}") from error


def spatial_prior_of(model: ReferSamModel) -> SpatialPrior | None:
    """Return the model's spatial prior; None for an ablation without interactor."""
    return cast("SpatialPrior | None", getattr(model.interactor, "spatial_prior", None))
