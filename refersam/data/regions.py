"""Mask formats of one object (polygons, RLE, mask file): validation and decoding."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from pycocotools import mask as coco_mask

from refersam.data.mask_files import MaskFile
from refersam.errors import DataError, shown

Region: TypeAlias = Sequence[Sequence[float]] | Mapping[str, Any] | MaskFile | Path
"""Mask of an object: COCO polygons [[x0, y0, x1, y1, ...], ...], COCO RLE {"size": [H, W], "counts": ...} or file."""

MAX_COORDINATE = 100_000
"""Limit in pixels."""
MAX_OUTLINE = 2_000_000
"""Limit in pixels along a polygon. pycocotools allocates memory along it, and crashes if it is too long."""
_MAX_COUNT_CHARACTERS = 12
"""Limit for one number in compressed run lengths: 60 bits."""


def clean_region(raw: object) -> tuple[Region, int]:
    """Return the valid part of a COCO segmentation in compact form, and the number of dropped polygons.

    Polygons become arrays of doubles. Run lengths (list, str or bytes) become compressed bytes. Mask files stay.
    Polygons are dropped if they have fewer than 6 coordinates, an odd number of coordinates, coordinates that are not
    finite or beyond `MAX_COORDINATE`, or an outline longer than `MAX_OUTLINE`. Raises DataError for other types, run
    lengths that do not match their size, or no valid polygon.
    """
    if isinstance(raw, Path | MaskFile):
        return raw, 0
    if isinstance(raw, Mapping):
        return _clean_rle(raw), 0
    if not isinstance(raw, Sequence) or isinstance(raw, str | bytes):
        raise DataError(f"polygons or a run-length encoding are expected, but came {_kind(raw)}")
    polygons = [polygon for polygon in map(_clean_polygon, raw) if polygon is not None]
    if not raw:
        raise DataError("there is no polygon")
    if not polygons:
        raise DataError(
            f"none of its {len(raw)} polygons has an even number of coordinates, at least 6, all finite, and an "
            f"outline of at most {MAX_OUTLINE:,} pixels"
        )
    return polygons, len(raw) - len(polygons)


def decode_region(region: Region, height: int, width: int) -> np.ndarray:
    """Return the mask of an object, (height, width) bool; polygons are united.

    Raises ImageError for a missing or broken mask file, and DataError for an invalid region or another size.
    """
    region, _ = clean_region(region)
    if isinstance(region, Path):
        region = MaskFile(region)
    if isinstance(region, MaskFile):
        mask = region.load()
    elif isinstance(region, Mapping):
        _check_size(region["size"], height, width)  # before memory is allocated
        mask = coco_mask.decode(dict(region)).astype(bool)
    else:
        rles = coco_mask.frPyObjects([list(polygon) for polygon in region], height, width)
        mask = coco_mask.decode(coco_mask.merge(rles)).astype(bool)
    _check_size(mask.shape, height, width)
    return mask


def _check_size(size: Sequence[int], height: int, width: int) -> None:
    if tuple(size) != (height, width):
        raise DataError(f"A mask has {size[1]} x {size[0]} pixels, but its image {width} x {height}.")


def _clean_polygon(raw: object) -> array[float] | None:
    if not isinstance(raw, Sequence | np.ndarray) or isinstance(raw, str | bytes):
        raise DataError(f"a polygon must be a list of numbers [x0, y0, x1, y1, ...], but is {_kind(raw)}")
    try:
        polygon = raw if isinstance(raw, array) and raw.typecode == "d" else array("d", raw)
    except (TypeError, OverflowError) as error:
        raise DataError(f"a polygon must be a list of numbers [x0, y0, x1, y1, ...]: {error}") from error
    if len(polygon) < 6 or len(polygon) % 2:
        return None
    points = np.frombuffer(polygon).reshape(-1, 2)
    reach = np.abs(points).max()
    if not reach <= MAX_COORDINATE:  # NaN is not <= anything
        return None
    if 2 * reach * len(points) > MAX_OUTLINE:  # upper bound, cheaper than the outline
        steps = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1)
        if steps.sum() > MAX_OUTLINE:
            return None
    return polygon


def _clean_rle(raw: Mapping[str, Any]) -> Region:
    size, counts = raw.get("size"), raw.get("counts")
    if not isinstance(size, Sequence) or len(size) != 2 or not all(type(n) is int and 0 < n < 2**16 for n in size):
        raise DataError(f'a run-length encoding needs "size": [height, width], but has {shown(size)}')
    height, width = size
    if isinstance(counts, list):
        if not all(type(count) is int and count >= 0 for count in counts) or sum(counts) != height * width:
            raise DataError(f"the run lengths of a mask must add up to {height} x {width} pixels, and these do not")
        return dict(coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width))
    if isinstance(counts, str):
        counts = counts.encode("ascii", "replace")
    if not isinstance(counts, bytes):
        raise DataError(f'"counts" of a run-length encoding must be a list or a string, but is {_kind(counts)}')
    lengths = _run_lengths(counts)
    pixels = height * width  # limit of each length, so that sums do not overflow
    if lengths is None or lengths.size == 0 or lengths.min() < 0 or lengths.max() > pixels or lengths.sum() != pixels:
        raise DataError(f"the compressed run lengths do not make a mask of {height} x {width} pixels")
    return {"size": [height, width], "counts": counts}


def _run_lengths(compressed: bytes) -> np.ndarray | None:
    """Decode COCO's compressed string; return None if it is invalid. pycocotools would accept truncated strings."""
    values = np.frombuffer(compressed, dtype=np.uint8).astype(np.int64) - 48
    if values.size == 0 or values.min() < 0 or values.max() > 63 or values[-1] & 32:
        return None
    ends = np.flatnonzero(values & 32 == 0)  # five bits per character, low ones first; bit 5: more follow
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends - starts + 1
    if sizes.max() > _MAX_COUNT_CHARACTERS:
        return None
    places = np.arange(values.size) - np.repeat(starts, sizes)
    numbers = np.add.reduceat((values & 31) << 5 * places, starts)
    numbers -= np.where(values[ends] & 16, 1 << 5 * sizes, 0)  # the last character's bit 4 is the sign
    numbers[1::2] = numbers[1::2].cumsum()  # from the fourth on: difference to the number two before
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers


def _kind(value: object) -> str:
    return {"NoneType": "nothing", "dict": "an object", "list": "a list"}.get(
        type(value).__name__, f"a {type(value).__name__}"
    )
