"""Joint augmentation of an image, its masks and its phrases, which keeps all phrases valid."""

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
    """Crop, flip and recolour an image at random, before it is resized to the network's input.

    The number of random draws is independent of the settings, so that each setting changes only its own effect.

    Args:
        image: image with its phrases and masks.
        settings: probabilities and strengths.
        rng: random generator of this image.
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
    """Random numbers in [0, 1) for a crop.

    Attributes:
        height, width: size of the window, from the smallest to the whole image.
        top, left: position of the window, from the first possible to the last.
    """

    height: float
    width: float
    top: float
    left: float


def crop(image: ReferringImage, smallest: float, place: CropPlace) -> ReferringImage:
    """Crop an image such that all target pixels stay, and sides that phrases mention are not cropped.

    The image is returned unchanged if a phrase may mention other objects than its target, whose positions are unknown.

    Args:
        image: image with its phrases and masks.
        smallest: minimum share of each side to keep.
        place: size and position of the window.
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
    """Return the part of a side to keep, which contains all used pixels; the whole side if `whole`."""
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
    """Crop the image, its masks and its further annotations to the rows and columns of a window."""
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
