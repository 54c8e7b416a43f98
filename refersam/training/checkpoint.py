"""Checkpoints of a run: complete, written atomically, and read without executing code."""

from __future__ import annotations

import logging
import os
import random
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from refersam.errors import CheckpointError, why_unreadable
from refersam.files import errors_named

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step_(\d+)\.pt")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the path of a step's checkpoint."""
    return folder / f"step_{step:07d}.pt"


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int, also: Collection[int] = ()) -> Path:
    """Write a checkpoint, and delete all others but the newest `keep` and those of the steps `also`.

    Args:
        folder: folder of the checkpoints; created if missing.
        step: number of completed optimizer steps.
        state: tensors and plain containers.
        keep: number of newest checkpoints to keep.
        also: steps of further checkpoints to keep.

    Returns:
        The path of the checkpoint.

    Raises:
        OSError: the file cannot be written, for example because the disk is full; older checkpoints stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = checkpoint_path(folder, step)
    temporary = path.with_suffix(".tmp")
    try:
        with errors_named(path, str(temporary)):
            _write(temporary, {"step": step, **state})
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    # Checkpoints of later steps do not count: they were unreadable, or the run would have resumed from them.
    for old in [other for other in _complete(folder) if _number(other) <= step][:-keep]:
        if _number(old) not in also:
            old.unlink(missing_ok=True)
    return path


def _write(path: Path, state: dict[str, Any]) -> None:
    try:
        with path.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:
        if isinstance(error.__context__, KeyboardInterrupt | OSError):  # torch's writer replaces these errors
            raise error.__context__ from None
        raise


def load_newest(folder: Path) -> dict[str, Any] | None:
    """Return the newest readable checkpoint; None if there are no checkpoints.

    Raises:
        CheckpointError: there are checkpoints, but none is readable.
    """
    candidates = _complete(folder)
    for path in reversed(candidates):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            logger.warning("%s It is skipped.", error)
    if candidates:
        raise CheckpointError(f"None of the {len(candidates)} checkpoints in {folder} can be read.")
    return None


def newest_step(folder: Path) -> int:
    """Return the step of the newest checkpoint, readable or not; 0 if there is none."""
    return max(map(_number, _complete(folder)), default=0)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of `save_checkpoint` to the CPU.

    Raises:
        CheckpointError: the file is missing or broken.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file
        raise CheckpointError(f"{path} cannot be read: {why_unreadable(error)}.") from error
    return state


def clear(folder: Path) -> None:
    """Remove temporary files of interrupted writes."""
    for leftover in folder.glob("*.tmp"):
        leftover.unlink(missing_ok=True)


def _complete(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step_*.pt") if _NAME.fullmatch(path.name)), key=_number)


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))


def random_state() -> dict[str, Any]:
    """Return the states of all random generators of this process, as tensors and plain containers."""
    version, keys, gauss = random.getstate()
    numpy_state: Any = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(keys), gauss],
        "numpy": [str(numpy_state[0]), torch.from_numpy(np.array(numpy_state[1], dtype=np.int64)), *numpy_state[2:]],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Restore the result of `random_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, numpy_keys, *rest = state["numpy"]
    np.random.set_state((kind, numpy_keys.numpy().astype(np.uint32), *rest))
