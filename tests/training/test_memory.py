"""Errors about insufficient memory are one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from refersam.training.errors import TrainingError
from refersam.training.memory import explained_out_of_memory, peak_memory
from refersam.training.settings import TrainSettings
from refersam.training.trainer import Trainer


def test_a_full_gpu_ends_a_run_with_what_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, miniature: Callable[..., TrainSettings]
) -> None:
    """In the second step; the log of the first one is kept."""
    run = Trainer(miniature(), tmp_path)
    take_step = run.engine.take_step

    def full(batches: Any, step: int, *more: Any) -> Any:
        if step == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")
        return take_step(batches, step, *more)

    monkeypatch.setattr(run.engine, "take_step", full)
    with pytest.raises(
        TrainingError, match=r"^The GPU is out of memory: lower batch_size .*image_size.*gradient_checkpointing"
    ) as message:
        run.run()
    assert "\n" not in str(message.value)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")],
)
def test_a_full_machine(error: Exception) -> None:
    """The errors of numpy and torch."""
    with pytest.raises(TrainingError, match=r"^The machine is out of memory"), explained_out_of_memory():
        raise error


def test_other_errors_stay_what_they_are() -> None:
    """Other errors keep their message."""
    with pytest.raises(RuntimeError, match=r"^something else$"), explained_out_of_memory():
        raise RuntimeError("something else")


def test_peak_memory_of_a_process() -> None:
    """In GiB: Python with torch needs more than 50 MB and less than a terabyte."""
    assert 0.05 < peak_memory(torch.device("cpu")) < 1000


def test_peak_memory_without_the_resource_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: from psutil."""
    monkeypatch.setitem(sys.modules, "resource", None)
    assert 0.05 < peak_memory(torch.device("cpu")) < 1000
