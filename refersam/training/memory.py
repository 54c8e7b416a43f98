"""Peak memory of a run, and errors about insufficient memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from refersam.training.errors import TrainingError


def peak_memory(device: torch.device) -> float:
    """Return the peak memory so far in GiB: allocated memory of a CUDA device, else memory of the process."""
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
    """Replace out-of-memory errors by an error that names the settings to change.

    Raises:
        TrainingError: out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        on_cpu = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
        if not (on_cpu or isinstance(error, torch.OutOfMemoryError)):
            raise
        raise TrainingError(
            f"The {'machine' if on_cpu else 'GPU'} is out of memory: lower batch_size (and raise "
            "gradient_accumulation_steps as much) or data.image_size, set gradient_checkpointing: true or precision: "
            "bf16, or with several GPUs sharding: full; then continue with --resume."
        ) from error
