"""Epochs over a data set: every phrase, in a new order, with the given share of no-target phrases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from refersam.data import ReferringSample, open_dataset
from refersam.data.sample import ImageRecord
from refersam.training.settings import SettingsError, TrainSettings
from refersam.training.sources import DatasetSource
from refersam.training.trainer import Trainer, total_steps
from sceneref import SceneRefSettings, write_sceneref

Miniature = Callable[..., TrainSettings]


def samples(*images: tuple[int, int]) -> list[ReferringSample]:
    """Create samples with the given numbers of phrases with and without target for each image."""
    made = []
    for number, (with_target, without) in enumerate(images):
        image = ImageRecord(f"image {number}", Path("nowhere"), 8, 8)
        for index in range(with_target + without):
            regions = ([[0, 0, 4, 0, 4, 4]],) if index < with_target else ()
            made.append(ReferringSample(f"{number}.{index}", "a thing", image, regions))
    return made


def flat(order: list[tuple[int, ...]]) -> list[int]:
    """Return all indices of an epoch."""
    return [position for part in order for position in part]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SceneRef on disk: six images to train on, two to validate on."""
    root = tmp_path_factory.mktemp("scenes")
    for split, count in (("train", 6), ("val", 2)):
        write_sceneref(root, split, count, 0, SceneRefSettings(width=64, height=64, phrases_per_scene=3))
    return root


def test_a_pass_has_every_phrase_once(miniature: Miniature) -> None:
    """In even parts of one image each; epochs differ in order; equal seeds give equal orders."""
    data = {"root": "somewhere", "phrases_per_image": 4}
    listed = samples((9, 0), (1, 0), (4, 0), (5, 0))
    source = DatasetSource(listed, miniature(data=data))
    first = source.order(0)
    assert source.length == len(first) == 3 + 1 + 1 + 2
    assert sorted(flat(first)) == list(range(19))
    assert all(len({listed[position].image.image_id for position in part}) == 1 for part in first)
    assert sorted(map(len, first)) == [1, 2, 3, 3, 3, 3, 4]
    assert source.order(1) != first
    assert DatasetSource(listed, miniature(data=data)).order(0) == first
    assert DatasetSource(listed, miniature(data=data, seed=1)).order(0) != first


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.8])
@pytest.mark.parametrize("images", [[(6, 2)] * 10, [(4, 0)] * 5 + [(0, 30)] * 5])
def test_phrases_without_target_have_their_share(
    share: float, images: list[tuple[int, int]], miniature: Miniature
) -> None:
    """Exact per epoch; no sample repeats before all have occurred; all others occur once."""
    listed = samples(*images)
    source = DatasetSource(listed, miniature(data={"root": "somewhere", "no_target_share": share}))
    for number in (0, 1):
        counts = Counter(flat(source.order(number)))
        without = [counts[i] for i, sample in enumerate(listed) if not sample.has_target]
        assert {counts[i] for i, sample in enumerate(listed) if sample.has_target} == {1}
        assert sum(without) / sum(counts.values()) == pytest.approx(share, abs=0.01)
        assert max(without) - min(without) <= 1


def test_a_share_that_cannot_be_given(miniature: Miniature) -> None:
    """A sentence that names the setting."""
    for listed in (samples((3, 0)), samples((0, 3))):
        with pytest.raises(
            SettingsError, match=r"data\.no_target_share is 0\.3, but no phrase of sceneref, train, has"
        ):
            DatasetSource(listed, miniature(data={"root": "somewhere", "no_target_share": 0.3}))


def test_images_by_index(scenes: Path, miniature: Miniature) -> None:
    """Epochs follow one another; augmentation depends on the index only."""
    data = {"root": str(scenes), "phrases_per_image": 3, "augment": {"crop": 1.0, "smallest_crop": 0.5}}
    settings = miniature(data=data)
    listed = open_dataset(scenes, "sceneref", "train")
    source, other = DatasetSource(listed, settings), DatasetSource(listed, settings)
    assert source.length == 6
    for number in (0, 7, 3):
        one, same = source.load(number, 0.0), other.load(number, 0.9)
        np.testing.assert_array_equal(one.image, same.image)
        assert one.phrases == same.phrases
    names = [source.load(number, 0.0).sample_ids for number in range(12)]
    assert sorted(names[:6]) == sorted(names[6:]) or sorted(sum(names[:6], ())) == sorted(sum(names[6:], ()))


def test_training_on_a_data_set(scenes: Path, tmp_path: Path, miniature: Miniature) -> None:
    """With epochs, validated by the evaluator; a stopped run resumes bit for bit, with a worker."""
    augment = {"flip": 0.5, "crop": 0.5, "colour": 0.2}
    data = {"root": str(scenes), "phrases_per_image": 3, "no_target_share": 0.2, "augment": augment}
    settings = miniature(data=data, epochs=1, batch_size=2)
    whole = Trainer(settings, tmp_path / "whole")
    assert whole.steps == round((whole.source.length or 0) / 2) > 1
    metrics = whole.run()
    assert {"oIoU", "N-acc", "pixels in union"} <= set(metrics)
    stopped = Trainer(settings, tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        stopped.run(_interrupt_after(2))
    Trainer(miniature(data={**data, "workers": 1}, epochs=1, batch_size=2), tmp_path / "stopped", resume=True).run()
    final = "model/model.safetensors"
    assert (tmp_path / "whole" / final).read_bytes() == (tmp_path / "stopped" / final).read_bytes()


def _interrupt_after(last: int) -> Callable[[int, dict[str, float]], None]:
    def interrupt(step: int, _values: dict[str, float]) -> None:
        if step == last:
            raise KeyboardInterrupt

    return interrupt


def test_a_broken_image_is_named(scenes: Path, tmp_path: Path, miniature: Miniature) -> None:
    """Also if a worker process reads it."""
    import shutil

    from refersam.errors import ReferSamError

    root = tmp_path / "data"
    shutil.copytree(scenes, root)
    for path in (root / "images").rglob("*train*"):
        path.write_bytes(path.read_bytes()[:100])
    for workers in (0, 1):
        run = Trainer(miniature(data={"root": str(root), "workers": workers}), tmp_path / f"run{workers}")
        with pytest.raises(ReferSamError, match=r"is broken or cut off|cannot be read"):
            run.run()


def test_steps_of_passes(miniature: Miniature) -> None:
    """Epochs times images, divided by the images of a step over all processes."""
    settings = miniature(data={"root": "somewhere"}, epochs=3, batch_size=2, gradient_accumulation_steps=2)
    source = DatasetSource(samples(*[(2, 0)] * 40), settings)
    assert total_steps(settings, source, 1) == 30
    assert total_steps(settings, source, 2) == 15
