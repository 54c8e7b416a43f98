"""Freed memory that is kept."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from refersam import allocator

PROGRAM = """
import resource, sys
import torch
from refersam.allocator import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == "keep" else None)
def work():
    return sum(float(torch.ones(5_000_000)[0]) for _ in range(4))  # blocks of 19 MiB
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(how: str, **environment: str) -> list[str]:
    """What the program prints: whether it was done, and the page faults of 32 blocks that are freed in turn."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], env=clean | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone can be told")
def test_a_block_that_was_freed_is_used_again() -> None:
    """Without touching its pages anew; what the environment says goes first."""
    done, faults = run("keep")
    assert done == "True"
    assert int(faults) < 100
    for name, value in (
        ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072"),
        ("MALLOC_MMAP_THRESHOLD_", "1048576"),
    ):
        done, faults = run("keep", **{name: value})
        assert done == "False"
    assert int(faults) > 300  # with pages of 2 MiB; else of 4 KiB: what keeping saves


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """And other C libraries."""
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert not allocator.keep_freed_memory()
    monkeypatch.setattr(allocator.sys, "platform", "linux")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _name: object())
    assert not allocator.keep_freed_memory()
