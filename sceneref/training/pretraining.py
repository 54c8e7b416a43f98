"""Pretraining phases of the image encoder on labels of rendered scenes, before training on phrases.

A model without pretrained weights would have to learn image features and word meanings at the same time. Here the image
features are trained first, on dense labels: colour, shape and pattern of the object in each cell of strides 8 and 16,
and objects and their edges at stride 4. A phase trains the spatial prior alone, or all parts before text conditioning:
the spatial prior, SAM's first layers, their injection and extraction. The text-dependent parts are trained by
`text_pretraining`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.nn import functional as F

from refersam.model.interactor import Interactor
from refersam.model.refersam import ReferSamModel
from refersam.model.spatial_prior import SpatialPrior
from refersam.processor import ReferSamImageProcessor
from refersam.training.engine import Engine
from refersam.training.guard import StepGuard
from refersam.training.phases import Phase
from refersam.training.signals import never, until_stopped
from refersam.training.trainee import LossTerms
from sceneref import Scene, generate_scene
from sceneref.training.attributes import ATTRIBUTE_CLASSES, MIN_COVERAGE, AttributeHeads, attribute_labels, cell_labels
from sceneref.training.positions import PositionHeads
from sceneref.training.settings import PretrainingSettings

FINE_STRIDE = 4


@dataclass
class LabelBatch:
    """B images with the labels of their cells.

    Attributes:
        pixel_values: (B, 3, H, W).
        fine: (B, 2, H/4, W/4), see `fine_labels`.
        cells: by stride, (B, 3, H/stride, W/stride), see `cell_labels`.
        sample_ids: names of the B images.
    """

    pixel_values: Tensor
    fine: Tensor
    cells: dict[int, Tensor]
    sample_ids: tuple[str, ...]

    def to(self, device: torch.device) -> LabelBatch:
        """Return the batch on a device."""
        pixel_values, fine, cells = send_to_device((self.pixel_values, self.fine, self.cells), device)
        return LabelBatch(pixel_values, fine, cells, self.sample_ids)


def render_scenes(
    settings: PretrainingSettings, seed: int, rank: int, world_size: int, is_stopping: Callable[[], bool]
) -> Iterator[tuple[int, Scene]]:
    """Yield this process's share of the scenes with their indices; arguments and errors as in `LabelledScenes`."""
    scenes = settings.scenes()
    for index in until_stopped(range(rank, settings.images, world_size), is_stopping):
        yield index, generate_scene(scenes, "train", seed, index)


class LabelledScenes:
    """Rendered images and their labels, in memory.

    Args:
        settings: number and content of the scenes.
        seed: seed of the scenes.
        rank: rank of this process; each process renders different scenes.
        world_size: number of processes.
        is_stopping: called before each image; True abandons the rendering.

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
        rendered = [scene for _, scene in render_scenes(settings, seed, rank, world_size, is_stopping)]
        self.process = (seed, rank, world_size)
        self.images = torch.from_numpy(np.stack([scene.image for scene in rendered]))
        self.fine = torch.stack([fine_labels(scene) for scene in rendered])
        self.cells = {stride: torch.stack([_labels(scene, stride) for scene in rendered]) for stride in MIN_COVERAGE}

    def batch(self, number: int, size: int, image_processor: ReferSamImageProcessor) -> LabelBatch:
        """Return a batch of images, all rotated by the same random multiple of 90 degrees and mirrored or not.

        Args:
            number: index of the batch, from which all random numbers are derived.
            size: number of images.
            image_processor: processor that normalises the images.
        """
        generator = torch.Generator().manual_seed(seed_of_step(number, *self.process))
        chosen = torch.randint(len(self.images), (size,), generator=generator)
        quarters, mirrored = torch.randint(4, (), generator=generator), torch.randint(2, (), generator=generator)

        def turn(maps: Tensor, rows: int) -> Tensor:
            maps = torch.rot90(maps[chosen], int(quarters), (rows, rows + 1))
            return maps.flip(rows + 1) if mirrored else maps

        return LabelBatch(
            pixel_values=torch.stack([image_processor.normalise(image.numpy()) for image in turn(self.images, 1)]),
            fine=turn(self.fine, 2),
            cells={stride: turn(labels, 2) for stride, labels in self.cells.items()},
            sample_ids=tuple(f"pretraining scene {index}" for index in chosen.tolist()),
        )


def seed_of_step(step: int, seed: int, rank: int, world_size: int) -> int:
    """Return the 64-bit random seed of one step of one process."""
    return (((seed * world_size + rank) << 32) + step) % 2**64


def fine_labels(scene: Scene) -> Tensor:
    """Return (2, H/4, W/4) in [0, 1]: the share of each cell that objects cover, and whether it contains an edge."""
    masks = torch.from_numpy(scene.masks).float().unsqueeze(1)
    edges = (F.max_pool2d(masks, 3, stride=1, padding=1) - masks).amax(dim=0)
    covered = F.avg_pool2d(masks.amax(dim=0), FINE_STRIDE)
    return torch.cat([covered, F.max_pool2d(edges, FINE_STRIDE)])


def _labels(scene: Scene, stride: int) -> Tensor:
    return cell_labels(torch.from_numpy(scene.masks).float(), attribute_labels(scene.objects), stride)


class LabelTrainee(nn.Module):
    """A part of the model with linear heads, which are discarded after the phase.

    Args:
        trained: a spatial prior, or a model, whose parts before text conditioning are trained.
        position_weight: weight of regressing token positions, for a model.
    """

    def __init__(self, trained: SpatialPrior | ReferSamModel, position_weight: float = 0.0) -> None:
        super().__init__()
        self.position_weight = position_weight
        self.trained = trained
        prior = self.prior
        channels, width = (cast(nn.Conv2d, layer).out_channels for layer in (prior.stem[0], prior.projections[0]))
        if isinstance(trained, ReferSamModel):
            channels = trained.config.prompt_hidden_size
        self.fine = nn.Conv2d(channels, 2, kernel_size=1)
        self.attributes = AttributeHeads(width)
        self.positions = PositionHeads(width, 1) if position_weight else None

    @property
    def prior(self) -> SpatialPrior:
        """The spatial prior, alone or as part of the model."""
        trained = self.trained
        return trained if isinstance(trained, SpatialPrior) else cast(Interactor, trained.interactor).spatial_prior

    def forward(self, batch: LabelBatch) -> LossTerms:
        """Compute the terms `fine`, those of `AttributeHeads.forward`, `position` and `total`."""
        terms: dict[str, Tensor] = {}
        if isinstance(self.trained, ReferSamModel):
            features = self.trained.encode_image(batch.pixel_values)
            stride4, pyramid = features.detail, features.pyramid
            if self.positions is not None:
                terms["position"] = self.positions([pyramid], features.geometry.reference_points)
        else:
            stride4, pyramid = self.trained(batch.pixel_values)
        terms["fine"] = F.binary_cross_entropy_with_logits(self.fine(stride4), batch.fine)
        terms |= self.attributes(pyramid, batch.cells)
        terms["total"] = terms["fine"] + sum(terms[name] for name in ATTRIBUTE_CLASSES)
        if "position" in terms:
            terms["total"] = terms["total"] + self.position_weight * terms["position"]
        return LossTerms(terms)


class ScenePhase(Phase):
    """A pretraining phase on rendered scenes; each process renders different scenes.

    Args:
        settings: settings of the phase.
        model: model with an interactor; its weights are replaced at the end.
        accelerator: devices and processes.
        seed: seed of the scenes and their order.
        max_skipped: see `StepGuard`.
    """

    def __init__(
        self, settings: PretrainingSettings, model: ReferSamModel, accelerator: Accelerator, seed: int, max_skipped: int
    ) -> None:
        super().__init__(settings.steps, settings.log_every, settings.checkpoint_every)
        self.settings, self.model, self.accelerator = settings, model, accelerator
        self.seed, self.max_skipped = seed, max_skipped

    @property
    def process(self) -> tuple[int, int, int]:
        """Seed, rank and number of processes."""
        return self.seed, self.accelerator.process_index, self.accelerator.num_processes

    def build_trainee(self) -> nn.Module:
        """Return the module to train, on a copy of the weights."""
        raise NotImplementedError

    def build_engine(self) -> Engine:
        """Return an engine with AdamW; see `Phase`."""
        torch.manual_seed(self.seed)
        trainee = self.build_trainee()
        optimizer = torch.optim.AdamW(
            trainee.parameters(), lr=self.settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        guard = StepGuard(self.max_skipped)
        return Engine(trainee, [optimizer], self.accelerator, guard=guard, clipped=trainee, max_grad_norm=1.0)

    def lr_factor(self, step: int) -> float:
        """Return linear warm-up, constant, linear decay; see `Phase`."""
        return self.settings.lr_factor(step)

    def seed_step(self, step: int) -> None:
        """Seed torch's generator for stochastic layers, so that an interrupted and resumed run has equal results."""
        torch.manual_seed(seed_of_step(step, *self.process))


class LabelPhase(ScenePhase):
    """Pretraining of the spatial prior, or of all parts before text conditioning, from labels of cells.

    Args:
        settings: settings of the phase.
        model: model with an interactor; its weights are replaced at the end.
        image_processor: image processor of the model.
        accelerator: devices and processes.
        seed: seed of the scenes and their order.
        max_skipped: see `StepGuard`.
    """

    def __init__(
        self,
        settings: PretrainingSettings,
        model: ReferSamModel,
        image_processor: ReferSamImageProcessor,
        accelerator: Accelerator,
        seed: int,
        max_skipped: int,
    ) -> None:
        super().__init__(settings, model, accelerator, seed, max_skipped)
        self.image_processor = image_processor
        self.scenes: LabelledScenes

    @property
    def trained(self) -> SpatialPrior | ReferSamModel:
        """The part of the model that is trained."""
        return cast(Interactor, self.model.interactor).spatial_prior if self.settings.part == "prior" else self.model

    def build_trainee(self) -> LabelTrainee:
        """See `ScenePhase`."""
        trainee = LabelTrainee(copy.deepcopy(self.trained), self.settings.position_weight)
        trainee.prior.requires_grad_(True)  # the training that follows may freeze it
        return trainee

    def prepare(self, is_stopping: Callable[[], bool]) -> None:
        """Render the scenes; see `Phase`."""
        self.scenes = LabelledScenes(self.settings, *self.process, is_stopping)

    def batch(self, step: int) -> LabelBatch:
        """See `Phase`."""
        batch = self.scenes.batch(step, self.settings.batch_size, self.image_processor)
        self.seed_step(step)
        return batch

    def finish(self, engine: Engine) -> None:
        """See `Phase`."""
        self.trained.load_state_dict(cast(LabelTrainee, engine.plain_trainee).trained.state_dict())
