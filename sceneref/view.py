"""What can be said of a scene: sets of objects as bit masks, and places with margins."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from sceneref.objects import PATTERNS, SceneObject, unit_area
from sceneref.sampling import pick, weighted
from sceneref.settings import ATTRIBUTES, HELD_OUT_PAIRS, SceneRefSettings
from sceneref.words import Description, Place

T = TypeVar("T")

#: Least difference, as a share of the side, between places that a phrase compares.
MARGIN = 0.05
#: Least ratio of radii, and of areas, between sizes that a phrase compares.
SIZE_RATIO = 1.25
#: "In the middle": at most this far from the picture's centre, as a share of the side.
MIDDLE_REACH = 0.20

#: Which attributes a description names, and how often.
_SUBSETS: tuple[tuple[tuple[str, ...], float], ...] = (
    (("shape",), 20), (("colour", "shape"), 34), (("colour",), 12), (("size", "shape"), 8),
    (("size", "colour", "shape"), 9), (("size", "colour"), 4), ((), 7), (("size",), 3),
    (("pattern", "shape"), 5), (("pattern", "colour", "shape"), 4), (("pattern", "colour"), 2), (("pattern",), 2),
    (("size", "pattern", "shape"), 1), (("size", "pattern", "colour", "shape"), 1), (("size", "pattern"), 0.5),
    (("size", "pattern", "colour"), 0.5),
)  # fmt: skip

#: A description, how often it is chosen, the attributes it names, and the objects it fits.
_Option = tuple[Description, float, tuple[str, ...], int]


def members(bits: int) -> list[int]:
    """The indices in a set."""
    return [index for index in range(bits.bit_length()) if bits >> index & 1]


class View:
    """A scene as the phrases see it.

    Attributes:
        objects: the scene's objects.
        rng: source of all draws.
        everything: the set of all objects.
        focus: objects a phrase may be about (all, or those of held-out pairs in `compositional`).
        compositional: targets must be named by colour and shape.
        x, y: centres in pixels.
        margin: pixels by which places must differ.
        used: sets of targets that earlier phrases of the scene have asked for.
    """

    def __init__(
        self, objects: Sequence[SceneObject], settings: SceneRefSettings, split: str, rng: np.random.Generator
    ) -> None:
        self.objects, self.rng = tuple(objects), rng
        self.side, self.width, self.height = settings.side, settings.width, settings.height
        self.margin = MARGIN * self.side
        self.compositional = split == "compositional"
        self.nameable = frozenset(ATTRIBUTES if settings.named is None else settings.named)
        self.x = [item.centre[0] for item in objects]
        self.y = [item.centre[1] for item in objects]
        self.radius = [item.radius for item in objects]
        self.area = [item.radius**2 * unit_area(item.shape, item.form) for item in objects]
        self.everything = (1 << len(objects)) - 1
        self.sets: dict[tuple[str, str], int] = {}
        for index, item in enumerate(objects):
            for name in ATTRIBUTES:
                key = (name, getattr(item, name))
                self.sets[key] = self.sets.get(key, 0) | 1 << index
        held = [i for i, item in enumerate(objects) if (item.colour, item.shape) in HELD_OUT_PAIRS]
        self.focus = held if self.compositional else list(range(len(objects)))
        self.patterned = any(("pattern", name) in self.sets for name in PATTERNS[1:])
        self.used: set[int] = set()
        self._known: dict[tuple[int, bool], list[_Option]] = {}

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < probability)

    def persist(self, draw: Callable[[], T | None], tries: int) -> T | None:
        """The first result of a few draws, so that forms that seldom fit a scene keep their share."""
        for _ in range(tries):
            found = draw()
            if found is not None:
                return found
        return None

    def set_of(self, name: str, value: str) -> int:
        """The objects with this value of an attribute."""
        return self.sets.get((name, value), 0)

    def matching(self, what: Description) -> int:
        """The set of objects a description fits."""
        bits = self.everything
        for name in what.named:
            bits &= self.set_of(name, getattr(what, name))
        return bits

    def _options(self, index: int, free: bool) -> list[_Option]:
        """Descriptions that fit an object; `free`: need not follow the rules for targets."""
        known = self._known.get((index, free))
        if known is not None:
            return known
        item = self.objects[index]
        values = {name: getattr(item, name) for name in ATTRIBUTES}
        options = self._known[index, free] = []
        for names, weight in _SUBSETS:
            if not self.nameable.issuperset(names):
                continue
            if "pattern" in names:
                if not self.patterned:
                    continue
                weight *= 0.3 if item.pattern == "plain" else 2.0
            if self.compositional and not free and not ("colour" in names and "shape" in names):
                continue
            bits = self.everything
            for name in names:
                bits &= self.sets[name, values[name]]
            options.append((Description(**{name: values[name] for name in names}), weight, names, bits))
        return options

    def any_description(self, index: int, without: Sequence[str] = ()) -> Description:
        """A description that fits an object and perhaps others, for use as the X of a phrase."""
        options = self._options(index, False)
        for name in without:
            options = [option for option in options if name not in option[2]]
        return weighted(self.rng, options, [option[1] for option in options])[0]

    def unique_description(self, index: int, free: bool = False) -> Description | None:
        """A description that fits this object alone, often a short one; None when there is none.

        Args:
            index: the object.
            free: for landmarks, which need not name colour and shape in `compositional`.
        """
        options = [option for option in self._options(index, free) if option[3] == 1 << index]
        return weighted(self.rng, options, [option[1] for option in options])[0] if options else None

    def landmark(self, avoid: int = 0) -> tuple[int, Description] | None:
        """An object that a description singles out, outside of `avoid`."""
        index = int(self.rng.random() * len(self.objects))
        if avoid >> index & 1:
            return None
        what = self.unique_description(index, free=True)
        return None if what is None else (index, what)

    def extreme(self, bits: int, key: Callable[[int], float], margin: float) -> int | None:
        """The member with the least key, if every other is larger by the margin."""
        ranked = sorted((key(index), index) for index in members(bits))
        if not ranked or (len(ranked) > 1 and ranked[1][0] - ranked[0][0] < margin):
            return None
        return ranked[0][1]

    def towards(self, direction: str) -> Callable[[int], float]:
        """A key in pixels that is least for the object furthest in a direction."""
        if direction == "left":
            return lambda i: self.x[i]
        if direction == "right":
            return lambda i: -self.x[i]
        if direction == "top":
            return lambda i: self.y[i]
        if direction == "bottom":
            return lambda i: -self.y[i]
        raise ValueError(f"Unknown direction {direction!r}; expected left, right, top or bottom.")

    def place_towards(self, direction: str, low: float, high: float, margin: float = 0.0) -> Place:
        """Where the key of `towards` lies in an interval."""
        if direction in ("right", "bottom"):
            low, high = -high, -low
        return Place("x" if direction in ("left", "right") else "y", low, high, margin)

    def place_beside(self, direction: str, mark: int) -> Place:
        """What lies in a direction from an object."""
        return self.place_towards(direction, -math.inf, self.towards(direction)(mark), self.margin)

    def place_in_order(self, direction: str, bits: int, first: int, last: int) -> Place:
        """Where numbers first to last of a set are, counted from a side and from 0; up to halfway to the others."""
        keys = [-math.inf, *sorted(map(self.towards(direction), members(bits))), math.inf]
        low, high = ((keys[i] + keys[i + 1]) / 2 for i in (first, last + 1))
        return self.place_towards(direction, low, high)

    def place_around(self, x: float, y: float, bits: int, far: bool = False, beyond: float = -math.inf) -> Place | None:
        """Where the one of a set is that is nearest to a point (farthest if `far`), up to halfway to the next.

        Args:
            x, y: the point in pixels.
            bits: the set; of one there is no such place, and None comes back.
            far: the farthest, not the nearest.
            beyond: distance in pixels up to which nothing is in the place.
        """
        distances = sorted(math.hypot(self.x[i] - x, self.y[i] - y) for i in members(bits))
        if len(distances) < 2:
            return None
        if far:
            return Place("distance", low=sum(distances[-2:]) / 2, point=(x, y))
        return Place("distance", low=beyond, high=sum(distances[:2]) / 2, point=(x, y))

    def distance(self, i: int, j: int) -> float:
        """Pixels between two centres."""
        return math.hypot(self.x[i] - self.x[j], self.y[i] - self.y[j])

    def from_centre(self, i: int) -> float:
        """Pixels between an object's and the picture's centre."""
        return math.hypot(self.x[i] - self.width / 2, self.y[i] - self.height / 2)

    def holds(self, direction: str, i: int, j: int) -> bool:
        """Object i is clearly in this direction from j: past the margin, and at least half as far as sideways."""
        dx, dy = abs(self.x[i] - self.x[j]), abs(self.y[i] - self.y[j])
        along, across = (dx, dy) if direction in ("left", "right") else (dy, dx)
        key = self.towards(direction)
        return key(j) - key(i) >= self.margin and along >= 0.5 * across

    def fails(self, direction: str, i: int, j: int) -> bool:
        """Object i is clearly not in this direction from j: past the margin on the other side."""
        key = self.towards(direction)
        return key(i) - key(j) >= self.margin

    def clearly_bigger(self, i: int, j: int) -> bool:
        """Object i is bigger than j both by radius and by area."""
        return self.radius[i] >= SIZE_RATIO * self.radius[j] and self.area[i] >= SIZE_RATIO * self.area[j]

    def random_focus(self) -> int:
        """An object a phrase may be about."""
        return pick(self.rng, self.focus)
