"""Write files so that a kill or a full disk leaves the old one or the new one; keep two writers apart."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from refersam.errors import DataError

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from PIL.Image import Image

LOCK = ".lock"
"""Name of a folder's lock file, which is there while a process writes into the folder."""
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)
"""Errors of a file system without locks."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file beside its place, then move it there.

    Args:
        path: where; its folder is made if missing.
        write: is given the open binary file.

    Raises:
        OSError: the disk is full or the place cannot be written to; what was there before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, name):
            raise OSError(error.errno, error.strerror, str(path)) from error  # not the temporary file's name
        raise


def save_png(image: Image, path: Path, **options: Any) -> None:
    """Write a picture as a PNG, at once or not at all.

    Args:
        image: any mode that a PNG can have.
        path: where; its folder is made if missing.
        options: of Pillow, such as compress_level.
    """
    write_atomically(path, lambda file: image.save(file, format="PNG", **options))


class WriteLock:
    """The right to write to a folder, for one process at a time. Use as a context manager, or acquire and release it.

    The system releases it when the process ends, even by kill -9. Worker processes do not inherit it. On a file system
    without locks it does nothing.

    Args:
        folder: to write into; made while the lock is held, and removed with it if it is still empty.
        name: of the lock file; one of its own for each file where several processes may write into the same folder.
    """

    def __init__(self, folder: Path, name: str = LOCK) -> None:
        self.folder, self.place, self._path = folder, folder, folder / name
        self._lock: BaseFileLock | None = None
        self._made: list[Path] = []
        self._process = 0

    @classmethod
    def for_path(cls, path: Path) -> WriteLock:
        """A lock beside a file or a folder that is written as a whole."""
        lock = cls(path.parent, f".{path.name[:40]}{LOCK}")
        lock.place = path
        return lock

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            DataError: another process holds it.
            OSError: the folder cannot be made or written to.
        """
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
        """Give the lock up, if it is held, and remove its file."""
        lock, self._lock = self._lock, None
        if lock is None or self._process != os.getpid():
            return
        with suppress(OSError):  # Windows removes no open file; there the lock does it itself
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()
