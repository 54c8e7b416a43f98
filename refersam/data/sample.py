"""The one type that every reader yields, light until it is asked for pixels, and the decoded images made of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from PIL import Image

from refersam.data.regions import Region, decode_region
from refersam.errors import DataError
from refersam.image import load_image
from refersam.reprs import OneLineRepr


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image file, not read yet. The samples of one image share one record.

    Attributes:
        image_id: name or number, unique in the data set.
        path: the file.
        width: in pixels; masks match these.
        height: the same.
        apply_exif_rotation: the image is turned upright as its EXIF data say; else its pixels are taken as stored.
    """

    image_id: str
    path: Path
    width: int
    height: int
    apply_exif_rotation: bool = False

    def load(self) -> Image.Image:
        """Decode the image as 8-bit RGB.

        Raises:
            ImageError: missing or broken.
            DataError: its size is not the one that the annotations were made for.
        """
        image = load_image(self.path, apply_exif_rotation=self.apply_exif_rotation)
        if image.size != (self.width, self.height):
            raise DataError(
                f"{self.path} has {image.width} x {image.height} pixels, but its annotations are for "
                f"{self.width} x {self.height}."
            )
        return image


@dataclass(frozen=True, slots=True)
class ReferringSample:
    """A phrase about an image, and what it means.

    Attributes:
        sample_id: unique in the data set (the benchmarks' `sent_id`).
        phrase: the text.
        image: the image.
        regions: the objects meant; the target is their union. Empty where the phrase has no target.
        tags: the phenomenon first; empty where the data set has none.
        category: name of the target's category; None without a target, without categories, or for several.
        distractors: other annotated objects of that category in the image; None where unknown.
    """

    sample_id: str
    phrase: str
    image: ImageRecord
    regions: tuple[Region, ...]
    tags: tuple[str, ...] = ()
    category: str | None = None
    distractors: int | None = None

    @property
    def has_target(self) -> bool:
        """Whether the phrase means anything in the image."""
        return bool(self.regions)

    def load_mask(self) -> np.ndarray:
        """(H, W) bool at the image's stored size: the union of the regions.

        Raises:
            DataError: a region that cannot be decoded, or of another size.
        """
        return decode_regions(self.regions, self.image.height, self.image.width)


class ImageExtra(Protocol):
    """Further annotations of an image, for training objectives of extensions."""

    def cut(self, rows: slice, columns: slice, /) -> Self:
        """Return the annotations for a window of the image; a slice with step -1 mirrors."""


@dataclass(frozen=True, repr=False)
class ReferringImage(OneLineRepr):
    """A decoded image and what is asked of it; the phrases of one image stay together, so it is decoded once.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        phrases: n phrases.
        masks: (n, H, W) bool, the target of each; empty where a phrase has none.
        sample_ids: n names, unique in the data set.
        tags: n tuples, the phrase's phenomenon first; empty where the data set has none.
        extra: further annotations, which only training objectives of extensions read.
    """

    image: np.ndarray
    phrases: tuple[str, ...]
    masks: np.ndarray
    sample_ids: tuple[str, ...]
    tags: tuple[tuple[str, ...], ...]
    extra: ImageExtra | None = None

    @classmethod
    def load(cls, samples: Sequence[ReferringSample]) -> ReferringImage:
        """Decode the samples of one image.

        Args:
            samples: at least one, all of the same image.
        """
        return cls(
            image=np.asarray(samples[0].image.load()),
            phrases=tuple(sample.phrase for sample in samples),
            masks=np.stack([sample.load_mask() for sample in samples]),
            sample_ids=tuple(sample.sample_id for sample in samples),
            tags=tuple(sample.tags for sample in samples),
        )


def decode_regions(regions: Iterable[Region], height: int, width: int) -> np.ndarray:
    """(height, width) bool: the union of all regions, every polygon of each included.

    Raises:
        ImageError: a mask file that is missing or broken.
        DataError: a region that cannot be decoded, or of another size.
    """
    union = np.zeros((height, width), dtype=bool)
    for region in regions:
        union |= decode_region(region, height, width)
    return union
