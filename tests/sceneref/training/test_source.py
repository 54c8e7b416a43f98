"""Rendered training images: curriculum with review, sizes, text augmentation; pickled copies are equivalent."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from refersam.data.sample import ReferringImage
from refersam.errors import DataError
from sceneref import generate_scene
from sceneref.training.labels import SceneLabels
from sceneref.training.settings import SceneRefTrainSettings
from sceneref.training.source import SceneSource

Miniature = Callable[..., SceneRefTrainSettings]
TWO_STAGES = [
    {"until": 0.5, "max_objects": 2, "review": 0.25},
    {"min_objects": 9, "max_objects": 9, "review": 0.25, "image_size": 96},
]


def equal(one: ReferringImage, other: ReferringImage) -> bool:
    """Compare pixels, masks and phrases."""
    return (
        np.array_equal(one.image, other.image)
        and np.array_equal(one.masks, other.masks)
        and (one.phrases, one.sample_ids, one.tags) == (other.phrases, other.sample_ids, other.tags)
    )


def test_stages_follow_the_progress(miniature: Miniature) -> None:
    """A stage starts at the end of the previous one; the last one continues; each has the stage it reviews."""
    source = SceneSource(miniature(sceneref={"stages": [{"until": 0.25}, {"until": 0.5}, {"until": 0.75}]}))
    stages = source.settings.sceneref.stages
    for progress, expected in ((0.0, 0), (0.2499, 0), (0.25, 1), (0.5, 2), (0.75, 2), (0.999, 2)):
        current, previous = source.stages_at(progress)
        assert current is stages[expected], progress
        assert previous is stages[max(0, expected - 1)], progress
    sized = SceneSource(miniature(sceneref={"stages": TWO_STAGES}))
    assert [sized.image_size(progress) for progress in (0.0, 0.5)] == [None, 96]


def test_a_share_of_images_reviews_the_previous_stage(miniature: Miniature) -> None:
    """The first stage reviews itself; the choice of images depends on seed and index."""
    section = {"stages": TWO_STAGES, "scene_sizes": [128], "objectives": {"attributes": 1.0}}
    source = SceneSource(miniature(sceneref=section))

    def objects(index: int, progress: float) -> int:
        labels = source.load(index, progress).extra
        assert isinstance(labels, SceneLabels)
        return len(labels.masks)

    assert {objects(index, 0.4) for index in range(12)} == {2}
    later = [objects(index, 0.6) for index in range(12)]
    assert later == [2 if source._is_review(index, 0.25) else 9 for index in range(12)]
    assert set(later) == {2, 9}
    other = SceneSource(miniature(sceneref=section, seed=1))
    assert [source._is_review(i, 0.25) for i in range(50)] != [other._is_review(i, 0.25) for i in range(50)]


def test_reviews_are_a_share_of_every_size(miniature: Miniature) -> None:
    """Sizes alternate; reviews are distributed over all sizes."""
    source = SceneSource(miniature(seed=7))
    chosen = [index for index in range(4000) if source._is_review(index, 0.25)]
    by_size = Counter(index % 4 for index in chosen)
    assert all(200 < by_size[size] < 300 for size in range(4))
    assert not any(source._is_review(index, 0.0) for index in range(100))


def test_an_image_is_a_scene_of_the_training_split(miniature: Miniature) -> None:
    """With the run's seed and alternating sizes; labels only if an objective reads them."""
    source = SceneSource(miniature(seed=3))
    for index, side in ((0, 64), (1, 80), (2, 64)):
        scene = generate_scene(source.settings.sceneref.stages[0].scenes(side, 2), "train", 3, index)
        image = source.load(index, 0.0)
        assert equal(image, scene.to_referring_image(f"scene_{index}"))
        assert image.extra is None
    assert SceneSource(miniature(sceneref={"objectives": {"positions": 1.0}})).load(0, 0.0).extra is None
    assert SceneSource(miniature(sceneref={"objectives": {"grounding": 1.0}})).load(0, 0.0).extra is not None


def test_rewording_changes_phrases_and_nothing_else(miniature: Miniature) -> None:
    """Pixels, masks and crops are the same with and without rewording."""
    augment = {"crop": 1.0, "smallest_crop": 0.5}
    sources = [
        SceneSource(miniature(data={"augment": augment}, sceneref={"rewording": rewording}))
        for rewording in ({}, {"sentences": 1.0})
    ]
    for index in range(4):
        plain, reworded = (source.load(index, 0.0) for source in sources)
        assert np.array_equal(plain.image, reworded.image)
        assert np.array_equal(plain.masks, reworded.masks)
        assert all(one != other for one, other in zip(plain.phrases, reworded.phrases, strict=True))


def test_a_pickled_copy_loads_the_same(miniature: Miniature) -> None:
    """Worker processes receive a pickled copy."""
    source = SceneSource(miniature(data={"augment": {"flip": 0.5}}, sceneref={"rewording": {"synonyms": 0.5}}))
    copy = pickle.loads(pickle.dumps(source))
    assert all(equal(source.load(index, 0.5), copy.load(index, 0.5)) for index in (0, 1, 5))


def test_phrases_for_the_tokenizer(miniature: Miniature, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the declared number of scenes, with the run's seed."""
    monkeypatch.setattr(SceneSource, "tokenizer_images", 3)
    phrases = list(SceneSource(miniature()).phrases())
    assert 3 < len(phrases) <= 36
    assert list(SceneSource(miniature()).phrases()) == phrases != list(SceneSource(miniature(seed=1)).phrases())


def test_a_scene_without_room(miniature: Miniature) -> None:
    """One sentence, not the traceback of a worker."""
    section = {"scene_sizes": [32], "stages": [{"min_objects": 10, "max_objects": 10}]}
    source = SceneSource(miniature(sceneref=section))
    with pytest.raises(DataError, match=r"Scene \d+ cannot be rendered. No room for 10 objects in 32 x 32 pixels"):
        [source.load(index, 0.0) for index in range(200)]
