"""Changed pictures: every phrase is still true of its picture, and no target loses a pixel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refersam.data.sample import DrawnObjects, ReferringImage
from refersam.training.augmentation import augment, crop, flip, recolour
from refersam.training.directions import mentions_colour, mentions_horizontal, mentions_vertical, mirror_phrase
from refersam.training.settings import AugmentSettings
from refersam.training.wording import _OTHER_ADJECTIVES, _OTHER_NOUNS, frame, misspell, rename, turn
from sceneref.words import _NOUNS, ADJECTIVES


def picture(
    *phrases: str, box: tuple[int, int, int, int] = (10, 20, 30, 50), size: tuple[int, int] = (80, 120)
) -> ReferringImage:
    """Random pixels of size (height, width); every phrase means the box (top, left, bottom, right)."""
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
    """Sides are swapped as whole words with their case; what cannot be mirrored for sure is None."""
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
    """Whole words only."""
    assert (mentions_horizontal(phrase), mentions_vertical(phrase), mentions_colour(phrase)) == (
        horizontal,
        vertical,
        colour,
    )


def test_a_flip_mirrors_pixels_masks_and_words_together() -> None:
    """All or nothing: one phrase that cannot be mirrored keeps the picture as it is."""
    before = picture("the left cup", "a spoon")
    after = flip(before)
    assert after.phrases == ("the right cup", "a spoon")
    np.testing.assert_array_equal(after.image, before.image[:, ::-1])
    np.testing.assert_array_equal(after.masks, before.masks[:, :, ::-1])
    known = flip(with_objects(before)).objects
    np.testing.assert_array_equal(known.masks, after.masks)
    np.testing.assert_array_equal(known.conditions, after.masks)
    assert after.sample_ids == before.sample_ids
    kept = picture("the left cup", "the spoon right next to it")
    assert flip(kept) is kept


def with_objects(picture: ReferringImage) -> ReferringImage:
    """As if its targets were a drawn scene's objects."""
    mentions = tuple(((index,),) for index in range(len(picture.phrases)))
    looks, conditions = np.zeros((len(mentions), 3), dtype=int), picture.masks.astype(np.int8)
    return replace(picture, objects=DrawnObjects(picture.masks, looks, mentions, conditions))


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
    """Whatever the picture, the target and the draw; an empty target too; never smaller than asked for."""
    (top, bottom), (left, right) = sorted(int(v * size[0]) for v in box[:2]), sorted(int(v * size[1]) for v in box[2:])
    before = picture("a thing", box=(top, left, bottom, right), size=size)
    after = crop(before, smallest, np.array(places))
    assert after.masks.sum() == before.masks.sum()
    assert after.masks.shape[1:] == after.image.shape[:2]
    known = crop(with_objects(before), smallest, np.array(places)).objects
    np.testing.assert_array_equal(known.masks, after.masks)
    np.testing.assert_array_equal(known.conditions, after.masks)
    for kept, whole in zip(after.image.shape[:2], size, strict=True):
        assert kept >= min(whole, max(1, round(smallest * whole) - 1))


def test_a_crop_keeps_the_sides_that_are_spoken_of() -> None:
    """Both of an axis: a target that moves within the picture may not be left any more."""
    places = np.array([0.0, 0.0, 0.5, 0.5])
    assert crop(picture("a cup"), 0.5, places).image.shape[:2] == (40, 60)
    assert crop(picture("a cup", "the left cup"), 0.5, places).image.shape[:2] == (40, 120)
    assert crop(picture("the top cup"), 0.5, places).image.shape[:2] == (80, 60)
    assert crop(picture("the second cup"), 0.5, places).image.shape[:2] == (80, 120)


@pytest.mark.parametrize(
    "phrase", ["the cup beside the kettle", "a cup left of a kettle", "cup with a lid", "cup smaller than the pot"]
)
def test_a_crop_leaves_whole_what_a_phrase_compares_with(phrase: str) -> None:
    """Nothing shows where the other thing is."""
    before = picture("a cup", phrase)
    assert crop(before, 0.1, np.array([0.0, 0.0, 0.5, 0.5])) is before


def test_recolour_by_hand() -> None:
    """Contrast about the mean, then brightness, cut at the ends."""
    image = np.array([[[100, 100, 100], [200, 200, 200]]], dtype=np.uint8)
    assert recolour(image, 1.0, 0.5)[0, :, 0].tolist() == [125, 175]
    assert recolour(image, 1.5, 1.0)[0, :, 0].tolist() == [150, 255]
    np.testing.assert_array_equal(recolour(image, 1.0, 1.0), image)


def test_the_draw_decides_everything() -> None:
    """Same generator, same picture; all off is the picture itself; colour stays where it is spoken of."""
    everything = AugmentSettings(flip=0.5, crop=0.5, smallest_crop=0.3, colour=0.4)
    before = picture("the left cup")
    one, other = (augment(before, everything, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one.image, other.image)
    assert one.phrases == other.phrases
    outcomes = {augment(before, everything, np.random.default_rng(seed)).image.tobytes() for seed in range(20)}
    assert len(outcomes) == 20
    assert augment(before, AugmentSettings(), np.random.default_rng(5)) is before
    red = picture("the red cup")
    assert augment(red, AugmentSettings(colour=0.4), np.random.default_rng(5)) is red


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=4, max_size=4))
def test_a_typing_error_is_in_one_word_and_never_in_a_side(numbers: list[float]) -> None:
    """At most one letter more or less, the first one as it was; short words and sides stay."""
    phrase = "the small purple star on the left of a big box"
    before, after = phrase.split(" "), misspell(phrase, np.array(numbers)).split(" ")
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) <= 1
    for old, new in changed:
        assert old in ("small", "purple", "star")
        assert old[0] == new[0]
        assert abs(len(old) - len(new)) <= 1
    assert misspell("top left 12 red", np.array(numbers)) == "top left 12 red"


def test_typing_errors_by_hand() -> None:
    """Letters change places, one is missing, doubled, or the key beside it was hit."""
    for kind, expected in ((0.0, "pruple"), (0.3, "prple"), (0.6, "puurple"), (0.9, "pyrple")):
        assert misspell("purple", np.array([0.0, 0.0, kind, 0.0])) == expected


@pytest.mark.parametrize(
    ("phrase", "numbers", "expected"),
    [
        ("the cyan star", (0.0, 0.0), "the turquoise star"),
        ("an Orange ring next to a circle", (0.0, 0.5), "a tangerine ring next to a circle"),
        ("an orange ring next to a square", (0.99, 0.99), "an orange ring next to a block"),
        ("a large ring", (0.5, 0.99), "a large loop"),
        ("all the crosses", (0.5, 0.5), "all the plus symbols"),
        ("both squares", (0.0, 0.0), "both boxes"),
        ("the second object from the left", (0.0, 0.99), "the second element from the left"),
        ("the furry dog", (0.0, 0.0), "the furry dog"),
    ],
)
def test_other_names(phrase: str, numbers: tuple[float, float], expected: str) -> None:
    """Of one word, with the article that it needs; none of them is a word of SceneRef's own."""
    assert rename(phrase, np.array(numbers)) == expected
    others = [name for names in (*_OTHER_ADJECTIVES.values(), *_OTHER_NOUNS.values()) for name in names]
    assert len(others) == len(set(others))
    own = {word for nouns in _NOUNS.values() for pair in nouns for word in pair} | ADJECTIVES
    assert not own & set(others)


def test_rewording_changes_phrases_and_nothing_else() -> None:
    """All of them at share 1, none at 0; a frame holds the phrase whole."""
    original = picture("the red star", "all circles")
    rng = np.random.default_rng
    assert augment(original, AugmentSettings(), rng(0)).phrases == original.phrases
    framed = augment(original, AugmentSettings(frames=1.0), rng(0))
    for old, new in zip(original.phrases, framed.phrases, strict=True):
        assert old != new
        assert set(old.split(" ")) <= set(new.split(" "))
    misspelt = augment(original, AugmentSettings(typing_errors=1.0), rng(0))
    assert all(old != new for old, new in zip(original.phrases, misspelt.phrases, strict=True))
    renamed = augment(original, AugmentSettings(synonyms=1.0), rng(0))
    assert all(old != new for old, new in zip(original.phrases, renamed.phrases, strict=True))
    for changed in (framed, misspelt, renamed):
        np.testing.assert_array_equal(changed.image, original.image)
        np.testing.assert_array_equal(changed.masks, original.masks)
    assert len({frame("x", number / 50) for number in range(50)}) > 40
    assert all("all circles" in frame("all circles", number / 50) for number in range(50))


@pytest.mark.parametrize(
    ("phrase", "first", "last"),
    [
        ("the large red star", "the star , it is large and red", "the star , the large red one"),
        ("green cross", "cross , it is green", "cross , the green one"),
        ("a Striped Bar", "a Bar , it is Striped", "a Bar , the Striped one"),
    ],
)
def test_phrases_turned_round(phrase: str, first: str, last: str) -> None:
    """The noun comes first."""
    assert (turn(phrase, 0.0), turn(phrase, 0.999)) == (first, last)


@pytest.mark.parametrize(
    "phrase",
    ["all red stars", "red stars", "the star", "the red star on the left", "the furry dog", "the largest star", ""],
)
def test_phrases_that_are_not_turned_round(phrase: str) -> None:
    """Plurals, what has no adjective or one that is not known, and what goes on after the noun."""
    assert turn(phrase, 0.0) == phrase
