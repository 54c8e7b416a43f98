"""Write files so that a kill or a full disk leaves the old one or the new one; keep two writers apart."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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


def check_space(path: Path, needed: int) -> None:
    """Refuse long work whose result would not fit on the disk.

    Args:
        path: the file or directory to be written; it need not exist.
        needed: bytes.

    Raises:
        OSError: the file system of `path` has fewer bytes free.
    """
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    free = shutil.disk_usage(nearest).free
    if free < needed:
        reason = f"{needed / 1e6:,.0f} MB are needed, but {free / 1e6:,.0f} MB are free: free some, or write elsewhere"
        raise OSError(errno.ENOSPC, reason, str(path))


@contextmanager
def errors_named(path: Path, *temporary: str) -> Iterator[None]:
    """Name `path` in errors of writing that name no file, or a temporary one.

    Args:
        path: what is written in the end.
        temporary: names of files or directories that stand in for it meanwhile.

    Raises:
        OSError: as inside the block; a full disk that safetensors or torch report in errors of their own, too.
    """
    try:
        yield
    except OSError as error:
        unnamed = error.filename is None or any(str(error.filename).startswith(name) for name in temporary)
        if error.errno is not None and unnamed:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    except Exception as error:  # SafetensorError of an operating system's error is known by its text alone
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error


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
    """Write an image as a PNG, at once or not at all.

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
