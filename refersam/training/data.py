"""The training stream: scenes drawn by worker processes, turned into batches there."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from refersam.data.sample import ReferringImage
from refersam.data.sceneref import Scene, SceneRefSettings, generate_scene
from refersam.image import resize_to_array
from refersam.processor import ReferSamProcessor
from refersam.training.settings import StageSettings, TrainSettings


@dataclass
class Batch:
    """Tensors of one step: I pictures, n phrases each, B = I * n.

    Attributes:
        pixel_values: (I, 3, H, W).
        input_ids: (B, S).
        attention_mask: (B, S).
        target_mask: (B, H, W) in [0, 1], resized with antialiasing.
    """

    pixel_values: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    target_mask: Tensor


def scene_to_referring_image(scene: Scene, name: str) -> ReferringImage:
    """A scene as the evaluator takes it."""
    return ReferringImage(
        image=scene.image,
        phrases=tuple(phrase.text for phrase in scene.phrases),
        masks=np.stack([scene.target_mask(phrase) for phrase in scene.phrases]),
        sample_ids=tuple(f"{name}_{index}" for index in range(len(scene.phrases))),
        tags=tuple(phrase.tags for phrase in scene.phrases),
    )


class BatchStream(IterableDataset[Batch]):
    """Batches first, first + 1, ... of a run; each depends on the settings and its number alone.

    Args:
        settings: of the run.
        processor: of the model.
        first: number of the first batch; a resumed run goes on where it stopped.
        rank: of this process; processes draw different pictures.
        world_size: number of processes.
    """

    def __init__(
        self, settings: TrainSettings, processor: ReferSamProcessor, first: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.settings, self.processor = settings, processor
        self.first, self.rank, self.world_size = first, rank, world_size

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        offset, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number in range(self.first + offset, self.settings.steps, step):
            yield self.batch(number)

    def batch(self, number: int) -> Batch:
        """Draw batch `number` of this process."""
        pictures = self.settings.batch_pictures
        start = (number * self.world_size + self.rank) * pictures
        data, stage = self.settings.data, self._stage(number)
        scenes = [self._scene(stage, start + index) for index in range(pictures)]
        return collate_scenes(scenes, self.processor, data.phrases_per_picture, stage.image_size or data.image_size)

    def _stage(self, number: int) -> StageSettings:
        share, stages = number / self.settings.steps, self.settings.data.stages
        return next((stage for stage in stages if share < stage.until), stages[-1])

    def _scene(self, stage: StageSettings, index: int) -> Scene:
        data = self.settings.data
        side = data.picture_sizes[index % len(data.picture_sizes)]
        scene_settings = SceneRefSettings(
            width=side,
            height=side,
            min_objects=stage.min_objects,
            max_objects=stage.max_objects,
            phrases_per_scene=data.phrases_per_picture,
            phenomena=stage.phenomena,
            named=stage.named,
            difficulty=stage.difficulty,
        )
        return generate_scene(scene_settings, "train", self.settings.seed, index)


def collate_scenes(
    scenes: list[Scene], processor: ReferSamProcessor, phrases_per_picture: int, image_size: int
) -> Batch:
    """Scenes -> tensors of image_size pixels squared; a picture with fewer phrases than wanted repeats them."""
    image_processor = processor.image_processor
    phrases: list[str] = []
    targets: list[np.ndarray] = []
    for scene in scenes:
        for index in range(phrases_per_picture):
            phrase = scene.phrases[index % len(scene.phrases)]
            phrases.append(phrase.text)
            mask = scene.target_mask(phrase).astype(np.uint8) * 255
            targets.append(resize_to_array(mask, image_size, image_size))
    text = processor.encode_phrases(phrases)
    return Batch(
        pixel_values=torch.stack(
            [image_processor.normalise(resize_to_array(scene.image, image_size, image_size)) for scene in scenes]
        ),
        input_ids=text["input_ids"],
        attention_mask=text["attention_mask"],
        target_mask=torch.from_numpy(np.stack(targets)).float() / 255,
    )


def training_loader(stream: BatchStream) -> DataLoader:
    """Batches in order, drawn ahead by worker processes."""
    workers = stream.settings.data.workers
    return DataLoader(
        stream,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_start_worker if workers else None,
        # The loader draws a seed for its workers; from the global generator it would shift a resumed run's points.
        generator=torch.Generator().manual_seed(stream.settings.seed),
    )


def _start_worker(_worker: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main one ends its workers
