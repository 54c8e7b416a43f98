"""Targets at the sizes of protocols; resizing and encoding of masks."""

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
    """Resize (H, W) bool to (height, width) by nearest neighbour, with Pillow as the published tools."""
    if mask.shape == (height, width):
        return mask
    image = Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(image).astype(bool)


def target_mask(sample: ReferringSample, protocol: Protocol) -> np.ndarray:
    """Return the (height, width) bool target at the protocol's size.

    Raises:
        DataError: an invalid region, or one of another size than the image.
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
    """Return whether an annotation is a crowd's, which COCO stores as run lengths."""
    return isinstance(region, Mapping) and bool(region.get("iscrowd"))


def _rasterise_scaled(polygons: Sequence[Sequence[float]], own: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Rasterise polygons in pixels of the image, scaled to (height, width) bool."""
    scale = np.array([size[1] / own[1], size[0] / own[0]])  # x, y
    whole = [polygon for polygon in polygons if len(polygon) % 2 == 0]
    scaled = [(np.asarray(polygon, dtype=np.float64).reshape(-1, 2) * scale).ravel().tolist() for polygon in whole]
    return decode_region(scaled, *size)


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Encode (H, W) bool as COCO run lengths in JSON types: {"size": [H, W], "counts": str}."""
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in mask.shape], "counts": encoded["counts"].decode("ascii")}


def decode_mask(rle: Mapping[str, Any]) -> np.ndarray:
    """Decode the result of `encode_mask` to (H, W) bool."""
    mask: np.ndarray = coco_mask.decode(dict(rle)).astype(bool)
    return mask
