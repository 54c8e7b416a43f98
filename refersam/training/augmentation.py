"""Random changes of an image, its masks and its phrases together that keep every phrase true."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from refersam.data.sample import ReferringImage
from refersam.training.directions import (
    mentions_another,
    mentions_colour,
    mentions_horizontal,
    mentions_vertical,
    mirror_phrase,
)
from refersam.training.settings import AugmentSettings


def augment(image: ReferringImage, settings: AugmentSettings, rng: np.random.Generator) -> ReferringImage:
    """Crop, flip and recolour an image at random; resizing to the network's input comes later.

    The number of random draws does not depend on the settings, so that each setting changes only its own effect.
    """
    chances, places = rng.random(3), rng.random(4)
    brightness, contrast = 1 + settings.colour * rng.uniform(-1, 1, 2)
    if chances[0] < settings.crop:
        image = crop(image, settings.smallest_crop, CropPlace(*places))
    if chances[1] < settings.flip:
        image = flip(image)
    if settings.colour and not any(map(mentions_colour, image.phrases)):
        image = replace(image, image=recolour(image.image, brightness, contrast))
    return image


class CropPlace(NamedTuple):
    """Random numbers in [0, 1): size of the crop, from smallest to whole, and its position, from first to last."""

    height: float
    width: float
    top: float
    left: float


def crop(image: ReferringImage, smallest: float, place: CropPlace) -> ReferringImage:
    """Crop an image, keeping at least the share `smallest` of each side, so that no target loses a pixel and no phrase
    mentions a side that would move. The image stays whole if a phrase may mention something beside its target.
    """
    if any(map(mentions_another, image.phrases)):
        return image
    masks = image.masks
    keep_height = any(map(mentions_vertical, image.phrases))
    keep_width = any(map(mentions_horizontal, image.phrases))
    rows = _window(np.asarray(masks.any(axis=(0, 2))), keep_height, smallest, place.height, place.top)
    columns = _window(np.asarray(masks.any(axis=(0, 1))), keep_width, smallest, place.width, place.left)
    return _cut(image, rows, columns)


def _window(used: np.ndarray, whole: bool, smallest: float, size: float, place: float) -> slice:
    """Return a part of a side of n pixels that contains all used ones."""
    length = used.size
    if whole:
        return slice(0, length)
    inside = np.flatnonzero(used)
    first, last = (int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, 0)
    kept = max(1, round((smallest + (1 - smallest) * size) * length), last - first)
    low, high = max(0, last - kept), min(first, length - kept) if inside.size else length - kept
    start = low + round(place * (high - low))
    return slice(start, start + kept)


def flip(image: ReferringImage) -> ReferringImage:
    """Mirror left and right, in the phrases too; return the image unchanged if a phrase cannot be mirrored reliably."""
    phrases = [mirror_phrase(phrase) for phrase in image.phrases]
    mirrored = tuple(phrase for phrase in phrases if phrase is not None)
    if len(mirrored) < len(phrases):
        return image
    return replace(_cut(image, slice(None), slice(None, None, -1)), phrases=mirrored)


def _cut(image: ReferringImage, rows: slice, columns: slice) -> ReferringImage:
    """Cut the rows and columns of a window out of the pixels, all masks and whatever else belongs to the image."""
    return replace(
        image,
        image=image.image[rows, columns],
        masks=image.masks[:, rows, columns],
        extra=None if image.extra is None else image.extra.cut(rows, columns),
    )


def recolour(image: np.ndarray, brightness: float, contrast: float) -> np.ndarray:
    """Scale contrast about the mean grey, then brightness, of (H, W, 3) uint8."""
    mean = float(image.mean())
    values = (image.astype(np.float32) - mean) * contrast + mean
    return (values * brightness).round().clip(0, 255).astype(np.uint8)
