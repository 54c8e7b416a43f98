"""Published models of transformers with the interface of the predictor, one module per family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from refersam.checkpoints.published import Published
from refersam.errors import CheckpointError, ReferSamError, one_line
from refersam.inference.published.base import TransformersModel, TransformersProcessor
from refersam.inference.published.clipseg import load_clipseg
from refersam.inference.published.grounded_sam import load_grounded_sam
from refersam.inference.published.sam3 import load_sam3

Loader = Callable[..., tuple[TransformersModel, TransformersProcessor]]

LOADERS: dict[str, Loader] = {"clipseg": load_clipseg, "grounded-sam": load_grounded_sam, "sam3": load_sam3}
"""Loaders by alias; arguments are the directories of the family's weights, and a dtype."""


def load_published(
    published: Published, device: torch.device, dtype: torch.dtype
) -> tuple[TransformersModel, TransformersProcessor]:
    """Load a published model and its processor; missing files are downloaded.

    Only configuration, tokenizer and safetensors files are read. No code from a repository is executed.

    Args:
        published: result of `find_published` or `published_of_type`.
        device: device of the model.
        dtype: dtype of the weights.

    Raises:
        CheckpointError: there is no network or access, or files are missing, broken or of another model.
    """
    folders: list[Path] = published.fetch()
    try:
        model, processor = LOADERS[published.family.alias](*folders, dtype=dtype)
    except ReferSamError:
        raise
    except Exception as error:  # a foreign directory may raise any error
        raise CheckpointError(f"{' and '.join(published.names)} could not be loaded: {one_line(error)}.") from error
    return model.to(device).eval(), processor
