"""Safe reader for weight files: no code in them is executed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from refersam.errors import CheckpointError, why_unreadable


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the weights of a PyTorch or safetensors file without executing code in it.

    The file contains a state dict, directly or under "model" or "state_dict", with optional optimizer state, epoch and
    arguments. Unknown classes are replaced by inert placeholders.

    Raises:
        CheckpointError: the file is missing, is not a checkpoint, or would execute code.
    """
    if not path.is_file():
        raise CheckpointError(f"No such file: {path}.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path} holds no weights: expected a dictionary of tensors, or one under 'model'.")
    return content


class _Inert:
    """Inert placeholder for a non-tensor class of a checkpoint: accepts any arguments and does nothing."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None: ...

    def __setstate__(self, _state: Any) -> None: ...


def _read_pickle(path: Path) -> Any:
    try:
        try:
            foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        except ValueError:  # format before zip files: replace only what training scripts commonly store
            foreign = ["argparse.Namespace"]
        stand_ins: list[Any] = [(type("Inert", (_Inert,), {}), name) for name in foreign]
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a broken file
        raise CheckpointError(
            f"{path} is not a checkpoint that can be read safely: {why_unreadable(error)}."
        ) from error


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
