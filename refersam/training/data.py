"""Data loading of training: images are collated to batches in worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from refersam.data.sample import ReferringImage
from refersam.errors import DataError, ReferSamError
from refersam.image import resize_to_array
from refersam.processor import ReferSamProcessor
from refersam.training.settings import TrainSettings
from refersam.training.sources import Source
from refersam.workers import load_in_workers


@dataclass
class Batch:
    """Tensors of one forward pass: I images, n phrases each, B = I * n.

    Attributes:
        pixel_values: (I, 3, H, W).
        input_ids: (B, S).
        attention_mask: (B, S).
        target_mask: (B, H, W) in [0, 1], resized with antialiasing.
        sample_ids: names of the B samples.
        seeds: B seeds for the points that the loss samples.
        extra: tensors for objectives (`Source.collate_extra`).
        cache_key: the same for batches of the same content (`clicks.cached_batches`); None where none repeats.
    """

    pixel_values: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    target_mask: Tensor
    sample_ids: tuple[str, ...]
    seeds: tuple[int, ...]
    extra: dict[str, Any] = field(default_factory=dict)
    cache_key: int | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch with all tensors on a device."""
        return Batch(**{part.name: send_to_device(getattr(self, part.name), device) for part in fields(self)})


class BatchStream(IterableDataset["Batch | ReferSamError"]):
    """Batches first, first + 1, ... of a run; each depends only on the settings and its index.

    Errors of broken data are yielded, not raised, because exceptions of worker processes lose their type.

    Args:
        settings: settings of the run.
        source: source of the images.
        processor: processor of the model.
        count: number of batches of the whole run.
        first: index of the first batch, for resumed runs.
        rank: rank of this process; processes load different images.
        world_size: number of processes.
    """

    def __init__(
        self,
        settings: TrainSettings,
        source: Source,
        processor: ReferSamProcessor,
        count: int,
        first: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.settings, self.source, self.processor = settings, source, processor
        self.count, self.first, self.rank, self.world_size = count, first, rank, world_size

    def __iter__(self) -> Iterator[Batch | ReferSamError]:
        worker = get_worker_info()
        offset, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number in range(self.first + offset, self.count, step):
            try:
                yield self.batch(number)
            except ReferSamError as error:
                yield error

    def batch(self, number: int) -> Batch:
        """Prepare batch `number` of this process.

        Raises:
            DataError: an invalid image, mask or phrase.
        """
        settings, data, size = self.settings, self.settings.data, self.settings.batch_size
        each, repeated = settings.gradient_accumulation_steps, settings.clicks.cached_batches
        content = number if repeated is None else number % repeated
        progress = content // each * each / self.count  # the same for all batches of a step
        start = (content * self.world_size + self.rank) * size
        images = [self.source.load(index, progress) for index in range(start, start + size)]
        side = self.source.image_size(progress) or data.image_size
        chosen = [[index % len(image.phrases) for index in range(data.phrases_per_image)] for image in images]
        first = (number * self.world_size + self.rank) * size
        batch = collate(images, chosen, self.processor, side, (settings.seed, first))
        batch.cache_key = None if repeated is None else content
        batch.extra = self.source.collate_extra(images, chosen, side)
        return batch


def collate(
    images: Sequence[ReferringImage],
    chosen: Sequence[Sequence[int]],
    processor: ReferSamProcessor,
    image_size: int,
    seed: tuple[int, int],
) -> Batch:
    """Stack images, phrases and masks, resized to squares of image_size pixels.

    Args:
        images: decoded images.
        chosen: for each image, the indices of its phrases in the batch; equally many for each.
        processor: processor of the model.
        image_size: side of the network's input in pixels.
        seed: seed of the run, and index of the first image.

    Raises:
        DataError: a phrase that the tokenizer cannot read.
    """
    phrases: list[str] = []
    targets: list[np.ndarray] = []
    names: list[str] = []
    seeds: list[int] = []
    for place, (image, indices) in enumerate(zip(images, chosen, strict=True)):
        masks = resize_masks(image.masks, image_size)
        for turn, index in enumerate(indices):
            phrases.append(image.phrases[index])
            targets.append(masks[index])
            names.append(image.sample_ids[index])
            seeds.append(int(np.random.SeedSequence([seed[0], seed[1] + place, turn]).generate_state(1)[0]))
    try:
        text = processor.encode_phrases(phrases)
    except ReferSamError as error:
        raise DataError(f"{error} (one of the samples {', '.join(dict.fromkeys(names))})") from error
    pixels = [resize_to_array(np.ascontiguousarray(image.image), image_size, image_size) for image in images]
    return Batch(
        pixel_values=torch.stack([processor.image_processor.normalise(each) for each in pixels]),
        input_ids=text["input_ids"],
        attention_mask=text["attention_mask"],
        target_mask=torch.from_numpy(np.stack(targets)).float() / 255,
        sample_ids=tuple(names),
        seeds=tuple(seeds),
    )


def resize_masks(masks: np.ndarray, side: int) -> np.ndarray:
    """Resize (n, H, W) bool masks to (n, side, side) uint8, the covered share of each pixel times 255."""
    return np.stack([resize_to_array(mask.astype(np.uint8) * 255, side, side) for mask in masks])


def training_batches(stream: BatchStream) -> Iterator[Batch]:
    """Yield batches in order, prepared ahead by worker processes.

    Raises:
        DataError: invalid data of a batch.
    """
    settings = stream.settings
    yield from load_in_workers(stream, settings.data.workers, seed=settings.seed)
