"""Loading of ReferSAM models from folders and Hub ids."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from refersam.checkpoints.published import (
    FAMILIES,
    Published,
    find_published,
    known_aliases,
    published_of_type,
)
from refersam.checkpoints.registration import register_classes
from refersam.config import ReferSamConfig, check_spelling
from refersam.errors import CheckpointError, first_of, one_line
from refersam.hub import DownloadError, hub_options, raise_if_not_downloaded
from refersam.model.refersam import ReferSamModel
from refersam.processor import ReferSamProcessor, check_room

logger = logging.getLogger(__name__)

BUNDLED_CHECKPOINT = Path(__file__).parents[1] / "assets" / "model"
"""Folder of the bundled checkpoint: a tiny model trained on synthetic scenes, not on photographs."""

_PUBLISHED = "answers phrases as it was published, and cannot be trained, exported or loaded as a ReferSamModel"
OPENVINO_FILE = "openvino.json"
"""File that only a model exported for OpenVINO has."""


def load_model(name: str, changes: Mapping[str, Any] | None = None) -> tuple[ReferSamModel, ReferSamProcessor]:
    """Load a ReferSAM model and its processor in float32 on the CPU.

    Args:
        name: folder or Hub id.
        changes: configuration fields to override.

    Raises:
        CheckpointError: the folder, Hub id or weights are missing, the type is another, or the weights do not match.
        ValueError: the overridden configuration is invalid.
    """
    register_classes()  # transformers needs it to load the image processor
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


def read_model_type(name: str) -> tuple[Any, dict[str, Any], dict[str, bool]]:
    """Read the `model_type` of a model's config.json.

    Args:
        name: folder or Hub id.

    Returns:
        The type, all fields of the file, and options of transformers that allow or forbid Hub requests.

    Raises:
        CheckpointError: the folder or Hub id does not exist, or its configuration is unreadable.
    """
    from transformers import PreTrainedConfig

    folder = Path(name)
    if folder.exists() and not (folder / "config.json").is_file():
        raise CheckpointError(f"{name} holds no ReferSAM model: a folder with config.json and weights is expected.")
    if not folder.exists() and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        raise CheckpointError(
            f"No such model: {name} is neither a folder nor a Hub id of the form owner/name; {known_aliases(name)}"
        )
    place = hub_options(name)
    try:
        fields = PreTrainedConfig.get_config_dict(name, **place)[0]
        return fields.get("model_type"), fields, place
    except Exception as error:  # any type, here and below: the folder is untrusted
        raise_if_not_downloaded(name, error, **place)
        raise CheckpointError(f"No model could be read from {name}: {one_line(error)}.") from error


def load_config(name: str) -> tuple[ReferSamConfig, dict[str, bool]]:
    """Read the configuration of a model; also return options of transformers that allow or forbid Hub requests.

    Raises:
        CheckpointError: the folder or Hub id does not exist, or the model has another type.
    """
    if find_published(name) is not None:
        raise CheckpointError(f"{name} {_PUBLISHED}.")
    kind, fields, place = read_model_type(name)
    if kind != ReferSamConfig.model_type:
        published = f": it {_PUBLISHED}" if published_of_type(name, kind) else ""
        raise CheckpointError(f"{name} is a model of type {kind!r}, not 'refersam'{published}.")
    try:
        check_spelling(fields)
        config = ReferSamConfig.from_pretrained(name, **place)
    except Exception as error:
        raise CheckpointError(f"The configuration of {name} is not ReferSAM's: {one_line(error)}.") from error
    return config, place


def recognise_published(name: str) -> Published | None:
    """Recognise a published model of transformers by its alias, Hub id or `model_type`; None for a ReferSAM model.

    Raises:
        CheckpointError: the model does not exist, or does not accept phrases.
    """
    published = find_published(name)
    if published is None:
        kind, _, _ = read_model_type(name)
        published = published_of_type(name, kind)
        if published is None and kind != ReferSamConfig.model_type:
            known = ", ".join(kind for family in FAMILIES for kind in family.model_types)
            raise CheckpointError(
                f"{name} is a model of type {kind!r}, which cannot answer phrases: expected "
                f"{ReferSamConfig.model_type}, {known}."
            )
    return published


def load_weights(name: str, **options: Any) -> ReferSamModel:
    """Call `ReferSamModel.from_pretrained` in float32.

    Raises:
        CheckpointError: weights are unreadable, missing, unexpected or of another shape.
    """
    try:
        model, report = ReferSamModel.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
        )
    except DownloadError:
        raise
    except Exception as error:  # any type: the folder is untrusted
        raise CheckpointError(f"The weights of {name} could not be read: {one_line(error)}.") from error
    problems = [_some(key.removesuffix("_keys"), names) for key, names in report.items() if names]
    if problems:
        raise CheckpointError(f"The weights of {name} do not fit its configuration: {'; '.join(problems)}.")
    return model


def _some(what: str, names: Iterable[object]) -> str:
    """Return the number of names and the first ones: "2 missing (a, b)"."""
    listed = sorted(str(name[0] if isinstance(name, tuple) else name) for name in names)
    return f"{len(listed)} {what} ({first_of(listed, 3)})"
