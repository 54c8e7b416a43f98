"""Writing files so that a kill or a full disk leaves the old one or the new one, never half of one."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image


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


def save_png(image: Image, path: Path, **options: Any) -> None:
    """Write a picture as a PNG, at once or not at all.

    Args:
        image: any mode that a PNG can have.
        path: where; its folder is made if missing.
        options: of Pillow, such as compress_level.
    """
    write_atomically(path, lambda file: image.save(file, format="PNG", **options))
