"""Published models of transformers behind the interface of the predictor: one file per family."""

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
"""By alias; each takes the directories of the family's weights, and a dtype."""


def load_published(
    published: Published, device: torch.device, dtype: torch.dtype
) -> tuple[TransformersModel, TransformersProcessor]:
    """Load a published model and its processor; what is missing is downloaded.

    Only configuration, tokenizer and safetensors files are read: nothing in a repository is executed.

    Args:
        published: of `find_published` or `published_of_type`.
        device: to run on.
        dtype: of the weights.

    Raises:
        CheckpointError: no network, no access, or files that are missing, broken or of another model.
    """
    folders: list[Path] = published.fetch()
    try:
        model, processor = LOADERS[published.family.alias](*folders, dtype=dtype)
    except ReferSamError:
        raise
    except Exception as error:  # of any kind: a foreign folder may hold anything
        raise CheckpointError(f"{' and '.join(published.names)} could not be loaded: {one_line(error)}.") from error
    return model.to(device).eval(), processor
