"""The training stream: pictures become batches in worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from refersam.data.sample import ReferringImage
from refersam.errors import DataError, ReferSamError
from refersam.image import resize_to_array
from refersam.processor import ReferSamProcessor
from refersam.training.looks import LEAST_COVER, cell_labels
from refersam.training.settings import StageSettings, TrainSettings
from refersam.training.signals import SIGNALS
from refersam.training.sources import REVIEW, PictureSource
from refersam.workers import iterate_in_workers, start_worker

MENTION_STRIDE = 8
"""Pixels to a cell of `Batch.mention_mask`: those of the pyramid's finest level."""


@dataclass
class Batch:
    """Tensors of one forward pass: I pictures, n phrases each, B = I * n.

    Attributes:
        pixel_values: (I, 3, H, W).
        input_ids: (B, S).
        attention_mask: (B, S).
        target_mask: (B, H, W) in [0, 1], resized with antialiasing.
        sample_ids: B names.
        seeds: B numbers that the loss draws each phrase's points by.
        mention_mask: (B, 2, H/8, W/8) in [0, 1], the shares of each cell that are of objects which the first
            description in the phrase fits, and of those that its others fit; None where that is not learned.
        look_labels: by stride (I, 3, H/stride, W/stride), see `cell_labels`; None likewise.
        condition_labels: by stride (B, H/stride, W/stride), `DrawnObjects.conditions` at cells' centres; None likewise.
    """

    pixel_values: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    target_mask: Tensor
    sample_ids: tuple[str, ...]
    seeds: tuple[int, ...]
    mention_mask: Tensor | None = None
    look_labels: dict[int, Tensor] | None = None
    condition_labels: dict[int, Tensor] | None = None

    def to(self, device: torch.device) -> Batch:
        """All tensors on a device."""
        return Batch(**{part.name: send_to_device(getattr(self, part.name), device) for part in fields(self)})


class BatchStream(IterableDataset["Batch | ReferSamError"]):
    """Batches first, first + 1, ... of a run; each depends on the settings and its number alone.

    An item is the error where its data are broken, since an exception of a worker loses its kind.

    Args:
        settings: of the run.
        source: of its pictures.
        processor: of the model.
        count: batches of the whole run.
        first: number of the first batch; a resumed run goes on where it stopped.
        rank: of this process; processes take turns with the pictures.
        world_size: number of processes.
    """

    def __init__(
        self,
        settings: TrainSettings,
        source: PictureSource,
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
            DataError: a picture, mask or phrase that cannot be used.
        """
        pictures = self.settings.batch_pictures
        start = (number * self.world_size + self.rank) * pictures
        data, (stage, before) = self.settings.data, self._stages(number)
        loaded = [
            self.source.load(picture, before if _is_review(picture, stage.review, self.settings.seed) else stage)
            for picture in range(start, start + pictures)
        ]
        side = stage.image_size or data.image_size
        return collate(loaded, self.processor, data.phrases_per_picture, side, (self.settings.seed, start))

    def _stages(self, number: int) -> tuple[StageSettings, StageSettings]:
        """The stage that a batch is in, and the one before it; the first has none but itself."""
        each, stages = self.settings.accumulate, self.settings.data.stages
        share = number // each * each / self.count  # all passes of a step are in one stage
        current = next((i for i, stage in enumerate(stages) if share < stage.until), len(stages) - 1)
        return stages[current], stages[max(0, current - 1)]


def _is_review(picture: int, share: float, seed: int) -> bool:
    """Whether a picture of the run, by its number, is one of the share."""
    return share > 0 and bool(np.random.default_rng([seed, REVIEW, picture]).random() < share)


def collate(
    pictures: Sequence[ReferringImage],
    processor: ReferSamProcessor,
    phrases_per_picture: int,
    image_size: int,
    seed: tuple[int, int],
) -> Batch:
    """Pictures -> tensors of image_size pixels squared; a picture with fewer phrases than wanted repeats them.

    Args:
        pictures: decoded.
        processor: of the model.
        phrases_per_picture: of each.
        image_size: side in pixels.
        seed: the run's, and the number of the first picture.

    Raises:
        DataError: a phrase that the tokenizer cannot read.
    """
    phrases: list[str] = []
    targets: list[np.ndarray] = []
    names: list[str] = []
    seeds: list[int] = []
    mentions: list[Tensor] = []
    looks: list[dict[int, Tensor]] = []
    conditions: dict[int, list[Tensor]] = {stride: [] for stride in LEAST_COVER}
    for place, picture in enumerate(pictures):
        masks = _resize_masks(picture.masks, image_size)
        drawn = picture.objects
        if drawn is not None:
            objects = torch.from_numpy(_resize_masks(drawn.masks, image_size)).float() / 255
            cells = F.avg_pool2d(objects, MENTION_STRIDE)
            looks.append(
                {stride: cell_labels(objects, torch.from_numpy(drawn.looks), stride) for stride in LEAST_COVER}
            )
        for index in range(phrases_per_picture):
            chosen = index % len(picture.phrases)
            phrases.append(picture.phrases[chosen])
            targets.append(masks[chosen])
            if drawn is not None:
                mentions.append(mention_mask(cells, drawn.mentions[chosen]))
                for stride, labels in conditions.items():
                    labels.append(_at_centres(drawn.conditions[chosen], image_size // stride))
            names.append(picture.sample_ids[chosen])
            seeds.append(int(np.random.SeedSequence([seed[0], seed[1] + place, index]).generate_state(1)[0]))
    try:
        text = processor.encode_phrases(phrases)
    except ReferSamError as error:
        raise DataError(f"{error} (one of the samples {', '.join(dict.fromkeys(names))})") from error
    images = [resize_to_array(np.ascontiguousarray(picture.image), image_size, image_size) for picture in pictures]
    return Batch(
        pixel_values=torch.stack([processor.image_processor.normalise(image) for image in images]),
        input_ids=text["input_ids"],
        attention_mask=text["attention_mask"],
        target_mask=torch.from_numpy(np.stack(targets)).float() / 255,
        sample_ids=tuple(names),
        seeds=tuple(seeds),
        mention_mask=torch.stack(mentions) if mentions else None,
        look_labels={stride: torch.stack([of[stride] for of in looks]) for stride in LEAST_COVER} if looks else None,
        condition_labels={stride: torch.stack(labels) for stride, labels in conditions.items()} if mentions else None,
    )


def mention_mask(cells: Tensor, mentions: Sequence[Sequence[int]]) -> Tensor:
    """(2, h, w) shares of each cell: of the objects that a phrase's first description fits, of those its others fit.

    Args:
        cells: (k, h, w) share of each cell that each object covers.
        mentions: for each description the objects that it fits.
    """
    others = sorted({index for mention in mentions[1:] for index in mention})
    return torch.stack([cells[list(indices)].sum(dim=0) for indices in (mentions[0], others)])


def _at_centres(labels: np.ndarray, cells: int) -> Tensor:
    """(H, W) labels -> (cells, cells), those of the pixels at the centres of the cells."""
    rows, columns = (((np.arange(cells) + 0.5) * length / cells).astype(int) for length in labels.shape)
    return torch.from_numpy(labels[np.ix_(rows, columns)])


def _resize_masks(masks: np.ndarray, side: int) -> np.ndarray:
    """(n, H, W) bool -> (n, side, side) uint8, the covered share of each pixel of 255."""
    return np.stack([resize_to_array(mask.astype(np.uint8) * 255, side, side) for mask in masks])


def training_batches(stream: BatchStream) -> Iterator[Batch]:
    """Batches in order, prepared ahead by worker processes.

    Raises:
        DataError: data of a batch that cannot be used.
    """
    workers = stream.settings.data.workers
    loader = DataLoader(
        stream,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=start_worker if workers else None,
        # The loader draws a seed for its workers; from the global generator it would shift a resumed run's numbers.
        generator=torch.Generator().manual_seed(stream.settings.seed),
    )
    for batch in iterate_in_workers(loader):
        if isinstance(batch, ReferSamError):
            raise batch
        yield batch
