"""Mask overlays, clicks and contact sheets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from refersam.checks import check_number

OVERLAY_COLOUR = (255, 40, 120)
OVERLAY_OPACITY = 0.3
"""Low opacity, so that the colour of the object remains visible."""
_CLICK_COLOURS = {True: (24, 135, 66), False: (200, 30, 30)}
_BOX_COLOUR = (22, 105, 201)
_OUTLINE = 1 / 200  # of the image's longer side
_FONT_SIZE, _LINE, _MARGIN, _GAP = 14, 14, 5, 4  # pixels
_MAX_LINES = 4  # of a caption


def draw_overlay(
    image: Image.Image,
    mask: np.ndarray,
    colour: tuple[int, int, int] = OVERLAY_COLOUR,
    opacity: float = OVERLAY_OPACITY,
) -> Image.Image:
    """Tint and outline a mask in an image; pixels outside the mask stay unchanged.

    Args:
        image: RGB image, W x H.
        mask: (H, W) bool mask.
        colour: RGB colour, 0 to 255.
        opacity: opacity of the tint, 0 to 1.

    Raises:
        ValueError: `opacity` is out of range.
    """
    check_number("opacity", opacity, 0, 1)
    pixels = np.asarray(image, dtype=np.float32).copy()
    tint = np.array(colour, dtype=np.float32)
    pixels[mask] = (1 - opacity) * pixels[mask] + opacity * tint
    inside = mask
    for _ in range(math.ceil(_OUTLINE * max(image.size))):
        padded = np.pad(inside, 1)
        inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        if not inside.any():  # the outline covers the mask; stop early for very long images
            break
    pixels[mask & ~inside] = tint
    return Image.fromarray(pixels.round().astype(np.uint8))


def draw_overlays(image: Image.Image, layers: Iterable[tuple[np.ndarray, tuple[int, int, int]]]) -> Image.Image:
    """Overlay (mask, colour) pairs on an RGB image in order; masks are (H, W) bool."""
    for mask, colour in layers:
        if mask.any():
            image = draw_overlay(image, mask, colour)
    return image


def draw_clicks(
    image: Image.Image,
    points: Sequence[tuple[Sequence[float], bool]],
    boxes: Sequence[Sequence[float]] = (),
    corner: Sequence[float] | None = None,
) -> Image.Image:
    """Draw clicks and boxes: a green disc with a plus for a foreground click, a red one with a minus for background.

    Args:
        image: RGB image, W x H.
        points: pairs of (x, y) in pixels and whether the click is foreground.
        boxes: (left, top, right, bottom) of each box in pixels.
        corner: (x, y) of the first corner of an incomplete box.

    Returns:
        An annotated copy, or `image` itself without clicks and boxes.
    """
    if not (points or boxes or corner):
        return image
    image = image.copy()
    draw = ImageDraw.Draw(image)
    radius = max(4, round(max(image.size) / 60))
    bar = 0.55 * radius
    for left, top, right, bottom in boxes:
        draw.rectangle((left, top, right - 1, bottom - 1), outline=_BOX_COLOUR, width=max(1, radius // 3))
    if corner is not None:
        x, y = corner
        draw.line((x - radius, y, x + radius, y), fill=_BOX_COLOUR, width=max(2, radius // 3))
        draw.line((x, y - radius, x, y + radius), fill=_BOX_COLOUR, width=max(2, radius // 3))
    for (x, y), adds in points:
        circle = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(circle, fill=_CLICK_COLOURS[adds], outline="white", width=max(1, radius // 4))
        draw.line((x - bar, y, x + bar, y), fill="white", width=max(2, radius // 3))
        if adds:
            draw.line((x, y - bar, x, y + bar), fill="white", width=max(2, radius // 3))
    return image


def mask_image(mask: np.ndarray) -> Image.Image:
    """Convert an (H, W) mask, bool or 0 and 1, to a black image with a white mask."""
    return Image.fromarray(mask.astype(np.uint8) * np.uint8(255))


def contact_sheet(tiles: Sequence[tuple[str, Image.Image]], columns: int = 4, side: int = 256) -> Image.Image:
    """Arrange at least one (caption, image) pair on a sheet, each image fitted into a square of `side` pixels."""
    columns = min(columns, len(tiles))
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    captions = [_wrap(measure, caption, side - 2 * _MARGIN) for caption, _ in tiles]
    height = max(map(len, captions)) * _LINE + 2 * _MARGIN
    sheet = Image.new("RGB", (columns * side, -(-len(tiles) // columns) * (side + height)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (lines, (_, image)) in enumerate(zip(captions, tiles, strict=True)):
        x, y = index % columns * side, index // columns * (side + height)
        draw.multiline_text((x + _MARGIN + 1, y + _MARGIN), "\n".join(lines), fill="black", font_size=_FONT_SIZE)
        scale = (side - _GAP) / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        sheet.paste(image.resize(size), (x + (side - size[0]) // 2, y + height))
    return sheet


def _wrap(draw: ImageDraw.ImageDraw, text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font_size=_FONT_SIZE) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return [*lines[: _MAX_LINES - 1], lines[_MAX_LINES - 1] + " ..."] if len(lines) > _MAX_LINES else lines
