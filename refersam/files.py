"""Atomic file writing, which keeps the old file on failure, and locks against concurrent writers."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from refersam.errors import DataError

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from PIL.Image import Image

LOCK = ".lock"
"""Name of the lock file of a folder; it exists while a process writes to the folder."""
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)
"""Errors of a file system without locks."""


def check_space(path: Path, needed: int) -> None:
    """Raise OSError if the file system of `path` has fewer than `needed` bytes free; `path` may not exist yet."""
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    free = shutil.disk_usage(nearest).free
    if free < needed:
        reason = f"{needed / 1e6:,.0f} MB are needed, but {free / 1e6:,.0f} MB are free: free some, or write elsewhere"
        raise OSError(errno.ENOSPC, reason, str(path))


@contextmanager
def errors_named(path: Path, *temporary: str) -> Iterator[None]:
    """Set `path` as the file name of OSErrors without a name or with a temporary one.

    Errors of safetensors or torch that report an operating system error, such as a full disk, become OSError.
    """
    try:
        yield
    except OSError as error:
        unnamed = error.filename is None or any(str(error.filename).startswith(name) for name in temporary)
        if error.errno is not None and unnamed:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    except Exception as error:  # a SafetensorError contains the OS error code only in its text
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a temporary file with `write(file)` and rename it to `path`; create missing folders.

    After an error the old file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
    try:
        with errors_named(path, name), os.fdopen(handle, "wb") as file:
            write(file)
        with errors_named(path, name):
            umask = os.umask(0)
            os.umask(umask)
            Path(name).chmod(0o666 & ~umask)
            Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def replace_folder(temporary: Path, final: Path) -> None:
    """Put a finished folder in the place of another, which may be there."""
    old = final.with_name(final.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    temporary.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def save_png(image: Image, path: Path, **options: Any) -> None:
    """Write an image as PNG atomically; `options` are passed to Pillow."""
    write_atomically(path, lambda file: image.save(file, format="PNG", **options))


class WriteLock:
    """Exclusive lock of a process on writing to a folder. Use it as a context manager, or acquire and release it.

    The system releases the lock when the process ends, even by kill -9. Workers do not inherit it. On a file system
    without locks it has no effect. A missing folder is created, and removed on release if it is empty.

    Args:
        folder: folder to lock.
        name: name of the lock file; use different names for different files in one folder.
    """

    def __init__(self, folder: Path, name: str = LOCK) -> None:
        self.folder, self.place, self._path = folder, folder, folder / name
        self._lock: BaseFileLock | None = None
        self._made: list[Path] = []
        self._process = 0

    @classmethod
    def for_path(cls, path: Path) -> WriteLock:
        """Return a lock in the parent folder, for a file or folder that is written as a whole."""
        lock = cls(path.parent, f".{path.name[:40]}{LOCK}")
        lock.place = path
        return lock

    def acquire(self) -> None:
        """Acquire the lock; raise DataError if another process holds it, and OSError if the folder is not writable."""
        from filelock import FileLock, Timeout

        self._process = os.getpid()
        self._made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._path, thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise DataError(
                f"Another process is at work in {self.place}: wait for it, or name another folder."
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                self._remove_folders()
                raise
        self._lock = lock

    def release(self) -> None:
        """Release the lock, if held, and remove its file."""
        lock, self._lock = self._lock, None
        if lock is None or self._process != os.getpid():
            return
        with suppress(OSError):  # Windows cannot remove an open file; filelock removes it there
            self._path.unlink()
        lock.release()
        self._remove_folders()

    def _remove_folders(self) -> None:
        for folder in self._made:
            with suppress(OSError):  # not empty
                folder.rmdir()

    def __enter__(self) -> WriteLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()
