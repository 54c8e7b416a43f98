"""Locks of output folders: one writer at a time, and no lock after its end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from refersam.errors import DataError
from refersam.files import LOCK, WriteLock

HOLDER = """
import os, sys, time
from pathlib import Path
from refersam.files import WriteLock
lock = WriteLock(Path(sys.argv[1]))
lock.acquire()
if os.fork() == 0:  # a worker that outlives its parent
    print("held", flush=True)  # from here, it has closed what it inherited
    time.sleep(20)
    os._exit(0)
time.sleep(20)
"""


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    """The second is rejected in one sentence; the lock leaves no file."""
    out = tmp_path / "a" / "b"
    with WriteLock(out):
        assert [path.name for path in out.iterdir()] == [LOCK]
        for _ in range(2):
            with pytest.raises(DataError, match=r"^Another process is at work in .*b: wait for it, or name another"):
                WriteLock(out).acquire()
    assert not (tmp_path / "a").exists()
    out.mkdir(parents=True)
    with WriteLock(out):
        (out / "result").touch()
    assert [path.name for path in out.iterdir()] == ["result"]


def test_files_of_one_folder_have_locks_of_their_own(tmp_path: Path) -> None:
    """Locks have the names of the files."""
    one, other, same = (WriteLock.for_path(tmp_path / name) for name in ("a.onnx", "b.onnx", "a.onnx"))
    with one, other, pytest.raises(DataError, match=r"a\.onnx"):
        same.acquire()
    assert not list(tmp_path.iterdir())


def test_a_released_lock_is_free(tmp_path: Path) -> None:
    """As after an error in its owner; releasing twice has no effect."""
    lock = WriteLock(tmp_path)
    lock.acquire()
    del lock
    lock = WriteLock(tmp_path)
    lock.acquire()
    lock.release()
    lock.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    """Also while one of its workers is running."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(DataError, match="Another process is at work"):
        WriteLock(tmp_path).acquire()
    holder.kill()
    holder.wait()
    with WriteLock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
    holder.stdout.close()
