"""The wording of phrases: what a description of an object is called, in many ways."""

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
#: First the common word, then others; each with its plural.
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
    """What a phrase says about an object's own looks; None leaves the attribute open."""

    size: str | None = None
    pattern: str | None = None
    colour: str | None = None
    shape: str | None = None

    @property
    def named(self) -> tuple[str, ...]:
        """The attributes that are given, in the order of `ATTRIBUTES`."""
        values = (self.size, self.pattern, self.colour, self.shape)
        return tuple([name for name, value in zip(ATTRIBUTES, values, strict=True) if value is not None])


def count_word(count: int) -> str:
    """ "two", "three" ... up to ten."""
    return _COUNTS[count]


def article_for(text: str) -> str:
    """ "a" or "an"."""
    return "an" if text[:1].lower() in "aeiou" else "a"


def tokenize(text: str) -> list[str]:
    """Lower-case words of a phrase without punctuation; "non-red" stays one word."""
    return re.findall(r"[a-z0-9]+(?:['-][a-z0-9]+)*", text.lower())


@dataclass(frozen=True)
class Place:
    """Where a phrase says that its target is, of whatever kind: the points whose measure lies in an interval.

    Attributes:
        measure: a coordinate, or the distance from `point`; in pixels.
        low, high: the interval.
        margin: pixels to both sides of its ends, of which the phrase says nothing.
        point: (x, y) in pixels.
    """

    measure: Literal["x", "y", "distance"]
    low: float = -math.inf
    high: float = math.inf
    margin: float = 0.0
    point: tuple[float, float] = (0.0, 0.0)

    def holds(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Of points (x, y) in pixels: 1 for those in the place, 0 for those outside, -1 where that is left open."""
        if self.measure == "distance":
            value = np.hypot(x - self.point[0], y - self.point[1])
        else:
            value = x if self.measure == "x" else y
        inside = np.minimum(value - self.low, self.high - value)
        return np.where(np.abs(inside) < self.margin, -1, inside > 0).astype(np.int8)


class Wording:
    """Draws the words of one phrase and notes what they were, for the tags.

    Attributes:
        tags: secondary tags in the order they came up.
        said: the descriptions in the order they are said.
        place: where the phrase says beside them that its target is; None where it does not, or not of one place.
        spared: the set of all objects that what the phrase negates leaves; None without negation.
        bare: the phrase goes without articles.
        ones: "ones" may stand for objects; odd after "of the".
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.tags: list[str] = []
        self.said: list[Description] = []
        self.place: Place | None = None
        self.spared: int | None = None
        self.bare = bool(rng.random() < 0.26)
        self.ones = True

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < probability)

    def pick(self, options: Sequence[str]) -> str:
        """One of the options, each as likely."""
        return pick(self.rng, options)

    def note(self, *tags: str) -> None:
        """Adds secondary tags, each once."""
        for tag in tags:
            if tag not in self.tags:
                self.tags.append(tag)

    def noun(self, shape: str | None, plural: bool = False) -> str:
        """The word for a shape, or a generic word."""
        if shape is None:
            self.note("generic")
            word = weighted(self.rng, *_GENERIC)
            if plural:
                return "objects" if word == "one" and not self.ones else word + "s"
            return word
        self.note("shape")
        options = _NOUNS[shape]
        index = 0
        if len(options) > 1 and self.chance(_SYNONYM_CHANCE):
            index = 1 + int(self.rng.random() * (len(options) - 1))
            self.note("synonym")
        return options[index][1 if plural else 0]

    def adjective(self, value: str) -> str:
        """The word for a size, colour or pattern."""
        options = _ADJECTIVES.get(value, (value,))
        if len(options) > 1 and self.chance(_SYNONYM_CHANCE):
            self.note("synonym")
            return self.pick(options[1:])
        return options[0]

    def _clause(self, attribute: str, value: str, plural: bool) -> str:
        if attribute == "pattern" and value in _WITH and self.chance(0.5):
            return f"with {_WITH[value]}"
        return f"{self.pick(('that', 'which'))} {'are' if plural else 'is'} {self.adjective(value)}"

    def core(self, what: Description, plural: bool = False, before: str = "", clauses: float = 0.0) -> str:
        """Adjectives and noun, without an article: "large red star", "star that is red".

        Args:
            what: what is said.
            plural: "stars".
            before: a word ahead of the adjectives: "leftmost red star".
            clauses: probability of saying one attribute after the noun.
        """
        self.said.append(what)
        named = [name for name in what.named if name != "shape"]
        self.note(*named)
        clause = ""
        movable = [name for name in named if name != "size"]
        if movable and clauses and self.chance(clauses):
            moved = pick(self.rng, movable)
            named.remove(moved)
            clause = self._clause(moved, getattr(what, moved), plural)
        if len(named) > 1 and "pattern" in named and "colour" in named and self.chance(0.4):
            i, j = named.index("pattern"), named.index("colour")
            named[i], named[j] = named[j], named[i]
        adjectives = [self.adjective(getattr(what, name)) for name in named]
        words = [before, *adjectives, self.noun(what.shape, plural), clause]
        return " ".join(word for word in words if word)

    def the(self, core: str, indefinite: float = 0.0) -> str:
        """Puts "the" ahead, or nothing in a bare phrase; "a" with the given probability."""
        if self.bare:
            return core
        if indefinite and self.chance(indefinite):
            return f"{article_for(core)} {core}"
        return f"the {core}"

    def one(self, what: Description, before: str = "", clauses: float = 0.0, indefinite: float = 0.0) -> str:
        """A singular noun phrase with its article."""
        return self.the(self.core(what, before=before, clauses=clauses), indefinite)

    def many(self, what: Description, count: int, clauses: float = 0.1) -> str:
        """A plural noun phrase for `count` >= 2 objects: "all red stars", "every red star", "both rings"."""
        form = weighted(self.rng, ("all", "all the", "every", "each", "the", "count", "all of the"), _MANY_WEIGHTS)
        self.ones = form in ("the", "all the")
        if form in ("every", "each"):
            return f"{form} {self.core(what, clauses=clauses)}"
        core = self.core(what, plural=True, clauses=clauses)
        if form == "count" and not core.startswith(("a ", "an ")):
            word = count_word(count)
            if count == 2 and self.chance(0.65):
                word = self.pick(("both", "both", "both the", "both of the"))
                return f"{word} {core}"
            return self.the(f"{word} {core}")
        return self.the(core) if form in ("the", "count") else f"{form} {core}"

    def finish(self, text: str) -> str:
        """Rare capitals and full stops."""
        draw = float(self.rng.random())
        if draw < 0.02:
            text = text.title().replace("'S", "'s")
        elif draw < 0.045:
            text = text[0].upper() + text[1:]
        elif draw < 0.052:
            text = text.upper()
        return text + "." if self.chance(0.015) else text


_MANY_WEIGHTS = (0.25, 0.17, 0.17, 0.05, 0.13, 0.17, 0.06)
