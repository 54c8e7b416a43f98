"""Relations between the objects of a scene, for building phrases: sets as bit masks, positions with margins."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from sceneref.objects import PATTERNS, SceneObject, unit_area
from sceneref.sampling import pick, weighted
from sceneref.settings import ATTRIBUTES, HELD_OUT_PAIRS, SceneRefSettings
from sceneref.words import Description, Region

T = TypeVar("T")

#: Minimum difference of two positions that a phrase compares, as a share of the shorter side.
MARGIN = 0.05
#: Minimum ratio of the radii, and of the areas, of two objects whose sizes a phrase compares.
SIZE_RATIO = 1.25
#: Maximum distance from the image centre of an object "in the middle", as a share of the shorter side.
MIDDLE_REACH = 0.20

#: Attributes that a description names, with their weights.
_SUBSETS: tuple[tuple[tuple[str, ...], float], ...] = (
    (("shape",), 20), (("colour", "shape"), 34), (("colour",), 12), (("size", "shape"), 8),
    (("size", "colour", "shape"), 9), (("size", "colour"), 4), ((), 7), (("size",), 3),
    (("pattern", "shape"), 5), (("pattern", "colour", "shape"), 4), (("pattern", "colour"), 2), (("pattern",), 2),
    (("size", "pattern", "shape"), 1), (("size", "pattern", "colour", "shape"), 1), (("size", "pattern"), 0.5),
    (("size", "pattern", "colour"), 0.5),
)  # fmt: skip

#: A description, its weight, the attributes it names, and the set of matching objects.
_Option = tuple[Description, float, tuple[str, ...], int]


def members(bits: int) -> list[int]:
    """Return the indices in a bit mask."""
    return [index for index in range(bits.bit_length()) if bits >> index & 1]


class View:
    """Objects of a scene with the sets, positions and sizes that phrases refer to.

    Args:
        objects: objects of the scene.
        settings: settings that the scene was generated with.
        split: split that the scene was generated for.
        rng: random generator.

    Attributes:
        everything: set of all objects. Sets are bit masks: bit i is object i.
        focus: indices of possible targets: all objects, or those of held-out pairs in `compositional`.
        compositional: whether targets must be named by colour and shape.
        x, y: centres of the objects in pixels.
        margin: minimum difference of positions in pixels.
        used: target sets of earlier phrases about the scene.
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
        """Return True with this probability."""
        return bool(self.rng.random() < probability)

    def retry(self, draw: Callable[[], T | None], tries: int) -> T | None:
        """Return the first result of up to `tries` draws, so that phrase forms that rarely succeed keep their share."""
        for _ in range(tries):
            found = draw()
            if found is not None:
                return found
        return None

    def set_of(self, name: str, value: str) -> int:
        """Return the set of objects with this value of an attribute."""
        return self.sets.get((name, value), 0)

    def matching(self, description: Description) -> int:
        """Return the set of objects that match a description."""
        bits = self.everything
        for name in description.named:
            bits &= self.set_of(name, getattr(description, name))
        return bits

    def _options(self, index: int, free: bool) -> list[_Option]:
        """Return the descriptions that match an object; `free` ignores the rules for targets in `compositional`."""
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
        """Draw a description that matches an object and possibly others.

        Args:
            index: the object.
            without: attributes that the description must not name.
        """
        options = self._options(index, False)
        for name in without:
            options = [option for option in options if name not in option[2]]
        return weighted(self.rng, options, [option[1] for option in options])[0]

    def unique_description(self, index: int, free: bool = False) -> Description | None:
        """Draw a description that matches only this object, usually a short one; return None if there is none.

        Args:
            index: the object.
            free: whether colour and shape may be left out in `compositional`, as for landmarks.
        """
        options = [option for option in self._options(index, free) if option[3] == 1 << index]
        return weighted(self.rng, options, [option[1] for option in options])[0] if options else None

    def landmark(self, avoid: int = 0) -> tuple[int, Description] | None:
        """Draw an object outside the set `avoid` with a unique description; return None if the draw has none."""
        index = int(self.rng.random() * len(self.objects))
        if avoid >> index & 1:
            return None
        description = self.unique_description(index, free=True)
        return None if description is None else (index, description)

    def extreme(self, bits: int, key: Callable[[int], float], margin: float) -> int | None:
        """Return the member with the smallest key if all other keys are larger by the margin, else None."""
        ranked = sorted((key(index), index) for index in members(bits))
        if not ranked or (len(ranked) > 1 and ranked[1][0] - ranked[0][0] < margin):
            return None
        return ranked[0][1]

    def towards(self, direction: str) -> Callable[[int], float]:
        """Return a sort key in pixels that is smallest for the object furthest in a direction."""
        if direction == "left":
            return lambda i: self.x[i]
        if direction == "right":
            return lambda i: -self.x[i]
        if direction == "top":
            return lambda i: self.y[i]
        if direction == "bottom":
            return lambda i: -self.y[i]
        raise ValueError(f"Unknown direction {direction!r}; expected left, right, top or bottom.")

    def region_towards(self, direction: str, low: float, high: float, margin: float = 0.0) -> Region:
        """Return the region in which the key of `towards` lies between `low` and `high`."""
        if direction in ("right", "bottom"):
            low, high = -high, -low
        return Region("x" if direction in ("left", "right") else "y", low, high, margin)

    def region_beside(self, direction: str, landmark: int) -> Region:
        """Return the region in a direction from a landmark."""
        return self.region_towards(direction, -math.inf, self.towards(direction)(landmark), self.margin)

    def region_in_order(self, direction: str, bits: int, first: int, last: int) -> Region:
        """Return the region of ranks `first` to `last` of a set, counted from a side.

        The region ends halfway to the neighbouring ranks.

        Args:
            direction: side from which objects are counted.
            bits: set of objects.
            first, last: ranks from 0, both included.
        """
        keys = [-math.inf, *sorted(map(self.towards(direction), members(bits))), math.inf]
        low, high = ((keys[i] + keys[i + 1]) / 2 for i in (first, last + 1))
        return self.region_towards(direction, low, high)

    def region_around(
        self, x: float, y: float, bits: int, far: bool = False, beyond: float = -math.inf
    ) -> Region | None:
        """Return the region of the member of a set that is nearest to a point, or farthest from it.

        The region ends halfway to the next member.

        Args:
            x, y: the point in pixels.
            bits: set of objects; None is returned for fewer than two.
            far: use the farthest member instead of the nearest.
            beyond: minimum distance in pixels of the region from the point.
        """
        distances = sorted(math.hypot(self.x[i] - x, self.y[i] - y) for i in members(bits))
        if len(distances) < 2:
            return None
        if far:
            return Region("distance", low=sum(distances[-2:]) / 2, point=(x, y))
        return Region("distance", low=beyond, high=sum(distances[:2]) / 2, point=(x, y))

    def distance(self, i: int, j: int) -> float:
        """Return the distance between the centres of two objects in pixels."""
        return math.hypot(self.x[i] - self.x[j], self.y[i] - self.y[j])

    def from_centre(self, i: int) -> float:
        """Return the distance of an object's centre from the image centre in pixels."""
        return math.hypot(self.x[i] - self.width / 2, self.y[i] - self.height / 2)

    def holds(self, direction: str, i: int, j: int) -> bool:
        """Return whether object i is clearly in this direction from j.

        The distance along the direction is at least the margin, and at least half of the distance across it.
        """
        dx, dy = abs(self.x[i] - self.x[j]), abs(self.y[i] - self.y[j])
        along, across = (dx, dy) if direction in ("left", "right") else (dy, dx)
        key = self.towards(direction)
        return key(j) - key(i) >= self.margin and along >= 0.5 * across

    def fails(self, direction: str, i: int, j: int) -> bool:
        """Return whether object i is on the opposite side of j by at least the margin."""
        key = self.towards(direction)
        return key(i) - key(j) >= self.margin

    def clearly_bigger(self, i: int, j: int) -> bool:
        """Return whether object i is larger than j by `SIZE_RATIO`, in radius and in area."""
        return self.radius[i] >= SIZE_RATIO * self.radius[j] and self.area[i] >= SIZE_RATIO * self.area[j]

    def random_focus(self) -> int:
        """Draw a possible target."""
        return pick(self.rng, self.focus)
