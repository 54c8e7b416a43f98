"""Targets as a protocol sees them, and masks between sizes and encodings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from refersam.data.mask_files import MaskFile
from refersam.data.regions import Region, decode_region
from refersam.data.sample import ReferringSample
from refersam.metrics.protocols import Protocol


def resize_nearest(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) bool -> (height, width) bool: each pixel is the one under its centre, by Pillow as the published tools."""
    if mask.shape == (height, width):
        return mask
    image = Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(image).astype(bool)


def target_mask(sample: ReferringSample, protocol: Protocol) -> np.ndarray:
    """(height, width) bool, at the protocol's size.

    Raises:
        DataError: a region that cannot be decoded, or of another size than the image.
    """
    own = (sample.image.height, sample.image.width)
    size = protocol.size(*own)
    regions = [region for region in sample.regions if protocol.crowds or not _is_crowd(region)]
    union = np.zeros(size if protocol.polygons_scaled else own, dtype=bool)
    for region in regions:
        if not protocol.polygons_scaled:
            union |= decode_region(region, *own)
        elif isinstance(region, Mapping | MaskFile | Path):
            union |= resize_nearest(decode_region(region, *own), *size)
        else:
            union |= _rasterise_scaled(region, own, size)
    return resize_nearest(union, *size)


def _is_crowd(region: Region) -> bool:
    """COCO marks a crowd's annotation, and writes its mask as run lengths."""
    return isinstance(region, Mapping) and bool(region.get("iscrowd"))


def _rasterise_scaled(polygons: Sequence[Sequence[float]], own: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Polygons in pixels of the image -> (height, width) bool."""
    scale = np.array([size[1] / own[1], size[0] / own[0]])  # x, y
    whole = [polygon for polygon in polygons if len(polygon) % 2 == 0]
    scaled = [(np.asarray(polygon, dtype=np.float64).reshape(-1, 2) * scale).ravel().tolist() for polygon in whole]
    return decode_region(scaled, *size)


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """(H, W) bool -> COCO run lengths as JSON takes them: {"size": [H, W], "counts": str}."""
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in mask.shape], "counts": encoded["counts"].decode("ascii")}


def decode_mask(rle: Mapping[str, Any]) -> np.ndarray:
    """(H, W) bool, of what `encode_mask` gave."""
    mask: np.ndarray = coco_mask.decode(dict(rle)).astype(bool)
    return mask
