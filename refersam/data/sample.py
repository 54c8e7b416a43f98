"""Samples, which all readers return without pixels, and decoded images."""

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
    """Image file before decoding. The samples of one image share one record.

    Attributes:
        image_id: name or number, unique in the data set.
        path: image file.
        width: width in pixels, equal to that of the masks.
        height: height in pixels, equal to that of the masks.
        apply_exif_rotation: whether to apply the EXIF rotation; else the stored pixels are used.
    """

    image_id: str
    path: Path
    width: int
    height: int
    apply_exif_rotation: bool = False

    def load(self) -> Image.Image:
        """Decode the image as 8-bit RGB.

        Raises:
            ImageError: the file is missing or broken.
            DataError: the size differs from that of the annotations.
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
    """Phrase about an image, with its target.

    Attributes:
        sample_id: identifier, unique in the data set (`sent_id` of the benchmarks).
        phrase: text of the phrase.
        image: record of the image.
        regions: target objects; the target mask is their union. Empty if the phrase has no target.
        tags: labels of the phrase, with the phenomenon first; empty if the data set has none.
        category: category name of the target; None without a target or category, or for several categories.
        distractors: number of other annotated objects of that category in the image; None if unknown.
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
        """Whether the phrase has a target in the image."""
        return bool(self.regions)

    def load_mask(self) -> np.ndarray:
        """Decode the target mask, (H, W) bool at the size of `image`: the union of the regions.

        Raises:
            DataError: a region cannot be decoded, or has another size.
        """
        return decode_regions(self.regions, self.image.height, self.image.width)


class ImageExtra(Protocol):
    """Additional annotations of an image, for training objectives of extensions."""

    def cut(self, rows: slice, columns: slice, /) -> Self:
        """Return the annotations for a crop of the image; a slice with step -1 mirrors."""


@dataclass(frozen=True, repr=False)
class ReferringImage(OneLineRepr):
    """Decoded image with all its phrases and masks, so that it is decoded once.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        phrases: n phrases.
        masks: (n, H, W) bool target masks; all False for a phrase without target.
        sample_ids: n identifiers, unique in the data set.
        tags: n tuples of labels, with the phenomenon first; empty if the data set has none.
        extra: additional annotations for training objectives of extensions.
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
            samples: at least one sample, all of the same image.
        """
        return cls(
            image=np.asarray(samples[0].image.load()),
            phrases=tuple(sample.phrase for sample in samples),
            masks=np.stack([sample.load_mask() for sample in samples]),
            sample_ids=tuple(sample.sample_id for sample in samples),
            tags=tuple(sample.tags for sample in samples),
        )


def decode_regions(regions: Iterable[Region], height: int, width: int) -> np.ndarray:
    """Decode the union of all regions, (height, width) bool.

    Raises:
        ImageError: a mask file is missing or broken.
        DataError: a region cannot be decoded, or has another size.
    """
    union = np.zeros((height, width), dtype=bool)
    for region in regions:
        union |= decode_region(region, height, width)
    return union
