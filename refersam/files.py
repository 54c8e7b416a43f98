"""Writing files so that a kill or a full disk leaves the old one or the new one, never half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image


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
