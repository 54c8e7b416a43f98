"""Low-contrast backgrounds: plain, gradient, noisy, textured and cluttered."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sceneref.colours import RGB, sample_background
from sceneref.sampling import between, pick, weighted

Floats = NDArray[np.float32]

KINDS: tuple[str, ...] = ("plain", "gradient", "noisy", "textured", "cluttered")


def paint_background(
    rng: np.random.Generator, width: int, height: int, fills: Sequence[RGB], difficulty: float
) -> tuple[Floats, Floats]:
    """Draw a background that contrasts with the objects' colours.

    Args:
        rng: random generator.
        width, height: size in pixels.
        fills: colours of the objects.
        difficulty: 0 to 1; 0 gives a plain background.

    Returns:
        The (H, W, 3) image and the (2, 3) colours it is blended from; float32, in [0, 255].
    """
    busy = difficulty
    kind = weighted(rng, KINDS, (0.34 + 1e-6, 0.2 * busy, 0.14 * busy, 0.16 * busy, 0.16 * busy))
    spread = {"plain": 0.0, "noisy": 12.0, "gradient": 70.0, "textured": 45.0, "cluttered": 60.0}[kind]
    first, second = sample_background(rng, fills, spread)
    a, b = first.astype(np.float32), second.astype(np.float32)
    tones = np.stack([a, b])
    if kind == "plain":
        return np.broadcast_to(a, (height, width, 3)).copy(), tones
    if kind == "gradient":
        weight = _gradient(rng, width, height)
    elif kind == "noisy":
        weight = _value_noise(rng, width, height, max(4, min(width, height) // 4))
    elif kind == "textured":
        weight = _texture(rng, width, height)
    else:
        weight = _clutter(rng, width, height)
    return _mix(a, b, weight), tones


def _mix(a: Floats, b: Floats, weight: Floats) -> Floats:
    """Blend two (3,) colours to (H, W, 3) with a weight in [0, 1] of shape (H, W), (1, W) or (H, 1)."""
    mixed: Floats = a + weight[..., None] * (b - a)
    return mixed


def _gradient(rng: np.random.Generator, width: int, height: int) -> Floats:
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    if rng.random() < 0.3:
        weight = np.sqrt(x**2 + y**2) * np.float32(math.sqrt(2))
    else:
        angle = between(rng, 0.0, 2 * math.pi)
        c, s = math.cos(angle), math.sin(angle)
        weight = (x * np.float32(c) + y * np.float32(s)) / np.float32(abs(c) + abs(s)) + np.float32(0.5)
    return np.asarray(np.clip(weight, 0, 1), dtype=np.float32)


def _value_noise(rng: np.random.Generator, width: int, height: int, cells: int) -> Floats:
    """Draw (H, W) value noise in [0, 1] with about `cells` grid cells along the shorter side."""
    scale = cells / min(width, height)
    columns, rows = max(2, round(width * scale)), max(2, round(height * scale))
    raw = np.frombuffer(rng.bytes(rows * columns), dtype=np.uint8).reshape(rows, columns)
    image = Image.fromarray(raw).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.float32) * np.float32(1 / 255)


def _texture(rng: np.random.Generator, width: int, height: int) -> Floats:
    kind = pick(rng, ("clouds", "lines", "grid", "weave", "speckle"))
    side = min(width, height)
    if kind == "clouds":
        fine = _value_noise(rng, width, height, max(8, side // 10))
        return np.float32(0.65) * _value_noise(rng, width, height, 5) + np.float32(0.35) * fine
    if kind == "speckle":
        return _value_noise(rng, width, height, side)
    period = side * between(rng, 0.03, 0.1)
    angle = between(rng, 0.0, math.pi)
    x = np.arange(width, dtype=np.float32)
    y = np.arange(height, dtype=np.float32)[:, None]
    c, s = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    along = (x * c + y * s) / np.float32(period)
    first = np.abs(along - np.floor(along) - np.float32(0.5)) * 2
    if kind == "lines":
        return np.asarray(first, dtype=np.float32)
    across = (y * c - x * s) / np.float32(period)
    second = np.abs(across - np.floor(across) - np.float32(0.5)) * 2
    if kind == "grid":
        return np.asarray(np.maximum(first, second) > 0.86, dtype=np.float32)
    return np.asarray(first * second, dtype=np.float32)


def _clutter(rng: np.random.Generator, width: int, height: int) -> Floats:
    """Draw (H, W) weights of thin lines, small dots and faint polygons."""
    side = min(width, height)
    weights = Image.new("L", (width, height), int(rng.random() * 60))
    draw = ImageDraw.Draw(weights)
    for _ in range(int(between(rng, 8, 40))):
        x, y = rng.random() * width, rng.random() * height
        tone = int(rng.random() * 255)
        kind = rng.random()
        if kind < 0.35:
            length, angle = between(rng, 0.1, 0.5) * side, between(rng, 0, 2 * math.pi)
            end = (x + length * math.cos(angle), y + length * math.sin(angle))
            draw.line((x, y, *end), fill=tone, width=1 + int(rng.random() * side / 128))
        elif kind < 0.75:
            r = between(rng, 0.004, 0.02) * side
            draw.ellipse((x - r, y - r, x + r, y + r), fill=tone)
        else:
            points = [
                (x + between(rng, -0.18, 0.18) * side, y + between(rng, -0.18, 0.18) * side)
                for _ in range(3 + int(rng.random() * 4))
            ]
            draw.polygon(points, fill=tone // 2)
    return np.asarray(weights, dtype=np.float32) * np.float32(1 / 255)
