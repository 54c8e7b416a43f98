"""Memory that torch frees on a CPU: kept for the next layer, in place of being given back and fetched again."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
LARGEST_KEPT = 32 * 2**20
"""Bytes of one block. glibc allows no more; larger ones, as at 1024 px, are given back at once."""
MOST_KEPT = 256 * 2**20
"""Bytes that stay with the process when all is freed."""
_SET_BY_USER = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to keep freed blocks of up to 32 MiB, 256 MiB in all, for this whole process.

    By default it returns most of a layer's outputs to the system, which then clears every page of the next layer's
    anew. What keeping saves, and what it costs in memory, is in docs/performance.md; results are the same. The command
    line does it for all commands.

    Returns:
        Whether it was done: not without glibc, nor where the environment has settings of malloc
        (`MALLOC_MMAP_THRESHOLD_` and such).
    """
    if sys.platform != "linux" or any(name in os.environ for name in _SET_BY_USER):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(_M_TRIM_THRESHOLD, MOST_KEPT))
