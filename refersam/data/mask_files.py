"""Mask files: image files in which one stored value marks the target."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from refersam.errors import DataError, first_of
from refersam.image import load_stored

MaskValue: TypeAlias = int | tuple[int, int, int]
"""Stored value or RGB colour."""

_ONE_CHANNEL = ("1", "L", "P", "I", "F")  # and I;16 in its byte orders
_COLOUR = ("RGB", "RGBX")
_WITH_ALPHA = {"LA": "L", "PA": "P", "RGBA": "RGB"}


@dataclass(frozen=True, slots=True)
class MaskFile:
    """Mask file. Its target has the stored value `value`; if None, the only value other than 0 (black).

    Stored values are compared, not displayed colours: palette indices, all 16 bits. An alpha channel that varies is
    used as the mask.
    """

    path: Path
    value: MaskValue | None = None

    def load(self) -> np.ndarray:
        """Return the target's pixels, (H, W) bool.

        Raises ImageError for a missing or broken file, and DataError for several values other than 0, or no pixel with
        `value`.
        """
        image = load_stored(self.path)
        mode = _WITH_ALPHA.get(image.mode, image.mode)
        if mode not in (*_ONE_CHANNEL, *_COLOUR) and not mode.startswith("I;16"):
            raise DataError(
                f"{self.path} stores its pixels as {image.mode}: a mask file must be grey, a palette image, or RGB."
            )
        values = _values(image)
        if isinstance(self.value, tuple):
            if mode not in ("P", *_COLOUR):
                raise DataError(f'{self.path} stores numbers, not colours: give "mask_value" as a number.')
            colours = image.convert("RGB") if mode == "P" else image
            return self._pick(_codes(np.asarray(colours)[:, :, :3]), _code(self.value), "", image)
        alpha = _alpha(image)
        if alpha is not None and self._means_alpha(image, values, alpha):
            return self._pick(alpha, self.value, " in its alpha channel", image)
        where = " (indices into its palette)" if mode == "P" else ""
        if values.ndim == 2:
            mask = self._pick(values, self.value, where, image)
            if mode == "P" and self.value is None:
                self._check_palette(image, values, mask)
            return mask
        return self._pick(_codes(values), None if self.value is None else _code((self.value,) * 3), where, image)

    def _means_alpha(self, image: Image.Image, values: np.ndarray, alpha: np.ndarray) -> bool:
        flat = values.reshape(alpha.size, -1)
        if alpha.min() == alpha.max():
            return not alpha.any() and bool((flat == flat[0]).all())  # one colour, all of it transparent
        if image.mode in _WITH_ALPHA:
            return True
        # If one palette or grey value is transparent, the only other value marks the target.
        return self.value is None and not (values[alpha > 0] != values[alpha > 0][0]).any()

    def _pick(self, plane: np.ndarray, value: int | None, where: str, image: Image.Image) -> np.ndarray:
        """Return the mask of an (H, W) plane's pixels equal to `value`; if None, to the only value other than 0."""
        if value is not None:
            mask: np.ndarray = plane == value
            if not mask.any():
                raise DataError(
                    f'{self.path}: no pixel has the "mask_value" {_shown(self.value)}; it stores '
                    f"{_listed(np.unique(plane), isinstance(self.value, tuple))}{where}."
                )
            return mask
        others = plane[plane != 0]
        if not (others != others[:1]).any():
            return np.not_equal(plane, 0)
        distinct = np.unique(others)
        lossy = (
            f" {image.format} does not keep values: save masks as PNG."
            if image.format in ("JPEG", "MPO", "HEIF")
            else ""
        )
        raise DataError(
            f"{self.path}: a mask file must store one value other than 0, but this one stores {len(distinct)}{where}: "
            f'{_listed(distinct, plane.dtype == np.uint32)}.{lossy} Name the target\'s as "mask_value", or save the '
            "mask with one value."
        )

    def _check_palette(self, image: Image.Image, values: np.ndarray, mask: np.ndarray) -> None:
        """Raise DataError for a grey palette with a target darker than the background: the mask may be inverted."""
        if not mask.any() or mask.all():
            return
        table = np.array(image.getpalette() or [], int).reshape(-1, 3)
        target = int(values[mask][0])
        if target >= len(table):
            return
        inside, outside = table[target], table[0]
        if np.ptp(inside) == np.ptp(outside) == 0 and inside[0] < outside[0]:
            raise DataError(
                f"{self.path}: its palette shows the value 0 brighter than the value {target}. Name the "
                'target\'s as "mask_value".'
            )


def _values(image: Image.Image) -> np.ndarray:
    """Return (H, W) stored values, or (H, W, 3) colours where the channels differ; without alpha."""
    values = np.asarray(image)
    if values.dtype == bool:
        return values.astype(np.uint8)
    if image.mode in ("LA", "PA"):
        return values[:, :, 0]
    if values.ndim == 2:
        return values
    values = values[:, :, :3]
    return values[:, :, 0] if (values == values[:, :, :1]).all() else values


def _alpha(image: Image.Image) -> np.ndarray | None:
    """Return (H, W) alpha from a channel or from values that the file declares transparent; None without either."""
    if image.mode in _WITH_ALPHA:
        return np.asarray(image)[:, :, -1]
    transparent = image.info.get("transparency")
    values = np.asarray(image)
    if isinstance(transparent, bytes) and image.mode == "P":
        table = np.frombuffer(transparent[:256].ljust(256, b"\xff"), np.uint8)
        return table[values]
    if isinstance(transparent, int) and values.ndim == 2:
        return np.where(values == transparent, 0, 255).astype(np.uint8)
    if isinstance(transparent, tuple) and values.ndim == 3 and len(transparent) == 3:
        return np.where((values[:, :, :3] == transparent).all(axis=2), 0, 255).astype(np.uint8)
    return None


def _codes(colours: np.ndarray) -> np.ndarray:
    """Pack (H, W, 3) uint8 colours into (H, W) uint32, one number per colour; 0 for black."""
    red, green, blue = (colours[:, :, channel].astype(np.uint32) for channel in range(3))
    return red << 16 | green << 8 | blue


def _code(colour: tuple[int, int, int]) -> int:
    red, green, blue = colour
    return red << 16 | green << 8 | blue


def _shown(value: MaskValue | None) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _listed(values: np.ndarray, are_colours: bool) -> str:
    """Return the first stored values and the number of others, for a message."""
    few = [number.item() for number in values[:6]]
    names = [str([code >> 16, code >> 8 & 255, code & 255]) if are_colours else f"{code:g}" for code in few]
    return first_of([*names, *[""] * (len(values) - len(few))])
