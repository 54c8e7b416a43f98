"""Evaluation batches, and their decoding in worker processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from refersam.data.sample import ReferringSample
from refersam.errors import DataError, ReferSamError
from refersam.evaluate.predictions import Prediction
from refersam.inference.queries import Query
from refersam.inference.runtimes import Processor
from refersam.metrics.boundary import compare_boundaries
from refersam.metrics.masks import target_mask
from refersam.metrics.protocols import Protocol
from refersam.metrics.results import SampleResult, compare_masks, judge_target

Plan = tuple[tuple[int, ...], ...]
"""One batch: for each of its images the positions of samples in the data set, the same number for each image."""

PREDICTIONS_PER_BATCH = 64


def plan_batches(samples: Sequence[ReferringSample], batch_size: int) -> list[Plan]:
    """Group samples into batches by image; each sample is in exactly one batch.

    Batches depend on the samples and the size only, not on the number of processes: a different batch may round
    differently.

    Args:
        samples: samples of a data set.
        batch_size: largest number of phrases in a batch; an image with more phrases is split.
    """
    images: dict[str, list[int]] = {}
    for position, sample in enumerate(samples):
        images.setdefault(sample.image.image_id, []).append(position)
    by_length: dict[int, list[tuple[int, ...]]] = {}
    for positions in images.values():
        for start in range(0, len(positions), batch_size):
            chunk = tuple(positions[start : start + batch_size])
            by_length.setdefault(len(chunk), []).append(chunk)
    batches = []
    for length, chunks in by_length.items():
        count = batch_size // length
        batches += [tuple(chunks[start : start + count]) for start in range(0, len(chunks), count)]
    return sorted(batches)


@dataclass
class ModelBatch:
    """Queries of I images with n phrases each, B = I * n, and the target masks.

    Attributes:
        positions: B indices into the data set.
        queries: I queries.
        truths: B masks at the protocol's size, packed.
    """

    positions: list[int]
    queries: list[Query]
    truths: list[PackedMask]


@dataclass(frozen=True)
class PackedMask:
    """Mask at one bit per pixel, cheap to pass between processes."""

    bits: bytes
    shape: tuple[int, ...]

    @classmethod
    def pack(cls, mask: np.ndarray) -> PackedMask:
        """Pack an (H, W) bool mask."""
        return cls(np.packbits(mask).tobytes(), mask.shape)

    def unpack(self) -> np.ndarray:
        """(H, W) bool."""
        count = int(np.prod(self.shape))
        return np.unpackbits(np.frombuffer(self.bits, np.uint8), count=count).reshape(self.shape).astype(bool)


class ModelBatches(Dataset[ModelBatch | ReferSamError]):
    """Decoded batches. Broken data yield the error itself, because an exception of a worker loses its type.

    Args:
        samples: samples of the data set.
        plans: positions of the samples of each batch.
        processor: processor of the model.
        protocol: evaluation protocol.
    """

    def __init__(
        self,
        samples: Sequence[ReferringSample],
        plans: Sequence[Plan],
        processor: Processor,
        protocol: Protocol,
    ) -> None:
        self.samples, self.plans, self.processor, self.protocol = samples, plans, processor, protocol

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, index: int) -> ModelBatch | ReferSamError:
        plan = self.plans[index]
        positions = [position for image in plan for position in image]
        samples = [self.samples[position] for position in positions]
        try:
            return ModelBatch(
                positions=positions,
                queries=[self._prepare([self.samples[position] for position in image]) for image in plan],
                truths=[PackedMask.pack(target_mask(sample, self.protocol)) for sample in samples],
            )
        except ReferSamError as error:
            names = ", ".join(sample.sample_id for sample in samples[:8])
            return DataError(f"{error} (in the batch with the samples {names})")

    def _prepare(self, samples: Sequence[ReferringSample]) -> Query:
        """Prepare the phrases of one image."""
        # By way of an array: an EXIF rotation, which COCO's masks do not follow, has no place in it.
        image = Image.fromarray(np.asarray(samples[0].image.load()))
        return Query.prepare(self.processor, image, [sample.phrase for sample in samples], allow_unknown=True)


class PredictionBatches(Dataset[list[SampleResult] | ReferSamError]):
    """Counted results of predictions in the order of the plan. Broken data yield the error itself.

    Args:
        samples: samples of the data set.
        plans: positions of the samples of each item.
        predictions: predictions by sample id.
        protocol: evaluation protocol.
        min_pixels: see `judge_target`.
        boundary: whether to compare boundary regions, too.
    """

    def __init__(
        self,
        samples: Sequence[ReferringSample],
        plans: Sequence[Sequence[int]],
        predictions: Mapping[str, Prediction],
        protocol: Protocol,
        min_pixels: int,
        boundary: bool = False,
    ) -> None:
        self.samples, self.plans, self.predictions = samples, plans, predictions
        self.protocol, self.min_pixels, self.boundary = protocol, min_pixels, boundary

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, index: int) -> list[SampleResult] | ReferSamError:
        try:
            return [self._compare(self.samples[position]) for position in self.plans[index]]
        except ReferSamError as error:
            return error

    def _compare(self, sample: ReferringSample) -> SampleResult:
        prediction = self.predictions[sample.sample_id]
        pixels = prediction.pixels(self.protocol, sample.image.height, sample.image.width)
        truth = target_mask(sample, self.protocol)
        return count_sample(sample, pixels, truth, prediction, self.min_pixels, self.boundary)


def count_sample(
    sample: ReferringSample,
    pixels: np.ndarray,
    truth: np.ndarray,
    prediction: Prediction,
    min_pixels: int,
    boundary: bool = False,
) -> SampleResult:
    """Count the pixels of one sample.

    Args:
        sample: sample of the data set.
        pixels: bool, predicted mask at the protocol's size.
        truth: bool, target mask at the protocol's size.
        prediction: prediction with the no-target decision and the scores.
        min_pixels: see `judge_target`.
        boundary: whether to compare boundary regions, too.
    """
    intersection, predicted, true = compare_masks(pixels, truth)
    return SampleResult(
        intersection=intersection,
        predicted=predicted,
        truth=true,
        has_target=sample.has_target,
        judged_target=judge_target(prediction.no_target, predicted, min_pixels),
        tags=sample.tags,
        score=prediction.score,
        target_probability=prediction.target_probability,
        boundary=compare_boundaries(pixels, truth) if boundary else None,
    )
