"""Batches depend on their index only, not on workers and processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from refersam.data.sample import ReferringImage
from refersam.processor import ReferSamProcessor
from refersam.training.building import build_processor
from refersam.training.data import Batch, BatchStream, training_batches
from refersam.training.extension import load_extension
from refersam.training.settings import TrainSettings
from refersam.training.sources import Source
from sceneref import SceneRefSettings, write_sceneref


def equal(one: Batch, other: Batch) -> bool:
    """Assert that all tensors and names of two batches are equal."""
    return all(
        torch.equal(value, getattr(other, name)) if isinstance(value, torch.Tensor) else value == getattr(other, name)
        for name, value in vars(one).items()
    )


def open_source(settings: TrainSettings) -> Source:
    """Return the source of the run's extension."""
    return load_extension(settings.extension).open_source(settings)


def processor_of(settings: TrainSettings) -> ReferSamProcessor:
    """Return a processor whose tokenizer is trained on the run's phrases."""
    return build_processor(settings, open_source(settings))


def stream(
    settings: TrainSettings, processor: ReferSamProcessor, first: int = 0, rank: int = 0, world: int = 1
) -> BatchStream:
    """Return the stream of a whole run."""
    return BatchStream(settings, open_source(settings), processor, settings.steps, first, rank, world)


def test_workers_give_the_batches_of_one_process(miniature: Callable[..., TrainSettings]) -> None:
    """Two workers yield each batch once, in order, also from the middle; shapes and ranges."""
    settings = miniature(steps=7, batch_size=2, data={"workers": 2})
    processor = processor_of(settings)
    expected = list(stream(settings, processor))
    assert len(expected) == 7
    for first in (0, 3):
        got = list(training_batches(stream(settings, processor, first)))
        assert len(got) == 7 - first
        assert all(itertools.starmap(equal, zip(got, expected[first:], strict=True)))
    batch = expected[0]
    assert isinstance(batch, Batch)
    assert not equal(batch, stream(settings, processor).batch(1))
    assert batch.pixel_values.shape == (2, 3, 64, 64)
    assert batch.target_mask.shape == (4, 64, 64)
    assert batch.input_ids.shape == batch.attention_mask.shape
    assert len(batch.input_ids) == len(batch.sample_ids) == len(set(batch.seeds)) == 4
    assert 0 <= batch.target_mask.min() <= batch.target_mask.max() <= 1


@pytest.mark.usefixtures("spawned")
def test_spawned_workers_give_the_batches_of_one_process(
    miniature: Callable[..., TrainSettings], tmp_path: Path
) -> None:
    """The stream, its data set and its processor are pickled; the batches are equal."""
    write_sceneref(tmp_path, "train", 3, 0, SceneRefSettings(width=64, height=48, phrases_per_scene=2))
    settings = miniature(steps=2, data={"workers": 1, "root": str(tmp_path)})
    processor = processor_of(settings)
    got = list(training_batches(stream(settings, processor)))
    assert len(got) == 2
    assert all(itertools.starmap(equal, zip(got, stream(settings, processor), strict=True)))


def test_processes_share_the_images_of_one(miniature: Callable[..., TrainSettings]) -> None:
    """Two processes with one image each load the same images and points as one process with two."""
    both, one = miniature(batch_size=2), miniature()
    processor = processor_of(both)
    for number in range(2):
        together = stream(both, processor).batch(number)
        apart = [stream(one, processor, rank=rank, world=2).batch(number) for rank in range(2)]
        assert torch.equal(torch.cat([batch.pixel_values for batch in apart]), together.pixel_values)
        assert torch.equal(torch.cat([batch.target_mask for batch in apart]), together.target_mask)
        assert apart[0].seeds + apart[1].seeds == together.seeds
        assert apart[0].sample_ids + apart[1].sample_ids == together.sample_ids


def test_the_loader_leaves_torchs_generator_alone(miniature: Callable[..., TrainSettings]) -> None:
    """Otherwise a resumed run would use other random numbers than an uninterrupted one."""
    settings = miniature(steps=1)
    batches = training_batches(stream(settings, processor_of(settings)))
    before = torch.get_rng_state()
    next(iter(batches))
    assert torch.equal(torch.get_rng_state(), before)


class Recorder(Source):
    """Source that records the arguments of its calls."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.progress: dict[int, float] = {}

    def load(self, index: int, progress: float) -> ReferringImage:
        """See `Source`."""
        self.progress[index] = progress
        return self.source.load(index, progress)

    def phrases(self) -> Iterable[str]:
        """See `Source`."""
        return self.source.phrases()

    def image_size(self, progress: float) -> int | None:
        """See `Source`."""
        return 32 if progress < 0.5 else None

    def collate_extra(
        self, images: Sequence[ReferringImage], chosen: Sequence[Sequence[int]], image_size: int
    ) -> dict[str, Any]:
        """See `Source`."""
        return {"phrases": [image.phrases[index] for image, each in zip(images, chosen, strict=True) for index in each]}


@pytest.mark.parametrize(("size", "each", "world"), [(4, 1, 1), (2, 1, 2), (1, 4, 1), (2, 2, 1), (1, 2, 2)])
def test_progress_of_a_source(size: int, each: int, world: int, miniature: Callable[..., TrainSettings]) -> None:
    """The share of completed steps is the same for all images of a step, for any distribution over processes."""
    settings = miniature(steps=4, batch_size=size, gradient_accumulation_steps=each)
    source, count = Recorder(open_source(settings)), settings.steps * each
    processor = processor_of(settings)
    for rank in range(world):
        batches = BatchStream(settings, source, processor, count, rank=rank, world_size=world)
        for number in range(count):
            batches.batch(number)
    assert source.progress == {index: index // 4 / 4 for index in range(16)}


def test_what_a_source_decides(miniature: Callable[..., TrainSettings]) -> None:
    """Input size and `Batch.extra`, in the order of the phrases."""
    settings = miniature(steps=2, batch_size=2)
    source = Recorder(open_source(settings))
    stream = BatchStream(settings, source, processor_of(settings), settings.steps)
    small, usual = stream.batch(0), stream.batch(1)
    assert (small.pixel_values.shape, small.target_mask.shape) == ((2, 3, 32, 32), (4, 32, 32))
    assert usual.pixel_values.shape == (2, 3, 64, 64)
    images = [source.source.load(index, 0.0) for index in (0, 1)]
    assert small.extra == {"phrases": [phrase for image in images for phrase in image.phrases]}


def test_nested_tensors_of_extra_move_with_the_batch(miniature: Callable[..., TrainSettings]) -> None:
    """Tensors are moved to the device of the model; other values stay."""
    settings = miniature(steps=1)
    batch = stream(settings, processor_of(settings)).batch(0)
    batch.extra = {"labels": {8: torch.zeros(2)}, "names": ["a"]}
    moved = batch.to(torch.device("meta"))
    assert (moved.pixel_values.device.type, moved.extra["labels"][8].device.type) == ("meta", "meta")
    assert moved.extra["names"] == ["a"]
    assert moved.sample_ids == batch.sample_ids
