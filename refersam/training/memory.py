"""How much memory a run takes, and what to say when there is not enough."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from refersam.training.errors import TrainingError


def peak_memory(device: torch.device) -> float:
    """Highest use of the GPU's memory so far, or of the process's on a CPU; in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows
        memory = psutil.Process().memory_info()
        return float(getattr(memory, "peak_wset", memory.rss)) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)  # bytes there, kilobytes elsewhere


@contextmanager
def explained_out_of_memory() -> Iterator[None]:
    """Turn a lack of memory within the block into a TrainingError that says what to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        on_cpu = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
        if not (on_cpu or isinstance(error, torch.OutOfMemoryError)):
            raise
        raise TrainingError(
            f"The {'machine' if on_cpu else 'GPU'} is out of memory: lower batch_size (and raise "
            "gradient_accumulation_steps as much) or data.image_size, set gradient_checkpointing: true or precision: "
            "bf16, or with several GPUs sharding: full; then go on with --resume."
        ) from error
