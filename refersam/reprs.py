"""One-line representation of objects with arrays."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from PIL import Image

from refersam.errors import shown


class OneLineRepr:
    """Base class of dataclasses with `repr=False`; shows arrays, tensors and images by type and size."""

    def __repr__(self) -> str:
        values: list[tuple[str, Any]] = [(f.name, getattr(self, f.name)) for f in fields(self) if f.repr]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{name}={brief(value)}' for name, value in values)})"


def brief(value: object) -> str:
    """Return a value on one line: "float32 (1, 3, 64, 64)", "RGB image 640 x 480", or a shortened repr."""
    if isinstance(value, Image.Image):
        return f"{value.mode} image {value.width} x {value.height}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return repr(value) if isinstance(value, OneLineRepr) else " ".join(shown(value).split())
