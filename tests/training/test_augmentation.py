"""Augmentation: every phrase stays valid for its image, and no target loses pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refersam.data.sample import ReferringImage
from refersam.training.augmentation import CropPlace, augment, crop, flip, recolour
from refersam.training.directions import mentions_colour, mentions_horizontal, mentions_vertical, mirror_phrase
from refersam.training.settings import AugmentSettings


def make_image(
    *phrases: str, box: tuple[int, int, int, int] = (10, 20, 30, 50), size: tuple[int, int] = (80, 120)
) -> ReferringImage:
    """Random pixels of size (height, width); every phrase has the target box (top, left, bottom, right)."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    masks = np.zeros((len(phrases), *size), dtype=bool)
    masks[:, box[0] : box[2], box[1] : box[3]] = True
    names = tuple(f"sample {index}" for index in range(len(phrases)))
    return ReferringImage(image, phrases, masks, names, ((),) * len(phrases))


@pytest.mark.parametrize(
    ("phrase", "mirrored"),
    [
        ("the dog left of the chair", "the dog right of the chair"),
        ("Right most cup, RIGHT side", "Left most cup, LEFT side"),
        ("leftmost and right-hand ones", "rightmost and left-hand ones"),
        ("man lft", "man rght"),
        ("person to the far left, not the right one", "person to the far right, not the left one"),
        ("the cleft rock is bright", "the cleft rock is bright"),
        ("the red cup", "the red cup"),
        ("western building", "eastern building"),
        ("the cup right next to the plate", None),
        ("all right", None),
        ("guy on l", None),
        ("bottle at 3 o'clock", None),
        ("hands turned clockwise", None),
        ("the sign that says left", None),
        ("lt blue shirt", None),
    ],
)
def test_mirrored_phrases(phrase: str, mirrored: str | None) -> None:
    """Sides are swapped as whole words in their case; None if mirroring is uncertain."""
    assert mirror_phrase(phrase) == mirrored
    if mirrored is not None:
        assert mirror_phrase(mirrored) == phrase


@pytest.mark.parametrize(
    ("phrase", "horizontal", "vertical", "colour"),
    [
        ("the left cat", True, False, False),
        ("cat at the bottom", False, True, False),
        ("the second red cup", True, True, True),
        ("middle one in a dark coat", True, True, True),
        ("woman in front with grey hair", False, True, True),
        ("giraffe eating leaves", False, False, False),
        ("the reddish kite", False, False, True),
        ("the copyright notice", False, False, False),
        ("a stop sign", False, False, False),
    ],
)
def test_what_phrases_speak_of(phrase: str, horizontal: bool, vertical: bool, colour: bool) -> None:
    """Only whole words match."""
    assert (mentions_horizontal(phrase), mentions_vertical(phrase), mentions_colour(phrase)) == (
        horizontal,
        vertical,
        colour,
    )


def test_a_flip_mirrors_pixels_masks_and_words_together() -> None:
    """One phrase that cannot be mirrored leaves the image and all phrases unchanged."""
    before = make_image("the left cup", "a spoon")
    after = flip(before)
    assert after.phrases == ("the right cup", "a spoon")
    np.testing.assert_array_equal(after.image, before.image[:, ::-1])
    np.testing.assert_array_equal(after.masks, before.masks[:, :, ::-1])
    np.testing.assert_array_equal(flip(with_labels(before)).extra.values, after.masks)
    assert after.sample_ids == before.sample_ids
    kept = make_image("the left cup", "the spoon right next to it")
    assert flip(kept) is kept


@dataclass(frozen=True)
class Labels:
    """Annotations of an extension: one map."""

    values: np.ndarray

    def cut(self, rows: slice, columns: slice) -> Labels:
        """See `ImageExtra`."""
        return Labels(self.values[:, rows, columns])


def with_labels(make_image: ReferringImage) -> ReferringImage:
    """Return the image with its masks as annotations of an extension."""
    return replace(make_image, extra=Labels(make_image.masks))


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
    st.lists(st.floats(0, 0.999), min_size=4, max_size=4),
    st.floats(0.01, 1),
)
def test_a_crop_loses_no_pixel_of_a_target(
    size: tuple[int, int], box: tuple[float, float, float, float], places: list[float], smallest: float
) -> None:
    """For any image, target and random numbers, also for empty targets; never below the minimum size."""
    (top, bottom), (left, right) = sorted(int(v * size[0]) for v in box[:2]), sorted(int(v * size[1]) for v in box[2:])
    before = make_image("a thing", box=(top, left, bottom, right), size=size)
    after = crop(before, smallest, CropPlace(*places))
    assert after.masks.sum() == before.masks.sum()
    assert after.masks.shape[1:] == after.image.shape[:2]
    known = crop(with_labels(before), smallest, CropPlace(*places)).extra
    np.testing.assert_array_equal(known.values, after.masks)
    for kept, whole in zip(after.image.shape[:2], size, strict=True):
        assert kept >= min(whole, max(1, round(smallest * whole) - 1))


def test_a_crop_keeps_the_sides_that_are_spoken_of() -> None:
    """Both sides of an axis are kept: after a crop, a target might no longer be on its side."""
    place = CropPlace(0.0, 0.0, 0.5, 0.5)
    assert crop(make_image("a cup"), 0.5, place).image.shape[:2] == (40, 60)
    assert crop(make_image("a cup", "the left cup"), 0.5, place).image.shape[:2] == (40, 120)
    assert crop(make_image("the top cup"), 0.5, place).image.shape[:2] == (80, 60)
    assert crop(make_image("the second cup"), 0.5, place).image.shape[:2] == (80, 120)


@pytest.mark.parametrize(
    "phrase", ["the cup beside the kettle", "a cup left of a kettle", "cup with a lid", "cup smaller than the pot"]
)
def test_a_crop_leaves_whole_what_a_phrase_compares_with(phrase: str) -> None:
    """The position of the other object is unknown."""
    before = make_image("a cup", phrase)
    assert crop(before, 0.1, CropPlace(0.0, 0.0, 0.5, 0.5)) is before


def test_recolour_by_hand() -> None:
    """Contrast about the mean, then brightness, clipped to the range."""
    image = np.array([[[100, 100, 100], [200, 200, 200]]], dtype=np.uint8)
    assert recolour(image, 1.0, 0.5)[0, :, 0].tolist() == [125, 175]
    assert recolour(image, 1.5, 1.0)[0, :, 0].tolist() == [150, 255]
    np.testing.assert_array_equal(recolour(image, 1.0, 1.0), image)


def test_the_draw_decides_everything() -> None:
    """Equal generators give equal images; all off returns the image itself; colours stay if a phrase mentions one."""
    everything = AugmentSettings(flip=0.5, crop=0.5, smallest_crop=0.3, colour=0.4)
    before = make_image("the left cup")
    one, other = (augment(before, everything, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one.image, other.image)
    assert one.phrases == other.phrases
    outcomes = {augment(before, everything, np.random.default_rng(seed)).image.tobytes() for seed in range(20)}
    assert len(outcomes) == 20
    assert augment(before, AugmentSettings(), np.random.default_rng(5)) is before
    red = make_image("the red cup")
    assert augment(red, AugmentSettings(colour=0.4), np.random.default_rng(5)) is red
