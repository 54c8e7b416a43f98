"""Rendering of a scene: background, objects in several styles, then lighting, noise, blur and JPEG artefacts.

The masks are already fixed by `Layout.instance_map`, and rendering moves no edges. All effects are weak enough that the
names of the colours stay valid.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from sceneref.background import Floats, paint_background
from sceneref.colours import NEUTRAL, RGB, lab_distances, to_lab
from sceneref.layout import Layout
from sceneref.objects import Coverage, SceneObject, edge_coverage
from sceneref.sampling import between, pick, weighted

#: Shapes with narrow parts, which a wide outline would cover.
_THIN = ("ring", "crescent", "bar", "arrow", "cross", "star")
#: Ranges of the gray value of patterns on achromatic colours.
_NEUTRAL_TONES: dict[str, tuple[tuple[float, float], ...]] = {
    "white": ((150.0, 185.0), (115.0, 140.0)),
    "black": ((80.0, 100.0), (105.0, 125.0)),
    "gray": ((45.0, 70.0), (205.0, 235.0)),
}


@dataclass(frozen=True)
class Style:
    """Rendering style of one image.

    Attributes:
        hard_edges: disable antialiasing.
        outline: "none", "dark" (a darker tone of the fill, or a lighter one on dark backgrounds) or "ink" (one colour
            for all objects).
        outline_width: width of the outline as a share of the radius.
        shading: "flat", "linear" or "round".
        shading_depth: maximum change of brightness across an object, 0 to 1.
        light: unit vector (x, y) towards the light source.
        shadow: opacity of the shadow, 0 to 1.
        gain: brightness factor of the whole image, about 1.
        falloff: brightness difference between two opposite sides of the image, 0 to 1.
        blur: radius in pixels for an image side of 256; 0 for none.
        noise: amplitude, 0 to 255.
        jpeg: JPEG quality; 0 for no compression.
    """

    hard_edges: bool
    outline: str
    outline_width: float
    shading: str
    shading_depth: float
    light: tuple[float, float]
    shadow: float
    gain: float
    falloff: float
    blur: float
    noise: float
    jpeg: int


def sample_style(rng: np.random.Generator, difficulty: float) -> Style:
    """Draw a style; uniform colours without effects are the most frequent one."""
    rich = rng.random() < 0.65 * difficulty
    angle = between(rng, 0.0, 2 * math.pi)

    def sometimes(chance: float) -> bool:
        return bool(rng.random() < chance) and rich

    return Style(
        hard_edges=bool(rng.random() < 0.25),
        outline=weighted(rng, ("none", "dark", "ink"), (0.4, 0.35, 0.25)) if rich else "none",
        outline_width=between(rng, 0.06, 0.16),
        shading=weighted(rng, ("flat", "linear", "round"), (0.4, 0.35, 0.25)) if rich else "flat",
        shading_depth=between(rng, 0.08, 0.24),
        light=(math.cos(angle), math.sin(angle)),
        shadow=between(rng, 0.15, 0.4) if sometimes(0.25) else 0.0,
        gain=between(rng, 0.88, 1.08) if sometimes(0.5) else 1.0,
        falloff=between(rng, 0.04, 0.16) if sometimes(0.3) else 0.0,
        blur=between(rng, 0.3, 0.9) if sometimes(0.25) else 0.0,
        noise=between(rng, 2.0, 16.0) if sometimes(0.4) else 0.0,
        jpeg=int(between(rng, 45, 92)) if sometimes(0.3) else 0,
    )


def render(layout: Layout, rng: np.random.Generator, difficulty: float) -> NDArray[np.uint8]:
    """Render the image of a layout.

    Args:
        layout: objects, coverages and instance map.
        rng: random generator.
        difficulty: visual complexity, 0 to 1; see `SceneRefSettings`.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    style = sample_style(rng, difficulty)
    height, width = layout.instance_map.shape
    canvas, tones = paint_background(rng, width, height, [item.rgb for item in layout.objects], difficulty)
    ink = _ink_colour(rng, tones) if style.outline == "ink" else None
    marks: dict[RGB, Floats] = {}
    outlines: dict[RGB, Floats] = {}
    for item, coverage in zip(layout.objects, layout.coverages, strict=True):
        if style.shadow:
            _cast_shadow(canvas, item, coverage, style)
        alpha = coverage.hard.astype(np.float32) if style.hard_edges else coverage.values * np.float32(1 / 255)
        if item.pattern != "plain" and item.rgb not in marks:
            marks[item.rgb] = _pattern_colour(rng, item, tones)
        if style.outline == "dark" and item.rgb not in outlines:
            outlines[item.rgb] = _outline_colour(rng, item, tones)
        colour = _paint_object(rng, item, coverage, style, marks.get(item.rgb), outlines.get(item.rgb, ink))
        rows, columns = coverage.values.shape
        patch = canvas[coverage.y : coverage.y + rows, coverage.x : coverage.x + columns]
        patch += alpha[..., None] * (colour - patch)
    return _finish(canvas, style, rng)


def _pick_contrasting(
    rng: np.random.Generator, options: NDArray[np.float64], others: NDArray[np.float64], least: float
) -> Floats:
    """Return one of the (N, 3) RGB options with a Lab distance of at least `least` from all (M, 3) others.

    If there is none, return the option with the largest distance.
    """
    distances = lab_distances(to_lab(options), to_lab(others)).min(axis=1)
    good = np.flatnonzero(distances >= least)
    index = int(pick(rng, good.tolist())) if len(good) else int(distances.argmax())
    return np.asarray(options[index], dtype=np.float32)


def _ink_colour(rng: np.random.Generator, tones: Floats) -> Floats:
    """Draw a dark or light outline colour for all objects that contrasts with the (2, 3) background colours."""
    options = np.array([[between(rng, 0, 45)] * 3, [between(rng, 215, 255)] * 3])
    return _pick_contrasting(rng, options, tones.astype(np.float64), 35.0)


def _cast_shadow(canvas: Floats, item: SceneObject, coverage: Coverage, style: Style) -> None:
    """Darken the object's shape, shifted away from the light and clipped at the image border, in place."""
    shift = 0.18 * item.radius + 1
    x, y = coverage.x - round(style.light[0] * shift), coverage.y - round(style.light[1] * shift)
    rows, columns = coverage.values.shape
    height, width = canvas.shape[:2]
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + columns, width), min(y + rows, height)
    if x0 < x1 and y0 < y1:
        alpha = coverage.values[y0 - y : y1 - y, x0 - x : x1 - x] * np.float32(style.shadow / 255)
        canvas[y0:y1, x0:x1] *= 1 - alpha[..., None]


def _paint_object(
    rng: np.random.Generator,
    item: SceneObject,
    coverage: Coverage,
    style: Style,
    marks: Floats | None,
    line: Floats | None,
) -> Floats:
    """Compute the colours of an object's patch: fill, pattern, shading and outline.

    Args:
        rng: random generator.
        item: the object.
        coverage: coverage of the object.
        style: rendering style.
        marks: (3,) colour of the pattern; None without pattern.
        line: (3,) colour of the outline; None without outline.

    Returns:
        (h, w, 3), or (3,) for a uniform patch.
    """
    colour: Floats = np.array(item.rgb, dtype=np.float32)
    rows, columns = coverage.values.shape
    u = np.arange(columns, dtype=np.float32) + np.float32(coverage.x + 0.5 - item.centre[0])
    v = np.arange(rows, dtype=np.float32)[:, None] + np.float32(coverage.y + 0.5 - item.centre[1])
    if item.pattern != "plain" and marks is not None:
        weight = _pattern(item, u, v, rng)
        if style.hard_edges:
            weight = np.round(weight)
        colour = colour + weight[..., None] * (marks - colour)
    if style.shading != "flat":
        depth = style.shading_depth * (0.45 if item.colour in NEUTRAL else 1.0)
        along = (u * style.light[0] + v * style.light[1]) / item.radius
        if style.shading == "round":
            lit_u, lit_v = u / item.radius - 0.35 * style.light[0], v / item.radius - 0.35 * style.light[1]
            along = 0.7 - np.sqrt(lit_u**2 + lit_v**2)
        light = np.float32(depth) * np.clip(along, -1, 1)
        brighter = np.float32(0.8) * np.maximum(light, 0)
        colour = colour * np.minimum(1 + light, np.float32(1))[..., None] + (255 - colour) * brighter[..., None]
    if line is not None and item.radius >= 5:
        share = style.outline_width * (0.5 if item.shape in _THIN else 1.0)
        edge = edge_coverage(item, coverage, 2 * max(1.0, share * item.radius)) * np.float32(1 / 255)
        if style.hard_edges:
            edge = np.round(edge)
        colour = colour + edge[..., None] * (line - colour)
    return colour


def _outline_colour(rng: np.random.Generator, item: SceneObject, tones: Floats) -> Floats:
    """Return a darker or lighter tone of the fill that contrasts with the background."""
    base = np.array(item.rgb, dtype=np.float64)
    options = np.stack([base * 0.6, base * 0.45, base + 0.35 * (255 - base)])
    if item.colour == "black":
        options = np.array([[60.0] * 3, [75.0] * 3, [95.0] * 3])
    return _pick_contrasting(rng, options, tones.astype(np.float64), 18.0)


def _pattern_colour(rng: np.random.Generator, item: SceneObject, tones: Floats) -> Floats:
    """Return the colour of an object's pattern.

    It is nearly white, nearly black or a much darker tone of the fill, so that the colour name stays unambiguous. It
    contrasts with the fill and with the background, so that the pattern does not look like holes.
    """
    base = np.array(item.rgb, dtype=np.float64)
    if item.colour in _NEUTRAL_TONES:
        options = np.array([[between(rng, *bounds)] * 3 for bounds in _NEUTRAL_TONES[item.colour]])
    else:
        light, dark = between(rng, 0.78, 1.0), between(rng, 0.15, 0.35)
        options = np.stack([base + light * (255 - base), base * dark, base * 0.5, base + 0.6 * (255 - base)])
    return _pick_contrasting(rng, options, np.concatenate([tones.astype(np.float64), base[None]]), 26.0)


def _pattern(item: SceneObject, u: Floats, v: Floats, rng: np.random.Generator) -> Floats:
    """Compute the (h, w) weight of the pattern's colour, in [0, 1].

    Args:
        item: the object.
        u: (w,) horizontal distances from the object's centre in pixels.
        v: (h, 1) vertical distances from the object's centre in pixels.
        rng: random generator.
    """
    angle = pick(rng, (0.0, 0.25, 0.5, 0.75)) * math.pi + math.radians(item.rotation)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    a, b = u * cos + v * sin, v * cos - u * sin
    if item.pattern == "striped":
        period = max(4.5, between(rng, 0.42, 0.6) * item.radius)
        duty = between(rng, 0.36, 0.46) if item.colour not in NEUTRAL else 0.36
        wave = 2 * np.abs(a / period - np.floor(a / period) - np.float32(0.5))
        return np.asarray(np.clip((wave - (1 - duty)) * (period / 2) + 0.5, 0, 1), dtype=np.float32)
    if item.pattern == "dotted":
        period = max(5.0, between(rng, 0.42, 0.56) * item.radius)
        a, b = a / period, b / period
        distance = period * np.sqrt((a - np.floor(a) - 0.5) ** 2 + (b - np.floor(b) - 0.5) ** 2)
        radius = between(rng, 0.24, 0.31) * period
        return np.asarray(np.clip(radius - distance + 0.5, 0, 1), dtype=np.float32)
    cell = max(3.0, between(rng, 0.32, 0.46) * item.radius)
    return np.asarray((np.floor(a / cell) + np.floor(b / cell)) % 2, dtype=np.float32)


def _finish(canvas: Floats, style: Style, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Apply lighting, noise, blur and JPEG compression; convert (H, W, 3) float to uint8."""
    height, width = canvas.shape[:2]
    if style.falloff:
        across = np.linspace(-0.5, 0.5, width, dtype=np.float32) * np.float32(style.light[0])
        down = np.linspace(-0.5, 0.5, height, dtype=np.float32) * np.float32(style.light[1])
        canvas *= np.float32(style.gain) + np.float32(style.falloff) * (across + down[:, None])[..., None]
    elif style.gain != 1.0:
        canvas *= np.float32(style.gain)
    if style.noise:
        raw = np.frombuffer(rng.bytes(canvas.size), dtype=np.int8).reshape(canvas.shape)
        canvas += raw * np.float32(style.noise / 128)
    canvas += np.float32(0.5)
    np.clip(canvas, 0, 255, out=canvas)
    pixels = canvas.astype(np.uint8)
    if not style.blur and not style.jpeg:
        return pixels
    image = Image.fromarray(pixels)
    if style.blur:
        image = image.filter(ImageFilter.GaussianBlur(style.blur * min(width, height) / 256))
    if style.jpeg:
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=style.jpeg, subsampling=0)
        image = Image.open(buffer)
    return np.array(image)
