"""The things SceneRef draws: twelve shapes, two sizes, four patterns, and their exact coverage of the pixels.

A shape is a polygon in a unit frame (x right, y down), about one radius from its middle to its edge, with an
optional hole. Placing it rotates and scales the polygon and puts the middle of its bounding box on the object's centre,
so that "centre" always means the middle of what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SHAPES: tuple[str, ...] = (
    "circle", "square", "triangle", "star", "ring", "cross", "hexagon", "heart", "crescent", "diamond", "arrow", "bar",
)  # fmt: skip
SIZES: tuple[str, ...] = ("small", "large")
PATTERNS: tuple[str, ...] = ("plain", "striped", "dotted", "checkered")

#: Radius of an object as a share of the picture's shorter side, per size name.
RADII: dict[str, tuple[float, float]] = {"small": (0.05, 0.09), "large": (0.11, 0.16)}
#: Variants of each shape (aspect, depth of the notches, width of the arms).
FORMS = 8
#: A pattern on a smaller object (radius in pixels) could not be seen.
MIN_PATTERN_RADIUS = 8.0
#: Up to this radius, in pixels, coverage is measured on 8 x 8 points per pixel, above on 4 x 4.
_FINE_RADIUS = 12.0

Points = NDArray[np.float64]


@dataclass(frozen=True)
class SceneObject:
    """One drawn object.

    Attributes:
        shape: one of `SHAPES`.
        colour: one of `sceneref.colours.COLOURS`.
        size: "small" or "large" (see `RADII`).
        pattern: one of `PATTERNS`.
        radius: nominal radius in pixels.
        centre: (x, y) in pixels, the middle of the bounding box of the full (unoccluded) shape;
            pixel i covers [i, i + 1).
        rotation: degrees, clockwise as seen.
        form: variant of the shape, 0 <= form < `FORMS`.
        rgb: the main fill, three values in [0, 255].
    """

    shape: str
    colour: str
    size: str
    pattern: str
    radius: float
    centre: tuple[float, float]
    rotation: float
    form: int
    rgb: tuple[int, int, int]


@dataclass(frozen=True)
class Coverage:
    """How much of each pixel an object's full shape covers, inside its bounding patch.

    Attributes:
        x, y: the patch's first column and row in the picture; they may be negative by a pixel.
        values: (h, w) uint8, 0 = outside, 255 = wholly covered.
        hard: (h, w) bool, at least half covered: the mask.
    """

    x: int
    y: int
    values: NDArray[np.uint8]
    hard: NDArray[np.bool_]


def _arc(radius: float, start: float, stop: float, count: int, cx: float = 0.0) -> Points:
    angles = np.linspace(start, stop, count)
    return np.stack([cx + radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _regular(count: int, radius: float, phase: float) -> Points:
    angles = phase + 2 * np.pi * np.arange(count) / count
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star(t: float) -> Points:
    angles = -np.pi / 2 + np.pi * np.arange(10) / 5
    radii = np.where(np.arange(10) % 2 == 0, 1.2, 1.2 * (0.38 + 0.12 * t))
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _cross(t: float) -> Points:
    a, b = 0.26 + 0.12 * t, 1.05
    quarter = np.array([[a, -b], [a, -a], [b, -a]])
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    parts = [quarter]
    for _ in range(3):
        parts.append(parts[-1] @ turn)
    return np.concatenate(parts)


def _heart() -> Points:
    t = np.linspace(0, 2 * np.pi, 61)[:-1]
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y], axis=1) / 15.5


def _crescent(t: float) -> Points:
    inner, shift = 0.86, 0.40 + 0.14 * t
    x = (1 + shift**2 - inner**2) / (2 * shift)
    y = math.sqrt(1 - x * x)
    outer_angle, inner_angle = math.atan2(y, x), math.atan2(y, x - shift)
    outer = _arc(1.0, outer_angle, 2 * np.pi - outer_angle, 48)
    back = _arc(inner, 2 * np.pi - inner_angle, inner_angle, 32, cx=shift)
    return 1.12 * np.concatenate([outer, back[1:-1]])


def _arrow(t: float) -> Points:
    shaft, head, neck = 0.2 + 0.08 * t, 0.66 + 0.1 * t, 0.1 + 0.15 * t
    upper = np.array([[-1.15, -shaft], [neck, -shaft], [neck, -head], [1.15, 0.0]])
    lower = upper[:3][::-1] * np.array([1.0, -1.0])
    return np.concatenate([upper, lower])


@cache
def unit_polygon(shape: str, form: int) -> tuple[Points, Points | None]:
    """The polygon of a shape in its unit frame.

    Args:
        shape: one of `SHAPES`.
        form: variant, 0 <= form < `FORMS`.

    Returns:
        outline (N, 2) and hole (M, 2) or None; x right, y down, radius about 1. Do not change them in place.

    Raises:
        ValueError: for an unknown shape.
    """
    t = form / (FORMS - 1)
    circle = _regular(64, 1.0, 0.0)
    if shape == "ring":
        return circle, (0.5 + 0.18 * t) * circle
    if shape == "square":
        return 0.88 * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]), None
    if shape == "diamond":
        half = 0.68 + 0.38 * t
        return np.array([[0.0, -1.18], [half, 0.0], [0.0, 1.18], [-half, 0.0]]), None
    if shape == "bar":
        half = 0.26 + 0.16 * t
        return np.array([[-1.25, -half], [1.25, -half], [1.25, half], [-1.25, half]]), None
    makers: dict[str, Callable[[], Points]] = {
        "circle": lambda: circle,
        "triangle": lambda: _regular(3, 1.2, -np.pi / 2),
        "star": lambda: _star(t),
        "cross": lambda: _cross(t),
        "hexagon": lambda: _regular(6, 1.06, np.pi / 6 * (form % 2)),
        "heart": _heart,
        "crescent": lambda: _crescent(t),
        "arrow": lambda: _arrow(t),
    }
    if shape not in makers:
        raise ValueError(f"Unknown shape {shape!r}; expected one of {', '.join(SHAPES)}.")
    return makers[shape](), None


def rotation_limit(shape: str, form: int) -> float:
    """The largest rotation, degrees either way, at which a shape keeps its name (a turned square is a diamond)."""
    if shape == "square":
        return 16.0
    if shape == "heart":
        return 40.0
    if shape == "diamond":
        return 180.0 if form <= 2 else 9.0
    return 180.0


@cache
def unit_area(shape: str, form: int) -> float:
    """Area of the shape of radius 1, in squared radii."""

    def area(points: Points) -> float:
        x, y = points[:, 0], points[:, 1]
        return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2

    outline, hole = unit_polygon(shape, form)
    return area(outline) - (area(hole) if hole is not None else 0.0)


def turned_polygon(shape: str, form: int, rotation: float, radius: float) -> tuple[Points, Points | None, Points]:
    """A shape rotated and scaled about the middle of its bounding box.

    Returns:
        outline (N, 2), hole (M, 2) or None, and half extents (2,): half the width and height, all in pixels.
    """
    outline, hole = unit_polygon(shape, form)
    angle = math.radians(rotation)
    turn = radius * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    outline = outline @ turn
    low, high = outline.min(axis=0), outline.max(axis=0)
    middle = (low + high) / 2
    return outline - middle, None if hole is None else hole @ turn - middle, (high - low) / 2


def placed_polygon(item: SceneObject) -> tuple[Points, Points | None]:
    """Outline (N, 2) and hole (M, 2) or None of an object, (x, y) in picture pixels."""
    outline, hole, _ = turned_polygon(item.shape, item.form, item.rotation, item.radius)
    centre = np.array(item.centre)
    return outline + centre, None if hole is None else hole + centre


def _unbiased(scale: int) -> list[int]:
    """Pillow fills every point that a polygon's edge touches, half a point too many: takes that off partial pixels."""
    surplus = round(255 * 0.5 / scale)
    return [0, *(max(0, value - surplus) for value in range(1, 255)), 255]


_UNBIASED = {scale: _unbiased(scale) for scale in (4, 8)}


def _flat(points: Points, corner: Points, scale: int) -> list[Any]:
    flat: list[Any] = ((points - corner) * scale).ravel().tolist()
    return flat


def object_coverage(item: SceneObject) -> Coverage:
    """Measures which share of each pixel the full shape covers."""
    scale = 8 if item.radius <= _FINE_RADIUS else 4
    outline, hole = placed_polygon(item)
    corner = np.floor(outline.min(axis=0)) - 1
    width, height = (np.ceil(outline.max(axis=0)) + 1 - corner).astype(int)
    canvas = Image.new("L", (int(width) * scale, int(height) * scale))
    draw = ImageDraw.Draw(canvas)
    draw.polygon(_flat(outline, corner, scale), fill=255)
    if hole is not None:  # one point smaller: the hole's surplus is of the other sign
        middle = hole.mean(axis=0)
        reach = float(np.hypot(*(hole[0] - middle)))
        draw.polygon(_flat(middle + (hole - middle) * max(0.0, 1 - 1 / (scale * reach)), corner, scale), fill=0)
    values = np.asarray(canvas.reduce(scale).point(_UNBIASED[scale]))
    return Coverage(int(corner[0]), int(corner[1]), values, values >= 128)


def edge_coverage(item: SceneObject, coverage: Coverage, width: float) -> NDArray[np.uint8]:
    """Coverage of a line along the object's edges, in the patch of `coverage`.

    Args:
        width: pixels; half of it lies inside the shape.

    Returns:
        (h, w) uint8, 0 to 255; not yet restricted to the shape.
    """
    height, columns = coverage.values.shape
    scale = 2
    canvas = Image.new("L", (columns * scale, height * scale))
    draw = ImageDraw.Draw(canvas)
    corner = np.array([coverage.x, coverage.y], dtype=np.float64)
    for points in placed_polygon(item):
        if points is not None:
            flat = _flat(points, corner, scale)
            draw.line(flat + flat[:4], fill=255, width=max(1, round(width * scale)), joint="curve")
    return np.asarray(canvas.reduce(scale))
