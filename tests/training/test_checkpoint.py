"""Checkpoints: atomic, complete, safe to read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refersam.errors import CheckpointError
from refersam.training import checkpoint


def save(folder: Path, step: int, keep: int = 2) -> Path:
    """A small checkpoint."""
    return checkpoint.save_checkpoint(folder, step, {"value": torch.tensor(step)}, keep)


def test_a_broken_newest_checkpoint_falls_back_to_the_previous(tmp_path: Path) -> None:
    """Truncated by a full disk or a crash of the machine."""
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    newest.write_bytes(newest.read_bytes()[:200])
    state = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert (state["step"], state["value"].item()) == (1, 1)
    (tmp_path / "step_0000001.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"None of the 2 checkpoints in .* can be read"):
        checkpoint.load_newest(tmp_path)


def test_a_broken_newer_checkpoint_does_not_push_out_good_ones(tmp_path: Path) -> None:
    """After falling back to an older checkpoint, new ones are kept although a broken file has a higher step."""
    save(tmp_path, 1)
    (tmp_path / "step_0000009.pt").write_bytes(b"broken")
    save(tmp_path, 2, keep=1)
    state = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 2


def test_a_killed_write_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    """A leftover .tmp file is not a checkpoint, and is removed."""
    save(tmp_path, 1)
    (tmp_path / "step_0000002.tmp").write_bytes(b"half")
    state = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 1
    checkpoint.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step_0000001.pt"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_write_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: BaseException
) -> None:
    """torch's writer replaces Ctrl-C and errors of a full disk by its own error; the originals are raised."""
    save(tmp_path, 1)

    class Failing(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() > 100:
                raise interruption
            return super().write(data)

    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode="r", *a: Failing() if "w" in mode else real(self, mode, *a))
    with pytest.raises(type(interruption)):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step_0000001.pt"]


def test_random_states_are_restored() -> None:
    """The next numbers of all three generators are the same."""
    import random

    def draw() -> tuple[float, float, float]:
        return torch.rand(1).item(), float(np.random.rand()), random.random()

    state = checkpoint.random_state()
    expected = draw()
    assert draw() != expected
    checkpoint.restore_random_state(state)
    assert draw() == expected


def test_steps_that_stay(tmp_path: Path) -> None:
    """Independent of their age."""
    for step in range(1, 6):
        checkpoint.save_checkpoint(tmp_path, step, {}, keep=2, also={1, 3})
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step_000000{step}.pt" for step in (1, 3, 4, 5)]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    """Also if the folder is missing; other files do not count."""
    assert checkpoint.load_newest(tmp_path / "missing") is None
    (tmp_path / "step_last.pt").write_bytes(b"x")
    assert checkpoint.load_newest(tmp_path) is None


def test_checkpoints_are_sorted_by_number(tmp_path: Path) -> None:
    """Sorted by number, not by name."""
    save(tmp_path, 9_999_999)
    save(tmp_path, 10_000_000)
    state = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 10_000_000


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    """A pickle that would create a file is rejected and not executed."""
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str, str]]:
            return (open, (str(tmp_path / "pwned"), "w"))

    (tmp_path / "step_0000001.pt").write_bytes(pickle.dumps({"random": Evil()}))
    with pytest.raises(CheckpointError, match="None of the 1 checkpoints"):
        checkpoint.load_newest(tmp_path)
    assert not (tmp_path / "pwned").exists()
