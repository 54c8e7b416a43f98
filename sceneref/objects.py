"""Objects of SceneRef: twelve shapes, two sizes, four patterns, and their antialiased pixel coverage.

A shape is a polygon with an optional hole in a unit frame (x right, y down) with a radius of about 1. To place it, the
polygon is rotated, scaled, and moved so that the centre of its bounding box is the object's centre.
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

#: Range of an object's radius by size name, as a share of the image's shorter side.
RADII: dict[str, tuple[float, float]] = {"small": (0.05, 0.09), "large": (0.11, 0.16)}
#: Number of variants of each shape (aspect ratio, depth of the notches, width of the arms).
FORMS = 8
#: Minimum radius of a patterned object in pixels, below which the pattern is not visible.
MIN_PATTERN_RADIUS = 8.0
#: Up to this radius in pixels, coverage is computed from 8 x 8 samples per pixel, above it from 4 x 4.
_FINE_RADIUS = 12.0

Points = NDArray[np.float64]


@dataclass(frozen=True)
class SceneObject:
    """One rendered object.

    Attributes:
        shape: one of `SHAPES`.
        colour: one of `sceneref.colours.COLOURS`.
        size: "small" or "large" (see `RADII`).
        pattern: one of `PATTERNS`.
        radius: nominal radius in pixels.
        centre: (x, y) in pixels, centre of the bounding box of the full (unoccluded) shape; pixel i covers [i, i + 1).
        rotation: clockwise rotation in degrees.
        form: variant of the shape, 0 <= form < `FORMS`.
        rgb: main fill colour, three values in [0, 255].
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
    """Pixel coverage of an object's full shape inside its bounding patch.

    Attributes:
        x, y: first column and row of the patch in the image; at least -1.
        values: (h, w) uint8 coverage, 0 outside the shape, 255 for fully covered pixels.
        hard: (h, w) bool mask of the pixels that are at least half covered.
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
    """Return the polygon of a shape in its unit frame.

    Args:
        shape: one of `SHAPES`.
        form: variant, 0 <= form < `FORMS`.

    Returns:
        The (N, 2) outline and the (M, 2) hole or None; x right, y down, radius about 1. Cached: do not modify in place.

    Raises:
        ValueError: unknown shape.
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
    """Return the largest rotation in degrees, in both directions, at which a shape keeps its name.

    A square rotated by 45 degrees, for example, is a diamond.
    """
    if shape == "square":
        return 16.0
    if shape == "heart":
        return 40.0
    if shape == "diamond":
        return 180.0 if form <= 2 else 9.0
    return 180.0


@cache
def unit_area(shape: str, form: int) -> float:
    """Return the area of a shape of radius 1."""

    def area(points: Points) -> float:
        x, y = points[:, 0], points[:, 1]
        return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2

    outline, hole = unit_polygon(shape, form)
    return area(outline) - (area(hole) if hole is not None else 0.0)


def rotated_polygon(shape: str, form: int, rotation: float, radius: float) -> tuple[Points, Points | None, Points]:
    """Return a shape rotated, scaled, and centred on its bounding box.

    Args:
        shape: one of `SHAPES`.
        form: variant, 0 <= form < `FORMS`.
        rotation: clockwise rotation in degrees.
        radius: radius in pixels.

    Returns:
        The (N, 2) outline, the (M, 2) hole or None, and the (2,) half extents (half of width and height), in pixels.
    """
    outline, hole = unit_polygon(shape, form)
    angle = math.radians(rotation)
    turn = radius * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    outline = outline @ turn
    low, high = outline.min(axis=0), outline.max(axis=0)
    middle = (low + high) / 2
    return outline - middle, None if hole is None else hole @ turn - middle, (high - low) / 2


def placed_polygon(item: SceneObject) -> tuple[Points, Points | None]:
    """Return the (N, 2) outline and the (M, 2) hole or None of an object, (x, y) in pixels of the image."""
    outline, hole, _ = rotated_polygon(item.shape, item.form, item.rotation, item.radius)
    centre = np.array(item.centre)
    return outline + centre, None if hole is None else hole + centre


def _unbiased_values(scale: int) -> list[int]:
    """Return a lookup table that corrects the coverage of partially covered pixels.

    Pillow fills every sample that a polygon's edge touches, half a sample too many.
    """
    surplus = round(255 * 0.5 / scale)
    return [0, *(max(0, value - surplus) for value in range(1, 255)), 255]


_UNBIASED_VALUES = {scale: _unbiased_values(scale) for scale in (4, 8)}


def _flat_coordinates(points: Points, corner: Points, scale: int) -> list[Any]:
    flat: list[Any] = ((points - corner) * scale).ravel().tolist()
    return flat


def object_coverage(item: SceneObject) -> Coverage:
    """Compute the share of each pixel that the object's full shape covers."""
    scale = 8 if item.radius <= _FINE_RADIUS else 4
    outline, hole = placed_polygon(item)
    corner = np.floor(outline.min(axis=0)) - 1
    width, height = (np.ceil(outline.max(axis=0)) + 1 - corner).astype(int)
    canvas = Image.new("L", (int(width) * scale, int(height) * scale))
    draw = ImageDraw.Draw(canvas)
    draw.polygon(_flat_coordinates(outline, corner, scale), fill=255)
    if hole is not None:  # one sample smaller, since the bias of a hole has the opposite sign
        middle = hole.mean(axis=0)
        reach = float(np.hypot(*(hole[0] - middle)))
        hole = middle + (hole - middle) * max(0.0, 1 - 1 / (scale * reach))
        draw.polygon(_flat_coordinates(hole, corner, scale), fill=0)
    values = np.asarray(canvas.reduce(scale).point(_UNBIASED_VALUES[scale]))
    return Coverage(int(corner[0]), int(corner[1]), values, values >= 128)


def edge_coverage(item: SceneObject, coverage: Coverage, width: float) -> NDArray[np.uint8]:
    """Compute the coverage of a line along the object's edges, in the patch of `coverage`.

    Args:
        item: the object.
        coverage: coverage of the object.
        width: line width in pixels; half of it is inside the shape.

    Returns:
        (h, w) uint8 coverage, 0 to 255, not clipped to the shape.
    """
    height, columns = coverage.values.shape
    scale = 2
    canvas = Image.new("L", (columns * scale, height * scale))
    draw = ImageDraw.Draw(canvas)
    corner = np.array([coverage.x, coverage.y], dtype=np.float64)
    for points in placed_polygon(item):
        if points is not None:
            flat = _flat_coordinates(points, corner, scale)
            draw.line(flat + flat[:4], fill=255, width=max(1, round(width * scale)), joint="curve")
    return np.asarray(canvas.reduce(scale))
