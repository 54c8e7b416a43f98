"""Extension point: where training images come from; and the source that reads a data set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from refersam.data.sample import ReferringImage, ReferringSample
from refersam.training.augmentation import augment
from refersam.training.settings import SettingsError, TrainSettings

_AUGMENTATION, _ORDER = 1, 2
"""Random streams of a run; extensions take higher numbers."""


class Source(ABC):
    """Training images by index; index, progress and settings decide everything about an image.

    Worker processes receive a pickled copy.
    """

    length: int | None = None
    """Images of one pass over the data; None for an endless source."""

    @abstractmethod
    def load(self, index: int, progress: float) -> ReferringImage:
        """Return an image with at most `data.phrases_per_image` phrases and their masks.

        Args:
            index: of the image in the run, from 0.
            progress: share of the steps that are done, in [0, 1).

        Raises:
            DataError: an image or mask that cannot be read.
        """

    @abstractmethod
    def phrases(self) -> Iterable[str]:
        """Return text to train a tokenizer on."""

    def image_size(self, progress: float) -> int | None:  # noqa: ARG002
        """Return the side of the network's input in pixels, None for `data.image_size`.

        Args:
            progress: as for `load`.
        """
        return None

    def collate_extra(
        self,
        images: Sequence[ReferringImage],  # noqa: ARG002
        chosen: Sequence[Sequence[int]],  # noqa: ARG002
        image_size: int,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Return `Batch.extra`: tensors by name, nested if need be, that only objectives read.

        Args:
            images: of the batch, as `load` returned them.
            chosen: for each image the indices of its phrases in the batch, which may repeat.
            image_size: side of the network's input in pixels.
        """
        return {}


class DatasetSource(Source):
    """Passes over the samples of a data set, each in a new order.

    Every phrase occurs once per pass; some occur twice to fill up an image. Raises SettingsError if
    `data.no_target_share` is set, but no sample, or every one, has a target.
    """

    def __init__(self, samples: Sequence[ReferringSample], settings: TrainSettings) -> None:
        self.samples, self.settings = samples, settings
        self.with_target = np.array([index for index, sample in enumerate(samples) if sample.has_target], dtype=int)
        self.without = np.array([index for index, sample in enumerate(samples) if not sample.has_target], dtype=int)
        share = settings.data.no_target_share
        if share is not None and not (self.with_target.size and (self.without.size or not share)):
            kind = "target" if self.with_target.size == 0 else "missing target"
            raise SettingsError(
                f"data.no_target_share is {share}, but no phrase of {settings.data.dataset}, {settings.data.split}, "
                f"has a {kind}: leave it out."
            )
        self._pass: tuple[int, list[tuple[int, ...]]] = (-1, [])
        first = self.order(0)
        self.length: int | None = len(first)

    def load(self, index: int, progress: float) -> ReferringImage:  # noqa: ARG002
        """Return an image of the data set, augmented; see `Source`."""
        length = self.length or 1
        # With no_target_share, passes differ slightly in length: all are made as long as the first.
        order = self.order(index // length)
        image = ReferringImage.load([self.samples[position] for position in order[index % length % len(order)]])
        return augment(image, self.settings.data.augment, augmentation_generator(self.settings, index))

    def phrases(self) -> Iterable[str]:
        """Return all phrases; see `Source`."""
        return (sample.phrase for sample in self.samples)

    def order(self, number: int) -> list[tuple[int, ...]]:
        """Return the order of a pass: for each image the positions of its samples. The last pass is cached."""
        if self._pass[0] != number:
            rng = np.random.default_rng([self.settings.seed, _ORDER, number])
            by_image: dict[str, list[int]] = defaultdict(list)
            for index in rng.permutation(self._chosen(rng)).tolist():
                by_image[self.samples[index].image.image_id].append(index)
            units = [part for indices in by_image.values() for part in self._parts(indices)]
            self._pass = (number, [units[index] for index in rng.permutation(len(units))])
        return self._pass[1]

    def _chosen(self, rng: np.random.Generator) -> np.ndarray:
        """Return positions of the samples in a pass; samples without target repeat until they have their share."""
        share = self.settings.data.no_target_share
        if share is None:
            return np.arange(len(self.samples))
        wanted = round(self.with_target.size * share / (1 - share))
        rounds = [rng.permutation(self.without) for _ in range(-(-wanted // max(1, self.without.size)))]
        return np.concatenate([self.with_target, *rounds])[: self.with_target.size + wanted]

    def _parts(self, indices: list[int]) -> list[tuple[int, ...]]:
        """Split the samples of an image into as few and as even parts of `phrases_per_image` as possible."""
        count = -(-len(indices) // self.settings.data.phrases_per_image)
        return [tuple(part.tolist()) for part in np.array_split(np.array(indices), count)]


def augmentation_generator(settings: TrainSettings, index: int) -> np.random.Generator:
    """Return the random generator for the augmentation of one image of the run."""
    return np.random.default_rng([settings.seed, _AUGMENTATION, index])
