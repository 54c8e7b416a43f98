"""Freed memory that is kept."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from refersam import allocator

PROGRAM = """
import resource
import torch
from refersam.allocator import keep_freed_memory
print(keep_freed_memory())
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        [torch.ones(5_000_000) for _ in range(3)]  # blocks of 19 MiB, freed together
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def run(**environment: str) -> tuple[str, int]:
    """What the program prints: whether it was done, and the page faults of 24 blocks that are freed in turn."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True).stdout.split()
    return done[0], int(done[1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone can be told")
def test_a_block_that_was_freed_is_used_again() -> None:
    """Without touching its pages anew; what the environment says goes first."""
    done, kept = run()
    assert done == "True"
    done, given_back = run(MALLOC_MMAP_THRESHOLD_="1048576")
    assert done == "False"
    assert 4 * kept < given_back
    assert run(GLIBC_TUNABLES="glibc.malloc.trim_threshold=131072")[0] == "False"


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """And other C libraries."""
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert not allocator.keep_freed_memory()
    monkeypatch.setattr(allocator.sys, "platform", "linux")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _name: object())
    assert not allocator.keep_freed_memory()
