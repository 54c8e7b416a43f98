"""Overlays and contact sheets, tested by pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from refersam.drawing import OVERLAY_COLOUR, contact_sheet, draw_clicks, draw_overlay


def test_overlay() -> None:
    """Unchanged outside, blended inside, the outline in full colour; the input image is not changed."""
    image = Image.new("RGB", (8, 6), (100, 100, 100))
    mask = np.zeros((6, 8), bool)
    mask[1:5, 1:6] = True
    pixels = np.asarray(draw_overlay(image, mask, colour=(200, 0, 50), opacity=0.5))
    assert pixels[0, 0].tolist() == [100, 100, 100]
    assert pixels[1, 1].tolist() == pixels[4, 5].tolist() == [200, 0, 50]
    assert pixels[2, 2].tolist() == [150, 50, 75]
    assert np.asarray(image)[2, 2].tolist() == [100, 100, 100]


def test_outline_is_as_wide_as_the_image_is_large() -> None:
    """A 200th of the longer side, so that it is visible on photographs; the outline is inside the mask."""
    image = Image.new("RGB", (600, 40), (100, 100, 100))
    mask = np.zeros((40, 600), bool)
    mask[10:30, 100:200] = True
    row = np.asarray(draw_overlay(image, mask, colour=(200, 0, 50), opacity=0.5))[20]
    assert row[99].tolist() == row[200].tolist() == [100, 100, 100]
    assert (row[[100, 101, 102, 197, 198, 199]] == (200, 0, 50)).all()
    assert (row[103:197] == (150, 50, 75)).all()


def test_overlay_of_nothing_is_the_image() -> None:
    """As for a no-target phrase."""
    image = Image.new("RGB", (8, 6), (1, 2, 3))
    np.testing.assert_array_equal(np.asarray(draw_overlay(image, np.zeros((6, 8), bool))), np.asarray(image))


def test_clicks_are_drawn_where_they_are() -> None:
    """A plus, a minus, a box's edge and a lone corner; the image that is given stays."""
    image = Image.new("RGB", (120, 90), (0, 0, 0))
    pixels = np.asarray(draw_clicks(image, [((30, 40), True), ((70, 40), False)], [(5, 60, 50, 80)], (100, 20)))
    white, green, red, blue = (255, 255, 255), (24, 135, 66), (200, 30, 30), (22, 105, 201)
    assert tuple(pixels[40, 30]) == tuple(pixels[40, 70]) == white
    assert tuple(pixels[38, 30]) == white  # the plus
    assert tuple(pixels[38, 70]) == red
    assert tuple(pixels[38, 28]) == green
    assert tuple(pixels[60, 5]) == tuple(pixels[79, 49]) == tuple(pixels[20, 100]) == blue
    assert tuple(pixels[80, 50]) == tuple(pixels[70, 25]) == (0, 0, 0)
    assert not np.asarray(image).any()
    assert draw_clicks(image, []) is image


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (4, 4, 1), (5, 4, 2), (9, 4, 3)])
def test_sheet_has_room_for_all(count: int, columns: int, rows: int) -> None:
    """Four per row, each with its caption."""
    tiles = [("phrase", Image.new("RGB", (20, 20), (255, 0, 0)))] * count
    sheet = contact_sheet(tiles, side=50)
    assert sheet.size == (columns * 50, rows * (50 + 24))
    pixels = np.asarray(sheet)
    assert (pixels[24 + 10, 25] == (255, 0, 0)).all()
    assert (pixels[0] == 255).all()


def test_sheet_keeps_proportions_and_wraps_captions() -> None:
    """Aspect ratios are kept; long captions are wrapped and finally truncated."""
    wide = Image.new("RGB", (200, 50), (255, 0, 0))
    short, long = contact_sheet([("a", wide)], side=100), contact_sheet([("word " * 15, wide), ("b", wide)], side=100)
    red = (np.asarray(short) == (255, 0, 0)).all(axis=2)
    assert (red.any(axis=0).sum(), red.any(axis=1).sum()) == (96, 24)
    assert long.height > short.height
    assert contact_sheet([("word " * 500, wide)], side=100).height == 100 + 4 * 14 + 10


@pytest.mark.timeout(10)
def test_the_outline_of_a_very_long_image() -> None:
    """A line of pixels is all outline, drawn in constant time."""
    drawn = draw_overlay(Image.new("RGB", (3_000_000, 1)), np.ones((1, 3_000_000), dtype=bool))
    assert drawn.getextrema() == tuple((value, value) for value in OVERLAY_COLOUR)
