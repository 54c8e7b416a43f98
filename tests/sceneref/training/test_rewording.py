"""Text augmentation: synonyms, typing errors, sentences around phrases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sceneref.training.rewording import (
    _OTHER_ADJECTIVES,
    _OTHER_NOUNS,
    RewordingDraw,
    misspell,
    put_in_sentence,
    put_noun_first,
    replace_word,
    reword,
)
from sceneref.training.settings import RewordingSettings
from sceneref.words import _NOUNS, ADJECTIVES


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=4, max_size=4))
def test_a_typing_error_is_in_one_word_and_never_in_a_side(numbers: list[float]) -> None:
    """At most one letter is added or removed, not the first; short words and position words are unchanged."""
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
    """Two letters swapped, one missing, one doubled, or a neighbouring key."""
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
def test_synonyms(phrase: str, numbers: tuple[float, float], expected: str) -> None:
    """One word is replaced, with the right article; no synonym is a word of SceneRef."""
    assert replace_word(phrase, np.array(numbers)) == expected
    others = [name for names in (*_OTHER_ADJECTIVES.values(), *_OTHER_NOUNS.values()) for name in names]
    assert len(others) == len(set(others))
    own = {word for nouns in _NOUNS.values() for pair in nouns for word in pair} | ADJECTIVES
    assert not own & set(others)


def reworded(phrases: Sequence[str], seed: int = 0, **shares: float) -> list[str]:
    """Reword all phrases of an image with these shares."""
    draws = RewordingDraw.of_phrases(len(phrases), np.random.default_rng(seed))
    settings = RewordingSettings(**shares)
    return [reword(phrase, settings, draw) for phrase, draw in zip(phrases, draws, strict=True)]


def test_shares_of_rewording() -> None:
    """All phrases change at share 1, none at 0; a sentence contains the words of the phrase."""
    phrases = ["the red star", "all circles"]
    assert reworded(phrases) == phrases
    for old, new in zip(phrases, reworded(phrases, sentences=1.0), strict=True):
        assert old != new
        assert set(old.split(" ")) <= set(new.split(" "))
    for name in ("typing_errors", "synonyms"):
        assert all(old != new for old, new in zip(phrases, reworded(phrases, **{name: 1.0}), strict=True))
    assert len({put_in_sentence("x", number / 50) for number in range(50)}) > 40
    assert all("all circles" in put_in_sentence("all circles", number / 50) for number in range(50))


def test_every_share_changes_its_own_kind_only() -> None:
    """Random draws are independent of the shares: the same phrases are in sentences for any other settings."""
    phrases = ["the red star"] * 200
    sentences = reworded(phrases, sentences=0.5)
    chosen = [new != old for old, new in zip(phrases, sentences, strict=True)]
    assert 70 < sum(chosen) < 130
    replaced = reworded(phrases, synonyms=1.0)
    both = reworded(phrases, synonyms=1.0, sentences=0.5)
    assert [new != old for old, new in zip(replaced, both, strict=True)] == chosen


def test_synonyms_come_before_typing_errors() -> None:
    """A misspelt word has no synonym."""
    draw = RewordingDraw(
        error=0.0,
        error_kind=np.array([0.99, 0.0, 0.0, 0.0]),
        sentence=0.9,
        sentence_kind=0.0,
        synonym=0.0,
        synonym_kind=np.array([0.0, 0.0]),
    )
    settings = RewordingSettings(synonyms=0.5, typing_errors=0.5, sentences=0.5)
    assert reword("the cyan ring", settings, draw) == "the turquoise rnig"


@pytest.mark.parametrize(
    ("phrase", "first", "last"),
    [
        ("the large red star", "the star , it is large and red", "the star , the large red one"),
        ("green cross", "cross , it is green", "cross , the green one"),
        ("a Striped Bar", "a Bar , it is Striped", "a Bar , the Striped one"),
    ],
)
def test_noun_first(phrase: str, first: str, last: str) -> None:
    """The noun comes first."""
    assert (put_noun_first(phrase, 0.0), put_noun_first(phrase, 0.999)) == (first, last)


@pytest.mark.parametrize(
    "phrase",
    ["all red stars", "red stars", "the star", "the red star on the left", "the furry dog", "the largest star", ""],
)
def test_phrases_without_noun_first(phrase: str) -> None:
    """Plurals, no adjective or an unknown one, and words after the noun."""
    assert put_noun_first(phrase, 0.0) == phrase
