"""Wording of phrases: words, synonyms and noun phrases for descriptions of objects."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sceneref.colours import COLOURS
from sceneref.sampling import pick, weighted
from sceneref.settings import ATTRIBUTES

_GENERIC: tuple[tuple[str, ...], tuple[float, ...]] = (
    ("object", "thing", "shape", "one", "item", "figure"), (0.52, 0.13, 0.13, 0.1, 0.07, 0.05),
)  # fmt: skip
#: Nouns of each shape, singular and plural: first the common word, then synonyms.
_NOUNS: dict[str, tuple[tuple[str, str], ...]] = {
    "circle": (("circle", "circles"), ("disc", "discs"), ("disk", "disks")),
    "square": (("square", "squares"),),
    "triangle": (("triangle", "triangles"),),
    "star": (("star", "stars"),),
    "ring": (("ring", "rings"), ("donut", "donuts")),
    "cross": (("cross", "crosses"), ("plus", "pluses"), ("plus sign", "plus signs")),
    "hexagon": (("hexagon", "hexagons"),),
    "heart": (("heart", "hearts"),),
    "crescent": (("crescent", "crescents"), ("moon", "moons"), ("crescent moon", "crescent moons")),
    "diamond": (("diamond", "diamonds"), ("rhombus", "rhombuses")),
    "arrow": (("arrow", "arrows"),),
    "bar": (("bar", "bars"), ("rectangle", "rectangles")),
}
_ADJECTIVES: dict[str, tuple[str, ...]] = {
    "large": ("large", "big"),
    "small": ("small", "little", "tiny"),
    "gray": ("gray", "grey"),
    "purple": ("purple", "violet"),
    "plain": ("plain", "solid"),
    "striped": ("striped",),
    "dotted": ("dotted", "spotted"),
    "checkered": ("checkered", "checked"),
}
ADJECTIVES = frozenset(word for words in (*_ADJECTIVES.values(), COLOURS) for word in words)
"""Every word for a size, a pattern or a colour."""
_WITH: dict[str, str] = {"striped": "stripes", "dotted": "dots", "checkered": "a checkered pattern"}
_COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_SYNONYM_CHANCE = 0.22


@dataclass(frozen=True)
class Description:
    """Attributes that a phrase names of an object; None for an attribute that is not named."""

    size: str | None = None
    pattern: str | None = None
    colour: str | None = None
    shape: str | None = None

    @property
    def named(self) -> tuple[str, ...]:
        """Names of the attributes that are given, in the order of `ATTRIBUTES`."""
        values = (self.size, self.pattern, self.colour, self.shape)
        return tuple([name for name, value in zip(ATTRIBUTES, values, strict=True) if value is not None])


def count_word(count: int) -> str:
    """Return the word for a number from 0 to 10."""
    return _COUNTS[count]


def article_for(text: str) -> str:
    """Return "a" or "an" for a text."""
    return "an" if text[:1].lower() in "aeiou" else "a"


def tokenize(text: str) -> list[str]:
    """Split a phrase into lower-case words without punctuation; "non-red" is one word."""
    return re.findall(r"[a-z0-9]+(?:['-][a-z0-9]+)*", text.lower())


@dataclass(frozen=True)
class Region:
    """Region of the image that position words describe: the points whose `measure` lies in an interval.

    Attributes:
        measure: a coordinate, or the distance from `point`, in pixels.
        low, high: ends of the interval.
        margin: width in pixels of the undefined band on both sides of each end.
        point: (x, y) in pixels, for "distance".
    """

    measure: Literal["x", "y", "distance"]
    low: float = -math.inf
    high: float = math.inf
    margin: float = 0.0
    point: tuple[float, float] = (0.0, 0.0)

    def holds(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return whether points lie in the region.

        Args:
            x, y: coordinates of the points in pixels.

        Returns:
            int8 array of the points' shape: 1 inside, 0 outside, -1 within the margin.
        """
        if self.measure == "distance":
            value = np.hypot(x - self.point[0], y - self.point[1])
        else:
            value = x if self.measure == "x" else y
        inside = np.minimum(value - self.low, self.high - value)
        return np.where(np.abs(inside) < self.margin, -1, inside > 0).astype(np.int8)


class Wording:
    """Draw the words of one phrase and record its tags and semantics.

    Args:
        rng: random generator.

    Attributes:
        tags: secondary tags, in the order of their first use.
        descriptions: descriptions, in the order of the phrase.
        region: region that position words restrict the target to; None without position words.
        negation_matches: set of all objects that satisfy the negation, as a bit mask; None without negation.
        no_articles: whether articles are left out.
        allow_ones: whether "ones" may replace "objects"; False after "of the".
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.tags: list[str] = []
        self.descriptions: list[Description] = []
        self.region: Region | None = None
        self.negation_matches: int | None = None
        self.no_articles = bool(rng.random() < 0.26)
        self.allow_ones = True

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return bool(self.rng.random() < probability)

    def pick(self, options: Sequence[str]) -> str:
        """Return one of the options, with equal probabilities."""
        return pick(self.rng, options)

    def add_tags(self, *tags: str) -> None:
        """Add secondary tags that are not recorded yet."""
        for tag in tags:
            if tag not in self.tags:
                self.tags.append(tag)

    def noun(self, shape: str | None, plural: bool = False) -> str:
        """Return a noun for a shape; a generic noun such as "object" for None."""
        if shape is None:
            self.add_tags("generic")
            word = weighted(self.rng, *_GENERIC)
            if plural:
                return "objects" if word == "one" and not self.allow_ones else word + "s"
            return word
        self.add_tags("shape")
        options = _NOUNS[shape]
        index = 0
        if len(options) > 1 and self.chance(_SYNONYM_CHANCE):
            index = 1 + int(self.rng.random() * (len(options) - 1))
            self.add_tags("synonym")
        return options[index][1 if plural else 0]

    def adjective(self, value: str) -> str:
        """Return an adjective for a size, colour or pattern."""
        options = _ADJECTIVES.get(value, (value,))
        if len(options) > 1 and self.chance(_SYNONYM_CHANCE):
            self.add_tags("synonym")
            return self.pick(options[1:])
        return options[0]

    def _clause(self, attribute: str, value: str, plural: bool) -> str:
        if attribute == "pattern" and value in _WITH and self.chance(0.5):
            return f"with {_WITH[value]}"
        return f"{self.pick(('that', 'which'))} {'are' if plural else 'is'} {self.adjective(value)}"

    def noun_phrase(
        self, description: Description, plural: bool = False, before: str = "", clauses: float = 0.0
    ) -> str:
        """Return adjectives and noun without an article: "large red star", "star that is red".

        Args:
            description: attributes to name.
            plural: whether the noun is plural.
            before: word before the adjectives, such as "leftmost".
            clauses: probability of naming one attribute in a clause after the noun.
        """
        self.descriptions.append(description)
        named = [name for name in description.named if name != "shape"]
        self.add_tags(*named)
        clause = ""
        movable = [name for name in named if name != "size"]
        if movable and clauses and self.chance(clauses):
            moved = pick(self.rng, movable)
            named.remove(moved)
            clause = self._clause(moved, getattr(description, moved), plural)
        if len(named) > 1 and "pattern" in named and "colour" in named and self.chance(0.4):
            i, j = named.index("pattern"), named.index("colour")
            named[i], named[j] = named[j], named[i]
        adjectives = [self.adjective(getattr(description, name)) for name in named]
        words = [before, *adjectives, self.noun(description.shape, plural), clause]
        return " ".join(word for word in words if word)

    def with_article(self, noun_phrase: str, indefinite: float = 0.0) -> str:
        """Add "the", or "a" with probability `indefinite`, unless articles are left out."""
        if self.no_articles:
            return noun_phrase
        if indefinite and self.chance(indefinite):
            return f"{article_for(noun_phrase)} {noun_phrase}"
        return f"the {noun_phrase}"

    def singular(
        self, description: Description, before: str = "", clauses: float = 0.0, indefinite: float = 0.0
    ) -> str:
        """Return a singular noun phrase with its article; arguments as in `noun_phrase` and `with_article`."""
        return self.with_article(self.noun_phrase(description, before=before, clauses=clauses), indefinite)

    def plural_phrase(self, description: Description, count: int, clauses: float = 0.1) -> str:
        """Return a noun phrase for `count` >= 2 objects: "all red stars", "every red star", "both rings"."""
        form = weighted(self.rng, ("all", "all the", "every", "each", "the", "count", "all of the"), _MANY_WEIGHTS)
        self.allow_ones = form in ("the", "all the")
        if form in ("every", "each"):
            return f"{form} {self.noun_phrase(description, clauses=clauses)}"
        noun_phrase = self.noun_phrase(description, plural=True, clauses=clauses)
        if form == "count" and not noun_phrase.startswith(("a ", "an ")):
            word = count_word(count)
            if count == 2 and self.chance(0.65):
                word = self.pick(("both", "both", "both the", "both of the"))
                return f"{word} {noun_phrase}"
            return self.with_article(f"{word} {noun_phrase}")
        return self.with_article(noun_phrase) if form in ("the", "count") else f"{form} {noun_phrase}"

    def finish(self, text: str) -> str:
        """Add capitals and a full stop, with small probabilities."""
        draw = float(self.rng.random())
        if draw < 0.02:
            text = text.title().replace("'S", "'s")
        elif draw < 0.045:
            text = text[0].upper() + text[1:]
        elif draw < 0.052:
            text = text.upper()
        return text + "." if self.chance(0.015) else text


_MANY_WEIGHTS = (0.25, 0.17, 0.17, 0.05, 0.13, 0.17, 0.06)
