"""File names: readable, short, and unique per query."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from refersam.names import answer_name, slug


def test_a_name_is_readable() -> None:
    """The image, the phrase and eight digits; equal for equal queries with different path spellings."""
    name = answer_name(Path("photos/my dog.jpg"), ["The dog, left!"])
    assert re.fullmatch(r"my dog_the-dog-left_[0-9a-f]{8}", name)
    assert name == answer_name(Path("photos/../photos/my dog.jpg").absolute(), ["The dog, left!"])
    assert answer_name(Path("a.mp4"), ["a cat", "a cup"]).startswith("a_a-cat-a-cup_")


def test_different_questions_have_different_names() -> None:
    """Also on case-insensitive file systems."""
    long = "the " * 40
    phrases = ["the dog", "the-dog", "the dog!", "The dog", "the  dog", long, f"{long}dog", "🌟", "☀", "!", "phrase"]
    paths = [Path(name) for name in ("a.png", "1/a.png", "2/a.png", "a.jpg", "A.png", "a_the.png", "x" * 200 + ".png")]
    names = {answer_name(path, [phrase]).casefold() for path in paths for phrase in phrases}
    assert len(names) == len(paths) * len(phrases)
    assert answer_name(paths[0], ["a", "b"]) != answer_name(paths[0], ["a, b"])


@pytest.mark.parametrize(
    "text", ["../../etc", "a/b\x00c", "\n", "[/red] [bold]", "é" * 300, "赤い" * 99, "..", "\udce9"]
)
def test_names_are_file_names(text: str) -> None:
    """For any phrase: no separator, and within the 255 bytes of file systems, with space for a suffix."""
    assert re.fullmatch(r"[\w-]+", slug(text))
    name = answer_name(Path("ü" * 120 + ".png"), [text])
    assert len(name.encode()) <= 160
    assert "/" not in name
