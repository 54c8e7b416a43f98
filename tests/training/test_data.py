"""Batches: what a number decides, whatever the workers and processes."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from refersam.data.sample import ReferringImage
from refersam.errors import DataError
from refersam.processor import ReferSamProcessor
from refersam.training.building import build_processor
from refersam.training.data import Batch, BatchStream, _is_review, training_batches
from refersam.training.settings import StageSettings, TrainSettings
from refersam.training.sources import open_source
from sceneref import SceneRefSettings, write_sceneref


def equal(one: Batch, other: Batch) -> bool:
    """All tensors and names of two batches."""
    return all(
        torch.equal(value, getattr(other, name)) if isinstance(value, torch.Tensor) else value == getattr(other, name)
        for name, value in vars(one).items()
    )


def processor_of(settings: TrainSettings) -> ReferSamProcessor:
    """With a tokenizer of the run's own words."""
    return build_processor(settings, open_source(settings))


def stream(
    settings: TrainSettings, processor: ReferSamProcessor, first: int = 0, rank: int = 0, world: int = 1
) -> BatchStream:
    """Of a whole run."""
    return BatchStream(settings, open_source(settings), processor, settings.steps, first, rank, world)


def test_workers_give_the_batches_of_one_process(miniature: Callable[..., TrainSettings]) -> None:
    """Two workers, in order, each batch once, also from the middle; shapes and ranges."""
    settings = miniature(steps=7, batch_pictures=2, data={"workers": 2})
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
    """The stream, its data set and its processor are pickled; each batch is the same."""
    write_sceneref(tmp_path, "train", 3, 0, SceneRefSettings(width=64, height=48, phrases_per_scene=2))
    data = {"workers": 1, "root": str(tmp_path), "dataset": "sceneref"}
    settings = miniature(steps=2, data=data)
    processor = processor_of(settings)
    got = list(training_batches(stream(settings, processor)))
    assert len(got) == 2
    assert all(itertools.starmap(equal, zip(got, stream(settings, processor), strict=True)))


def test_a_stream_of_scenes_can_be_pickled(miniature: Callable[..., TrainSettings]) -> None:
    """For workers that are not forked; the copy gives the same batch."""
    settings = miniature(steps=1)
    original = stream(settings, processor_of(settings))
    assert equal(pickle.loads(pickle.dumps(original)).batch(0), original.batch(0))


def test_processes_share_the_pictures_of_one(miniature: Callable[..., TrainSettings]) -> None:
    """Two processes with one picture each see what one process with two sees, in order, and draw the same points."""
    both, one = miniature(batch_pictures=2), miniature()
    processor = processor_of(both)
    for number in range(2):
        together = stream(both, processor).batch(number)
        apart = [stream(one, processor, rank=rank, world=2).batch(number) for rank in range(2)]
        assert torch.equal(torch.cat([batch.pixel_values for batch in apart]), together.pixel_values)
        assert torch.equal(torch.cat([batch.target_mask for batch in apart]), together.target_mask)
        assert apart[0].seeds + apart[1].seeds == together.seeds
        assert apart[0].sample_ids + apart[1].sample_ids == together.sample_ids


def test_the_loader_leaves_torchs_generator_alone(miniature: Callable[..., TrainSettings]) -> None:
    """Else a resumed run would draw other numbers than one that was not stopped."""
    settings = miniature(steps=1)
    batches = training_batches(stream(settings, processor_of(settings)))
    before = torch.get_rng_state()
    next(iter(batches))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("pictures", "accumulate", "world"), [(4, 1, 1), (2, 1, 2), (1, 4, 1), (2, 2, 1), (1, 2, 2)])
def test_stages_and_their_review(
    pictures: int, accumulate: int, world: int, miniature: Callable[..., TrainSettings]
) -> None:
    """A share of the pictures, the same ones however a step is dealt out; the first stage has nothing to review."""
    stages = [
        {"until": 0.4, "max_objects": 2, "review": 0.25},
        {"max_objects": 9, "min_objects": 9, "review": 0.25},
    ]
    data = {"stages": stages, "picture_sizes": [128]}
    settings = miniature(steps=4, batch_pictures=pictures, accumulate=accumulate, data=data)
    source, asked = open_source(settings), {}

    class Spy:
        length = None

        def load(self, number: int, stage: StageSettings) -> ReferringImage:
            asked[number] = stage.max_objects
            return source.load(number, stage)

    count = settings.steps * accumulate
    for rank in range(world):
        batches = BatchStream(settings, Spy(), processor_of(settings), count, rank=rank, world_size=world)
        for number in range(count):
            batches.batch(number)
    assert [asked[number] for number in range(8)] == [2] * 8
    later = [asked[number] for number in range(8, 16)]
    assert later == [2 if _is_review(number, 0.25, 0) else 9 for number in range(8, 16)]
    assert set(later) == {2, 9}


def test_reviews_are_a_share_of_every_size() -> None:
    """Sizes take turns with the pictures; reviews must not fall on one of them."""
    chosen = [number for number in range(4000) if _is_review(number, 0.25, 7)]
    by_size = Counter(number % 4 for number in chosen)
    assert all(200 < by_size[size] < 300 for size in range(4))
    assert not any(_is_review(number, 0.0, 7) for number in range(100))


def test_a_scene_that_has_no_room(miniature: Callable[..., TrainSettings]) -> None:
    """A sentence, not the traceback of a worker."""
    settings = miniature(data={"picture_sizes": [32], "stages": [{"min_objects": 10, "max_objects": 10}]})
    source = open_source(settings)
    with pytest.raises(DataError, match=r"Scene \d+ cannot be drawn. No room for 10 objects in 32 x 32 pixels"):
        [source.load(number, settings.data.stages[0]) for number in range(200)]
