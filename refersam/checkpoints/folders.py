"""Load ReferSAM models from folders and Hub ids."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from refersam.checkpoints.registration import register_classes
from refersam.config import ReferSamConfig, check_spelling
from refersam.errors import CheckpointError, first_of, one_line
from refersam.hub import DownloadError, hub_options, raise_if_not_downloaded
from refersam.model.refersam import ReferSamModel
from refersam.processor import ReferSamProcessor, check_room

logger = logging.getLogger(__name__)

BUNDLED_CHECKPOINT = Path(__file__).parents[1] / "assets" / "model"
"""The tiny model in the package, trained on synthetic scenes, not on photographs."""
OPENVINO_FILE = "openvino.json"
"""File that only a model exported for OpenVINO has."""


def load_model(name: str, changes: Mapping[str, Any] | None = None) -> tuple[ReferSamModel, ReferSamProcessor]:
    """Load a ReferSAM model and its processor in float32 on the CPU.

    Args:
        name: a folder or Hub id.
        changes: fields of its configuration that get another value.

    Raises:
        CheckpointError: no such folder or Hub id, no weights in it, another kind of model, weights that do not fit.
        ValueError: a changed configuration that is none.
    """
    register_classes()  # transformers finds the image processor by its registration
    if (Path(name) / OPENVINO_FILE).is_file():
        raise CheckpointError(f"{name} was exported for OpenVINO: give the folder or Hub id that it came from.")
    config, place = load_config(name)
    if changes:
        config = ReferSamConfig(**{**config.to_dict(), **changes})
    return load_weights(name, config=config, **place), load_processor(name, config, place)


def load_processor(name: str, config: ReferSamConfig, place: Mapping[str, bool]) -> ReferSamProcessor:
    """Load the processor of a model.

    Args:
        name: a folder or Hub id.
        config: of the model.
        place: as `load_config` returns it.

    Raises:
        CheckpointError: no processor, or one that does not fit the model.
    """
    try:
        processor = ReferSamProcessor.from_pretrained(name, trust_remote_code=False, **place)
    except Exception as error:
        raise_if_not_downloaded(name, error, **place)
        raise CheckpointError(
            f"{name} has no processor (tokenizer and image settings) that can be read: {one_line(error)}."
        ) from error
    check_room(processor, config, name)
    return processor


def load_config(name: str) -> tuple[ReferSamConfig, dict[str, bool]]:
    """The configuration of a model, and transformers' options that say whether the Hub may be asked for the rest.

    Raises:
        CheckpointError: no such folder or Hub id, or another kind of model.
    """
    from transformers import PreTrainedConfig

    folder = Path(name)
    if folder.exists() and not (folder / "config.json").is_file():
        raise CheckpointError(f"{name} holds no ReferSAM model: a folder with config.json and weights is expected.")
    if not folder.exists() and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        raise CheckpointError(f"No such model: {name} is neither a folder nor a Hub id of the form owner/name.")
    place = hub_options(name)
    try:
        fields = PreTrainedConfig.get_config_dict(name, **place)[0]
        kind = fields.get("model_type")
    except Exception as error:  # of any kind, here and below: a foreign folder may hold anything
        raise_if_not_downloaded(name, error, **place)
        raise CheckpointError(f"No model could be read from {name}: {one_line(error)}.") from error
    if kind != "refersam":
        raise CheckpointError(f"{name} is a model of type {kind!r}, not 'refersam'.")
    try:
        check_spelling(fields)
        config = ReferSamConfig.from_pretrained(name, **place)
    except Exception as error:
        raise CheckpointError(f"The configuration of {name} is not ReferSAM's: {one_line(error)}.") from error
    return config, place


def load_weights(name: str, **options: Any) -> ReferSamModel:
    """`ReferSamModel.from_pretrained` in float32, strictly: nothing missing, left over or of another shape.

    Raises:
        CheckpointError: weights that cannot be read or do not fit.
    """
    try:
        model, report = ReferSamModel.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
        )
    except DownloadError:
        raise
    except Exception as error:  # of any kind: a foreign folder may hold anything
        raise CheckpointError(f"The weights of {name} could not be read: {one_line(error)}.") from error
    problems = [_some(key.removesuffix("_keys"), names) for key, names in report.items() if names]
    if problems:
        raise CheckpointError(f"The weights of {name} do not fit its configuration: {'; '.join(problems)}.")
    return model


def _some(what: str, names: Iterable[object]) -> str:
    """How many, and the first of them: "2 missing (a, b)"."""
    listed = sorted(str(name[0] if isinstance(name, tuple) else name) for name in names)
    return f"{len(listed)} {what} ({first_of(listed, 3)})"
