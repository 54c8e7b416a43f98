"""Worker processes ignore signals of their group, and end with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import Dataset

from refersam.workers import STOP_SIGNALS, load_in_workers

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no process groups")

ORPHANS = """
import os, time
from torch.utils.data import Dataset
from refersam.workers import load_in_workers

class Large(Dataset):
    def __len__(self):
        return 100
    def __getitem__(self, index):
        return os.getpid(), bytes(1_000_000)  # more than a pipe holds

items = load_in_workers(Large(), 2)
print(next(items)[0], next(items)[0], flush=True)
time.sleep(60)
"""


class _Signals(Dataset[tuple[list[object], set[int]]]):
    """Return how a worker handles signals, and which it blocks."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[list[object], set[int]]:
        handlers: list[object] = [signal.getsignal(number) for number in STOP_SIGNALS]
        return handlers, set(signal.pthread_sigmask(signal.SIG_BLOCK, []))


def test_workers_ignore_signals_to_the_group() -> None:
    """All stop signals; none is blocked in worker or parent."""
    assert {"SIGINT", "SIGTERM", "SIGUSR1"} == {number.name for number in STOP_SIGNALS}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    (found,) = load_in_workers(_Signals(), 1)
    assert list(found) == [[signal.SIG_IGN] * 3, set()]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_workers_end_with_a_killed_parent() -> None:
    """Within seconds, also while they wait for space in the pipe."""
    parent = subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(number) for number in parent.stdout.readline().split()]
    assert len(set(workers)) == 2
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while any(map(_is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = [number for number in workers if _is_alive(number)]
    for number in left:
        os.kill(number, signal.SIGKILL)
    assert not left
    parent.stdout.close()


def _is_alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        pass
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return not Path("/proc/self").exists()


IN_USE = """
import sys
from torch.utils.data import Dataset
from refersam.errors import DataError
from refersam.workers import load_in_workers

class Numbers(Dataset):
    def __len__(self):
        return 100
    def __getitem__(self, index):
        if index == 3 and sys.argv[1] == "bug":
            raise KeyError("a bug")
        return DataError("broken") if index == 3 and sys.argv[1] == "broken data" else index

items = load_in_workers(Numbers(), 2)
next(items)
if sys.argv[1] != "in use":
    list(items)
"""


@pytest.mark.parametrize(
    ("ending", "code", "message"), [("in use", 0, ""), ("broken data", 1, "DataError: broken"), ("bug", 1, "KeyError")]
)
def test_a_program_ends_while_workers_are_in_use(ending: str, code: int, message: str) -> None:
    """At once, although the traceback of an error keeps references to them."""
    done = subprocess.run([sys.executable, "-c", IN_USE, ending], capture_output=True, text=True, timeout=30)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
