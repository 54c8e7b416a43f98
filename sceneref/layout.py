"""Layout of a scene: its objects and their positions.

The objects of a scene share a few shapes and colours, so that single words are often ambiguous. Objects are placed one
after another. A later object may occlude a part of an earlier one of another colour, as long as at least `MIN_VISIBLE`
of the earlier object's pixels stay visible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sceneref.colours import COLOURS, NEUTRAL, RGB, sample_palette
from sceneref.objects import (
    FORMS,
    MIN_PATTERN_RADIUS,
    PATTERNS,
    RADII,
    SHAPES,
    Coverage,
    SceneObject,
    object_coverage,
    rotated_polygon,
    rotation_limit,
)
from sceneref.sampling import between, pick, sample, weighted
from sceneref.settings import HELD_OUT_PAIRS, SceneRefSettings

#: Minimum visible share of an object's pixels.
MIN_VISIBLE = 0.72
_TRIES = 30


@dataclass
class Layout:
    """Objects with their pixel coverage and the instance map.

    Attributes:
        objects: objects in drawing order; later objects are on top.
        coverages: coverage of each object's full shape.
        instance_map: (H, W) int8, index of the visible object at each pixel, -1 for the background.
    """

    objects: list[SceneObject]
    coverages: list[Coverage]
    instance_map: NDArray[np.int8]

    def masks(self) -> NDArray[np.bool_]:
        """Return the (num_objects, H, W) bool masks of each object's visible pixels."""
        masks: NDArray[np.bool_] = self.instance_map[None] == np.arange(len(self.objects), dtype=np.int8)[:, None, None]
        return masks


def is_held_out(colour: str | None, shape: str | None) -> bool:
    """Return whether a colour and a shape are a held-out pair, which occurs in the split `compositional` only."""
    return (colour, shape) in HELD_OUT_PAIRS


def _vocabulary(rng: np.random.Generator, required: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Draw two to four colours and shapes for a scene, including those of the required pairs."""
    chosen = []
    for position, names in enumerate((COLOURS, SHAPES)):
        count = max(weighted(rng, (2, 3, 4), (0.3, 0.42, 0.28)), len(required))
        first = [pair[position] for pair in required]
        rest = [name for name in sample(rng, names, len(names)) if name not in first]
        chosen.append(first + rest[: count - len(first)])
    return chosen[0], chosen[1]


def _ordinary_pairs(colours: list[str], shapes: list[str]) -> list[tuple[str, str]]:
    return [(colour, shape) for colour in colours for shape in shapes if not is_held_out(colour, shape)]


def _sample_pairs(rng: np.random.Generator, count: int, compositional: bool) -> tuple[list[tuple[str, str]], list[str]]:
    """Draw the (colour, shape) of each object, and return them with the colours of the scene."""
    pairs: list[tuple[str, str]] = []
    if compositional:
        held = sample(rng, sorted(HELD_OUT_PAIRS), 2)
        colours, shapes = _vocabulary(rng, held)
        allowed = _ordinary_pairs(colours, shapes)
        pairs += [held[0]] * weighted(rng, (1, 2, 3), (0.35, 0.4, 0.25))
        if rng.random() < 0.45:
            pairs += [held[1]] * weighted(rng, (1, 2), (0.6, 0.4))
        pairs = pairs[: max(1, count - 1)]
    else:
        colours, shapes = _vocabulary(rng, [])
        allowed = _ordinary_pairs(colours, shapes)
    while len(pairs) < count:
        options = allowed
        if pairs and rng.random() < 0.7:  # share the colour, the shape or both with an existing object
            colour, shape = pick(rng, pairs)
            keep = rng.random()
            kept = [p for p in allowed if (p[0] == colour or keep >= 0.6) and (p[1] == shape or keep < 0.45)]
            options = kept or allowed
        pairs.append(pick(rng, options))
    return [pairs[int(i)] for i in rng.permutation(count)], colours


def _rotation(rng: np.random.Generator, mode: str, shape: str, form: int) -> float:
    limit = rotation_limit(shape, form)
    quarter = pick(rng, (0.0, 90.0, 180.0, -90.0)) if shape in ("bar", "arrow", "crescent") else 0.0
    if mode == "none":
        return quarter
    if mode == "slight":
        return quarter + between(rng, -15.0, 15.0)
    return between(rng, -limit, limit)


def _sample_patterns(rng: np.random.Generator, settings: SceneRefSettings) -> list[str]:
    """Draw the patterns of a scene; repetitions of "plain" give it half of the probability."""
    share = 0.5 * settings.difficulty if settings.patterned is None else settings.patterned
    if rng.random() > share:
        return ["plain"]
    kinds = sample(rng, PATTERNS[1:], weighted(rng, (1, 2, 3), (0.4, 0.4, 0.2)))
    return ["plain"] * len(kinds) + kinds


def _plan(settings: SceneRefSettings, compositional: bool, rng: np.random.Generator) -> list[SceneObject]:
    """Draw objects with all attributes except their positions."""
    spread = settings.max_objects - settings.min_objects + 1
    count = settings.min_objects + int(rng.random() ** 0.65 * spread)
    pairs, colours = _sample_pairs(rng, count, compositional)
    palette = sample_palette(rng, colours)
    patterns = _sample_patterns(rng, settings)
    mode = weighted(rng, ("none", "slight", "any"), (0.35, 0.2 * settings.difficulty, 0.45 * settings.difficulty))
    large = 0.5 if count <= 5 else 0.42 if count <= 7 else 0.32
    neutral = [name for name in colours if name in NEUTRAL]
    objects = []
    for colour, shape in pairs:
        size = "large" if rng.random() < large else "small"
        radius = between(rng, *RADII[size]) * settings.side
        form = int(rng.random() * FORMS)
        pattern = pick(rng, patterns) if radius >= MIN_PATTERN_RADIUS else "plain"
        if pattern == "checkered" and colour in NEUTRAL and len(neutral) > 1:
            pattern = "striped"  # the colour of a half black, half gray object would be ambiguous
        rotation = _rotation(rng, mode, shape, form)
        rgb = _jitter_colour(rng, palette[colour])
        objects.append(SceneObject(shape, colour, size, pattern, radius, (0.0, 0.0), rotation, form, rgb))
    return objects


def _jitter_colour(rng: np.random.Generator, rgb: RGB) -> RGB:
    """Change the brightness of a colour slightly, with probability 0.3."""
    if rng.random() < 0.7:
        return rgb
    shift = int(rng.random() * 9) - 4
    r, g, b = (min(255, max(0, value + shift)) for value in rgb)
    return r, g, b


class _Placer:
    """Place objects one after another.

    Args:
        settings: content of the scenes.
        rng: random generator.
        overlap: whether objects of different colours may occlude each other.
    """

    def __init__(self, settings: SceneRefSettings, rng: np.random.Generator, overlap: bool) -> None:
        self.settings, self.rng, self.overlap = settings, rng, overlap
        instance_map = np.full((settings.height, settings.width), -1, dtype=np.int8)
        self.layout = Layout([], [], instance_map)
        self.full: list[int] = []  # number of pixels of each object's full shape
        self.visible: list[int] = []  # number of visible pixels of each object
        self.cells: list[tuple[float, float]] = []
        if rng.random() < 0.25:
            self._make_cells()

    def _make_cells(self) -> None:
        width, height, side = self.settings.width, self.settings.height, self.settings.side
        columns, rows = max(2, width * 3 // side), max(2, height * 3 // side)
        cells = [((c + 0.5) * width / columns, (r + 0.5) * height / rows) for r in range(rows) for c in range(columns)]
        self.cells = sample(self.rng, cells, len(cells))

    def _centre(self, half: NDArray[np.float64]) -> tuple[float, float]:
        low_x, low_y = float(half[0]) + 1.0, float(half[1]) + 1.0
        high_x, high_y = self.settings.width - low_x, self.settings.height - low_y
        if self.cells:
            x, y = self.cells.pop()
            jitter = 0.05 * self.settings.side
            x, y = x + between(self.rng, -jitter, jitter), y + between(self.rng, -jitter, jitter)
            return min(max(x, low_x), high_x), min(max(y, low_y), high_y)
        return between(self.rng, low_x, high_x), between(self.rng, low_y, high_y)

    def _keeps_distance(self, item: SceneObject, centre: tuple[float, float], reach: float) -> bool:
        """Return whether the bounding circles of an object and of all placed ones do not overlap too much."""
        for other, coverage in zip(self.layout.objects, self.layout.coverages, strict=True):
            gap = math.hypot(centre[0] - other.centre[0], centre[1] - other.centre[1])
            other_reach = max(coverage.values.shape) * 0.5
            if gap >= reach + other_reach + 2:
                continue
            if not self.overlap or other.colour == item.colour:
                if gap < 1.1 * (reach + other_reach) + 2:
                    return False
            elif gap < max(0.95 * max(item.radius, other.radius), 0.62 * (item.radius + other.radius)):
                return False
        return True

    def place(self, item: SceneObject) -> bool:
        """Try to place an object on top of the others; return whether there was room for it."""
        outline, _, half = rotated_polygon(item.shape, item.form, item.rotation, item.radius)
        reach = float(np.sqrt((outline**2).sum(axis=1)).max())
        if 2 * float(half[0]) + 2 > self.settings.width or 2 * float(half[1]) + 2 > self.settings.height:
            return False
        for _ in range(_TRIES):
            centre = self._centre(half)
            if self._keeps_distance(item, centre, reach) and self._commit(replace(item, centre=centre)):
                return True
        return False

    def _commit(self, item: SceneObject) -> bool:
        coverage = object_coverage(item)
        height, width = coverage.values.shape
        x, y = coverage.x, coverage.y
        if x < 0 or y < 0 or x + width > self.settings.width or y + height > self.settings.height:
            return False
        pixels = int(coverage.hard.sum())
        if pixels < 4:
            return False
        patch = self.layout.instance_map[y : y + height, x : x + width]
        under = patch[coverage.hard]
        lost = np.bincount(under[under >= 0], minlength=len(self.full))
        for index, count in enumerate(lost.tolist()):
            if count and self.visible[index] - count < MIN_VISIBLE * self.full[index]:
                return False
        for index, count in enumerate(lost.tolist()):
            self.visible[index] -= count
        patch[coverage.hard] = len(self.full)
        self.full.append(pixels)
        self.visible.append(pixels)
        self.layout.objects.append(item)
        self.layout.coverages.append(coverage)
        return True


def sample_layout(settings: SceneRefSettings, split: str, rng: np.random.Generator) -> Layout:
    """Draw the objects of a scene and their positions.

    Raises:
        RuntimeError: no layout with `min_objects` objects was found, because the image is too small.
    """
    compositional = split == "compositional"
    for attempt in range(40):
        overlap = attempt < 3 and rng.random() < 0.55 * settings.difficulty
        plan = _plan(settings, compositional, rng)
        if attempt >= 6:
            plan = [_shrink(item, settings.side) for item in plan]
        placer = _Placer(settings, rng, overlap)
        for item in plan:
            placer.place(item)
        placed = placer.layout.objects
        if len(placed) < settings.min_objects:
            continue
        if compositional and not any(is_held_out(item.colour, item.shape) for item in placed):
            continue
        return placer.layout
    raise RuntimeError(
        f"No room for {settings.min_objects} objects in {settings.width} x {settings.height} pixels after 40 tries; "
        "lower min_objects or enlarge the image."
    )


def _shrink(item: SceneObject, side: int) -> SceneObject:
    """Return the object with a small size, for scenes with many objects."""
    radius = RADII["small"][0] * 1.2 * side
    pattern = item.pattern if radius >= MIN_PATTERN_RADIUS else "plain"
    return replace(item, size="small", radius=radius, pattern=pattern)
