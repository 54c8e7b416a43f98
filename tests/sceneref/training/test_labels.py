"""Labels of rendered scenes: mentions, attributes and conditions, for hand-made scenes and batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from refersam.training.augmentation import flip
from refersam.training.building import build_processor
from refersam.training.data import BatchStream
from sceneref import Region, Scene, SceneObject, ScenePhrase, SceneRefSettings, generate_scene
from sceneref.training.attributes import attribute_labels
from sceneref.training.labels import (
    ATTRIBUTES,
    CONDITIONS,
    MENTIONS,
    SceneLabels,
    collate_labels,
    condition_map,
    mention_mask,
)
from sceneref.training.settings import SceneRefTrainSettings
from sceneref.training.source import SceneSource

Miniature = Callable[..., SceneRefTrainSettings]


def test_mention_mask_by_hand() -> None:
    """The objects of the first description, then the union of the others."""
    cells = torch.tensor([0.5, 0.25, 0.125, 0.0625]).view(4, 1, 1).expand(4, 2, 3)
    assert mention_mask(cells, [(0, 2)]).unique().tolist() == [0, 0.625]
    assert mention_mask(cells, [(), (1, 2), (2, 3)])[:, 0, 0].tolist() == [0, 0.4375]


@pytest.mark.parametrize("name", ["grounding", "pointing", "attributes", "conditions"])
def test_labels_of_a_batch(name: str, miniature: Miniature) -> None:
    """They are collated for objectives on objects only; the other tensors are the same."""
    settings, without = miniature(sceneref={"objectives": {name: 1.0}}), miniature()
    positions = miniature(sceneref={"objectives": {"positions": 1.0}})
    processor = build_processor(without, SceneSource(without))
    batch, plain, other = (
        BatchStream(each, SceneSource(each), processor, 5).batch(1) for each in (settings, without, positions)
    )
    assert plain.extra == other.extra == {}
    assert torch.equal(plain.target_mask, batch.target_mask)
    assert torch.equal(plain.pixel_values, batch.pixel_values)
    scene = generate_scene(settings.sceneref.stages[0].scenes(80, 2), "train", 0, 1)
    assert batch.extra[MENTIONS].shape == (2, 2, 8, 8)
    for found, phrase in zip(batch.extra[MENTIONS], scene.phrases, strict=True):
        share = scene.masks[list(phrase.mentions[0])].mean(axis=(1, 2)).sum()
        assert float(found[0].mean()) == pytest.approx(share, abs=0.01)
    assert {stride: labels.shape for stride, labels in batch.extra[ATTRIBUTES].items()} == {
        8: (1, 3, 8, 8),
        16: (1, 3, 4, 4),
    }
    assert {stride: labels.shape for stride, labels in batch.extra[CONDITIONS].items()} == {8: (2, 8, 8), 16: (2, 4, 4)}
    for index, phrase in enumerate(scene.phrases):
        wanted = condition_map(scene, phrase)
        for stride, labels in batch.extra[CONDITIONS].items():  # 80 pixels of the image are 64 of the input
            centres = [int((cell + 0.5) * stride * 80 / 64) for cell in range(64 // stride)]
            assert labels[index].tolist() == wanted[np.ix_(centres, centres)].tolist()
    known = set(map(tuple, attribute_labels(scene.objects).tolist()))
    assert known >= set(map(tuple, batch.extra[ATTRIBUTES][16][0].flatten(1).T.tolist())) - {(-1, -1, -1)} != set()


def scene_of(region: Region | None, negation_matches: tuple[int, ...] | None) -> tuple[Scene, ScenePhrase]:
    """Return a scene of 8 x 6 pixels with two objects, around x = 2 and x = 5, and a phrase."""
    masks = np.zeros((2, 6, 8), dtype=bool)
    masks[0, 1:3, 1:4] = masks[1, 3:5, 4:7] = True
    palette = (0, 0, 0)
    objects = [SceneObject("star", "red", "large", "plain", 2, (x, y), 0, 3, palette) for x, y in ((2.5, 2), (5.5, 4))]
    phrase = ScenePhrase("x", (0,), ("relative",), ((0, 1),), region, negation_matches)
    return Scene(np.zeros((6, 8, 3), np.uint8), tuple(objects), masks, (phrase,)), phrase


def test_an_object_is_in_a_region_as_a_whole() -> None:
    """Objects are labelled by their centre, undefined within the margin; other pixels by their own position."""
    condition = condition_map(*scene_of(Region("x", high=4.5, margin=0.75), None))
    assert condition[0].tolist() == [1, 1, 1, 1, -1, 0, 0, 0]
    assert condition[1].tolist() == [1, 1, 1, 1, -1, 0, 0, 0]
    assert condition[4].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert condition_map(*scene_of(Region("x", low=5, margin=1), None))[3].tolist() == [0, 0, 0, 0, -1, -1, -1, 1]
    assert condition.dtype == np.int8


def test_negations_label_objects_only() -> None:
    """Without region and negation, there are no labels."""
    condition = condition_map(*scene_of(None, (1,)))
    assert [np.unique(condition[mask]).tolist() for mask in scene_of(None, (1,))[0].masks] == [[0], [1]]
    assert (condition == -1).sum() == 8 * 6 - 12
    assert np.unique(condition_map(*scene_of(None, None))).tolist() == [-1]


def test_labels_are_cut_and_mirrored_with_the_image() -> None:
    """Masks and conditions change; mentions and attributes do not."""
    scene = generate_scene(SceneRefSettings(width=64, height=48, phrases_per_scene=3), "train", 0, 2)
    labels = SceneLabels.of_scene(scene)
    before = replace(scene.to_referring_image("x"), extra=labels)
    after = flip(replace(before, phrases=("a thing",) * len(before.phrases))).extra
    assert isinstance(after, SceneLabels)
    np.testing.assert_array_equal(after.masks, scene.masks[:, :, ::-1])
    np.testing.assert_array_equal(after.conditions, labels.conditions[:, :, ::-1])
    part = labels.cut(slice(3, 20), slice(5, 9))
    np.testing.assert_array_equal(part.masks, scene.masks[:, 3:20, 5:9])
    np.testing.assert_array_equal(part.conditions, labels.conditions[:, 3:20, 5:9])
    assert (part.attributes, part.mentions) == (labels.attributes, labels.mentions)


def test_images_without_labels_are_refused() -> None:
    """A programming error: the source did not add the labels."""
    image = generate_scene(SceneRefSettings(width=64, height=48, phrases_per_scene=1), "train", 0, 0)
    with pytest.raises(TypeError, match="needs images with SceneLabels"):
        collate_labels([image.to_referring_image("x")], [[0]], 64)
