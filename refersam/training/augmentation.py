"""Random changes of a picture, its masks and its phrases together, after which every phrase is still true."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from refersam.data.sample import ReferringImage
from refersam.training.directions import (
    mentions_another,
    mentions_colour,
    mentions_horizontal,
    mentions_vertical,
    mirror_phrase,
)
from refersam.training.settings import AugmentSettings, WordingSettings
from refersam.training.wording import frame, misspell, rename

WORDING_NUMBERS = 10
"""Numbers that `reword` takes for a phrase."""
FRAMED_BY = 5
"""Which of them decides whether there is a sentence around it."""


def augment(picture: ReferringImage, settings: AugmentSettings, rng: np.random.Generator) -> ReferringImage:
    """Crop, flip, recolour and reword, each by chance; the network's own resizing comes afterwards.

    As many numbers are drawn whatever happens, so that a setting changes nothing but its own effect.

    Args:
        picture: with its phrases.
        settings: chances and strengths.
        rng: of this picture.
    """
    chances, places = rng.random(3), rng.random(4)
    brightness, contrast = 1 + settings.colour * rng.uniform(-1, 1, 2)
    if chances[0] < settings.crop:
        picture = crop(picture, settings.smallest_crop, places)
    if chances[1] < settings.flip:
        picture = flip(picture)
    if settings.colour and not any(map(mentions_colour, picture.phrases)):
        picture = replace(picture, image=recolour(picture.image, brightness, contrast))
    # Last, since what was looked for in the phrases so far is found as they were said.
    # Numbers that came later are drawn behind the others: what recipes without other names draw stays as it was.
    first = rng.random((len(picture.phrases), 7))
    numbers = np.hstack([first, rng.random((len(picture.phrases), WORDING_NUMBERS - 7))])
    phrases = tuple(reword(phrase, settings, drawn) for phrase, drawn in zip(picture.phrases, numbers, strict=True))
    return picture if phrases == picture.phrases else replace(picture, phrases=phrases)


def reword(phrase: str, settings: WordingSettings, numbers: np.ndarray) -> str:
    """Another name in it, a typing error, a sentence around it, each by chance.

    Args:
        phrase: any.
        settings: chances.
        numbers: `WORDING_NUMBERS` in [0, 1).
    """
    if numbers[7] < settings.synonyms:
        phrase = rename(phrase, numbers[8:])
    if numbers[0] < settings.typing_errors:
        phrase = misspell(phrase, numbers[1:5])
    return frame(phrase, float(numbers[6])) if numbers[FRAMED_BY] < settings.frames else phrase


def crop(picture: ReferringImage, smallest: float, places: np.ndarray) -> ReferringImage:
    """Cut off the borders, as far as no target loses a pixel and no phrase speaks of a side that would move.

    Where a phrase may speak of something beside its target, which nothing shows the place of, the picture stays whole.

    Args:
        picture: with its phrases.
        smallest: least share of each side to keep.
        places: four numbers in [0, 1): sizes of both sides, then where the window lies; height before width.
    """
    if any(map(mentions_another, picture.phrases)):
        return picture
    masks = picture.masks
    rows = _window(
        np.asarray(masks.any(axis=(0, 2))), any(map(mentions_vertical, picture.phrases)), smallest, places[0], places[2]
    )
    columns = _window(
        np.asarray(masks.any(axis=(0, 1))),
        any(map(mentions_horizontal, picture.phrases)),
        smallest,
        places[1],
        places[3],
    )
    return _cut(picture, (rows, columns))


def _window(used: np.ndarray, whole: bool, smallest: float, size: float, place: float) -> slice:
    """Part of a side of n pixels that holds all of the used ones."""
    length = used.size
    if whole:
        return slice(0, length)
    inside = np.flatnonzero(used)
    first, last = (int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, 0)
    kept = max(1, round((smallest + (1 - smallest) * size) * length), last - first)
    low, high = max(0, last - kept), min(first, length - kept) if inside.size else length - kept
    start = low + round(place * (high - low))
    return slice(start, start + kept)


def flip(picture: ReferringImage) -> ReferringImage:
    """Mirror left and right, in the phrases too; the picture as it is where a phrase cannot be mirrored for sure."""
    phrases = [mirror_phrase(phrase) for phrase in picture.phrases]
    mirrored = tuple(phrase for phrase in phrases if phrase is not None)
    if len(mirrored) < len(phrases):
        return picture
    return replace(_cut(picture, (slice(None), slice(None, None, -1))), phrases=mirrored)


def _cut(picture: ReferringImage, window: tuple[slice, slice]) -> ReferringImage:
    """The rows and columns of a window, of the pixels and all masks."""
    drawn = picture.objects
    return replace(
        picture,
        image=picture.image[window],
        masks=picture.masks[:, *window],
        objects=None
        if drawn is None
        else replace(drawn, masks=drawn.masks[:, *window], conditions=drawn.conditions[:, *window]),
    )


def recolour(image: np.ndarray, brightness: float, contrast: float) -> np.ndarray:
    """(H, W, 3) uint8 with both scaled: contrast about the mean grey, then brightness."""
    mean = float(image.mean())
    values = (image.astype(np.float32) - mean) * contrast + mean
    return (values * brightness).round().clip(0, 255).astype(np.uint8)
