"""Before the first phrase: the model learns to see what SceneRef's phrases speak of.

A model from scratch has to find out at once what a picture shows and what words mean, and each waits for the other. SAM
comes with eyes; the tiny preset gets them here, from labels that a drawn scene gives for nothing: the colour, the
shape and the pattern of what lies in each cell of strides 8 and 16, and where objects and their edges are, at stride 4.
Taught is the spatial prior alone, or with it all that sees no text: SAM's first layers, their injection and extraction.
What reads phrases has lessons of its own (`reading`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.nn import functional as F

from refersam.model.interactor import Interactor
from refersam.model.refersam import ReferSamModel
from refersam.model.spatial_prior import SpatialPrior
from refersam.processor import ReferSamImageProcessor, ReferSamProcessor
from refersam.training import checkpoint
from refersam.training.looks import LEAST_COVER, LOOKS, LooksHeads, cell_labels, looks_of
from refersam.training.positions import PositionHeads
from refersam.training.reading import Reader, ReadingLessons
from refersam.training.settings import PretrainingSettings
from refersam.training.signals import Stopped, any_process, never, until_stopped

FINE_STRIDE = 4

Progress = Callable[[int, dict[str, float]], None]
"""Called with the steps done and the values of a log line."""
OnStep = Callable[[int], object]
"""Called with the steps done."""


def _ignore(_done: int) -> None:
    """Show no steps."""


class Lessons:
    """Drawn pictures and their labels, in memory.

    Args:
        settings: how many, and what they are like.
        seed: of the scenes.
        rank: of this process; each draws its own share.
        world_size: number of processes.
        is_stopping: asked before each picture.

    Raises:
        Stopped: `is_stopping` returned True.
    """

    def __init__(
        self,
        settings: PretrainingSettings,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        is_stopping: Callable[[], bool] = never,
    ) -> None:
        scenes = settings.scenes()
        own = until_stopped(range(rank, settings.pictures, world_size), is_stopping)
        drawn = [generate_scene(scenes, "train", seed, index) for index in own]
        self.process = (seed, rank, world_size)
        self.images = torch.from_numpy(np.stack([scene.image for scene in drawn]))
        self.fine = torch.stack([fine_labels(scene) for scene in drawn])
        self.cells = {stride: torch.stack([_labels(scene, stride) for scene in drawn]) for stride in LEAST_COVER}

    def batch(self, number: int, size: int) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """Batch `number`: pictures of the pool, all turned by the same quarters and perhaps mirrored.

        Returns:
            Images (B, H, W, 3) uint8, `fine_labels` (B, 2, H/4, W/4), and `cell_labels` by stride.
        """
        generator = torch.Generator().manual_seed(_seed_of(number, *self.process))
        chosen = torch.randint(len(self.images), (size,), generator=generator)
        quarters, mirrored = torch.randint(4, (), generator=generator), torch.randint(2, (), generator=generator)

        def turn(maps: Tensor, rows: int) -> Tensor:
            maps = torch.rot90(maps[chosen], int(quarters), (rows, rows + 1))
            return maps.flip(rows + 1) if mirrored else maps

        cells = {stride: turn(labels, 2) for stride, labels in self.cells.items()}
        return turn(self.images, 1), turn(self.fine, 2), cells


def _seed_of(number: int, seed: int, rank: int, world_size: int) -> int:
    """Of one batch of one process, in the 64 bits that torch takes."""
    return (((seed * world_size + rank) << 32) + number) % 2**64


def fine_labels(scene: Scene) -> Tensor:
    """(2, H/4, W/4) in [0, 1]: the share of each cell that objects cover, and whether an object ends in it."""
    masks = torch.from_numpy(scene.masks).float().unsqueeze(1)
    edges = (F.max_pool2d(masks, 3, stride=1, padding=1) - masks).amax(dim=0)
    covered = F.avg_pool2d(masks.amax(dim=0), FINE_STRIDE)
    return torch.cat([covered, F.max_pool2d(edges, FINE_STRIDE)])


def _labels(scene: Scene, stride: int) -> Tensor:
    return cell_labels(torch.from_numpy(scene.masks).float(), looks_of(scene.objects), stride)


class Pupil(nn.Module):
    """What is taught, and linear heads that are thrown away afterwards.

    Args:
        taught: a spatial prior; or a model, of which all is taught that sees no text.
        position_weight: of telling where in the picture a token is; for a model.
    """

    def __init__(self, taught: SpatialPrior | ReferSamModel, position_weight: float = 0.0) -> None:
        super().__init__()
        self.position_weight = position_weight
        self.taught = taught
        prior = self.prior
        channels, width = (cast(nn.Conv2d, layer).out_channels for layer in (prior.stem[0], prior.projections[0]))
        if isinstance(taught, ReferSamModel):
            channels = taught.config.prompt_hidden_size
        self.fine = nn.Conv2d(channels, 2, kernel_size=1)
        self.looks = LooksHeads(width)
        self.positions = PositionHeads(width, 1) if position_weight else None

    @property
    def prior(self) -> SpatialPrior:
        """The spatial prior that is taught, alone or with the rest."""
        taught = self.taught
        return taught if isinstance(taught, SpatialPrior) else cast(Interactor, taught.interactor).spatial_prior

    def forward(self, pixel_values: Tensor, fine: Tensor, cells: dict[int, Tensor]) -> dict[str, Tensor]:
        """Loss terms `fine`, `LOOKS`, `position`, `total`; `shape right` and so on, shares of cells at stride 16."""
        terms: dict[str, Tensor] = {}
        if isinstance(self.taught, ReferSamModel):
            seen = self.taught.encode_image(pixel_values)
            stride4, pyramid = seen.detail, seen.pyramid
            if self.positions is not None:
                terms["position"] = self.positions([pyramid], seen.geometry.reference_points)
        else:
            stride4, pyramid = self.taught(pixel_values)
        terms["fine"] = F.binary_cross_entropy_with_logits(self.fine(stride4), fine)
        terms |= self.looks(pyramid, cells)
        terms["total"] = terms["fine"] + sum(terms[name] for name in LOOKS)
        if "position" in terms:
            terms["total"] = terms["total"] + self.position_weight * terms["position"]
        return terms


def pretrain(
    model: ReferSamModel,
    settings: PretrainingSettings,
    processor: ReferSamProcessor,
    accelerator: Accelerator,
    folder: Path,
    seed: int,
    progress: Progress | None = None,
    is_stopping: Callable[[], bool] = never,
    on_step: OnStep = _ignore,
) -> bool:
    """Train what `settings.part` says in place, with AdamW; with the same folder it goes on where a stopped call was.

    It seeds torch's draws anew for each step, so that stops do not change what they are.

    Args:
        model: with an interactor; weights are replaced at the end.
        settings: of this phase.
        processor: of the model.
        accelerator: devices and processes; each draws pictures of its own.
        folder: for checkpoints.
        seed: of pictures and their order.
        progress: called with the steps done and the mean loss terms.
        is_stopping: asked at each picture that is drawn and after each step whether this process is to stop; then all
            do, with a checkpoint of the steps that are done.
        on_step: called after every step with the steps done.

    Returns:
        Whether it came to its end; if not, the model is as it was.

    Raises:
        CheckpointError: checkpoints in the folder that cannot be read.
    """
    rank, world_size = accelerator.process_index, accelerator.num_processes
    state = checkpoint.load_newest(folder)
    prior = cast(Interactor, model.interactor).spatial_prior
    taught = prior if settings.part == "prior" else model
    torch.manual_seed(seed)
    module = _learner(taught, settings)
    optimizer = torch.optim.AdamW(module.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    first, stop = 0, False
    if state is not None:
        module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    if first < settings.steps:
        trained, optimizer = accelerator.prepare(module, optimizer)
        lessons: Lessons | ReadingLessons | None
        try:
            if settings.part == "language":
                lessons = ReadingLessons(settings, seed, model, processor, rank, world_size, is_stopping)
            else:
                lessons = Lessons(settings, seed, rank, world_size, is_stopping)
        except Stopped:
            lessons = None
        if any_process(is_stopping(), accelerator) or lessons is None:
            return False
        sums: dict[str, float] = {}
        counted = 0
        for step in range(first, settings.steps):
            torch.manual_seed(_seed_of(step, seed, rank, world_size))  # skipped layers, also after a stop
            for group in optimizer.param_groups:
                group["lr"] = settings.rate(step)
            batch: tuple[Any, ...] = lessons.batch(step, settings.batch_pictures)
            if isinstance(lessons, Lessons):
                batch = _normalised(batch, processor.image_processor)
            terms = trained(*send_to_device(batch, accelerator.device))
            accelerator.backward(terms["total"])
            accelerator.clip_grad_norm_(trained.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            counted += 1
            done = step + 1
            stop = any_process(is_stopping(), accelerator)
            is_last = stop or done == settings.steps
            if done % settings.log_every == 0 or is_last:
                if progress is not None:
                    progress(done, {name: value / counted for name, value in sums.items()})
                sums, counted = {}, 0
            on_step(done)
            if accelerator.is_main_process and (done % settings.checkpoint_every == 0 or is_last):
                saved = {"model": module.state_dict(), "optimizer": optimizer.state_dict()}
                checkpoint.save_checkpoint(folder, done, saved, keep=1)
            if stop:
                break
        accelerator.wait_for_everyone()
    if stop:
        return False
    taught.load_state_dict(module.taught.state_dict())
    return True


def _learner(taught: SpatialPrior | ReferSamModel, settings: PretrainingSettings) -> Pupil | Reader:
    """With a copy of what is taught."""
    learning = copy.deepcopy(taught)
    if settings.part == "language":
        return Reader(cast(ReferSamModel, learning), settings.image_size)
    pupil = Pupil(learning, settings.position_weight)
    pupil.prior.requires_grad_(True)  # its rate in the training itself may be 0
    return pupil


def _normalised(batch: tuple[Any, ...], image_processor: ReferSamImageProcessor) -> tuple[Any, ...]:
    images, *labels = batch
    return torch.stack([image_processor.normalise(image.numpy()) for image in images]), *labels
