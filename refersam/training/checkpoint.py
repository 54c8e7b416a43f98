"""Checkpoints: complete, atomic, safe to read. A kill leaves the old one or the new one, never half of one."""

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
    """The file of a step's checkpoint."""
    return folder / f"step_{step:07d}.pt"


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int, also: Collection[int] = ()) -> Path:
    """Write `state`; drop all but the newest `keep` and those of the steps `also`.

    Args:
        folder: made if missing.
        step: optimizer steps done.
        state: of tensors and plain containers.
        keep: newest checkpoints to keep.
        also: steps whose checkpoints stay.

    Raises:
        OSError: a full disk, say; what was there before stays.
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
    # Newer ones could not be read, or the run would not be here: they do not count.
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
        if isinstance(error.__context__, KeyboardInterrupt | OSError):  # torch's writer hides Ctrl-C and a full disk
            raise error.__context__ from None
        raise


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that can be read; None where there is none.

    Raises:
        CheckpointError: checkpoints are there, but none can be read.
    """
    candidates = _complete(folder)
    for path in reversed(candidates):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            logger.warning("%s It is passed over.", error)
    if candidates:
        raise CheckpointError(f"None of the {len(candidates)} checkpoints in {folder} can be read.")
    return None


def newest_step(folder: Path) -> int:
    """Step of the newest checkpoint, whether it can be read or not; 0 where there is none."""
    return max(map(_number, _complete(folder)), default=0)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote, on the CPU.

    Raises:
        CheckpointError: missing or broken.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file
        raise CheckpointError(f"{path} cannot be read: {why_unreadable(error)}.") from error
    return state


def clear(folder: Path) -> None:
    """Remove what a killed write left behind."""
    for leftover in folder.glob("*.tmp"):
        leftover.unlink(missing_ok=True)


def _complete(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step_*.pt") if _NAME.fullmatch(path.name)), key=_number)


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))


def random_state() -> dict[str, Any]:
    """Of all generators of this process, in tensors and plain containers."""
    version, keys, gauss = random.getstate()
    numpy_state: Any = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(keys), gauss],
        "numpy": [str(numpy_state[0]), torch.from_numpy(np.array(numpy_state[1], dtype=np.int64)), *numpy_state[2:]],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` gave."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, numpy_keys, *rest = state["numpy"]
    np.random.set_state((kind, numpy_keys.numpy().astype(np.uint32), *rest))
