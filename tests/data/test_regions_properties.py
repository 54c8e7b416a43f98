"""Properties of decoded regions, and slow plain twins of run lengths and polygons."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refersam.data.regions import clean_region, decode_region
from refersam.data.sample import decode_regions
from refersam.errors import DataError
from refersam.metrics.masks import encode_mask

QUICK = settings(max_examples=100, deadline=None, derandomize=True, database=None)
HEIGHT, WIDTH = 13, 17


@st.composite
def run_lengths(draw: st.DrawFn) -> tuple[int, int, list[int]]:
    """Height, width, and runs that fill them; also runs of length 0, which no encoder makes."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    ends = sorted(draw(st.lists(st.integers(0, height * width), max_size=20)))
    return height, width, [end - start for start, end in itertools.pairwise([0, *ends, height * width])]


points = st.tuples(st.floats(-4, WIDTH + 4), st.floats(-4, HEIGHT + 4))
polygons = st.lists(points, min_size=3, max_size=7).map(lambda corners: [value for point in corners for value in point])


def slow_decode(height: int, width: int, runs: Sequence[int]) -> np.ndarray:
    """Pixel by pixel down the columns, the first run of False."""
    pixels = [index % 2 == 1 for index, run in enumerate(runs) for _ in range(run)]
    return np.array(pixels, bool).reshape(width, height).T


def slow_compress(runs: Sequence[int]) -> str:
    """COCO's string: differences to the run before the last, in groups of five bits, low ones first."""
    text = ""
    for index, run in enumerate(runs):
        number = run - runs[index - 2] if index > 2 else run
        while True:
            group, number = number & 31, number >> 5
            is_last = number == (-1 if group & 16 else 0)
            text += chr(48 + (group if is_last else group | 32))
            if is_last:
                break
    return text


def slow_decompress(text: bytes) -> list[int] | None:
    """The inverse; None for an invalid string."""
    runs: list[int] = []
    number = shift = 0
    for character in text:
        code = character - 48
        if not 0 <= code < 64:
            return None
        number |= (code & 31) << shift
        shift += 5
        if not code & 32:
            number -= (1 << shift) if code & 16 else 0
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    return runs if runs and not shift else None


def slow_polygon(polygon: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """By the even-odd rule at the pixels' centres; and which centres are farther than one pixel from the outline."""
    corners = np.array(polygon).reshape(-1, 2)
    inside = np.zeros((HEIGHT, WIDTH), bool)
    clear = np.ones((HEIGHT, WIDTH), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        length = (x1 - x0) ** 2 + (y1 - y0) ** 2
        for row, column in np.ndindex(HEIGHT, WIDTH):
            x, y = column + 0.5, row + 0.5
            if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
                inside[row, column] ^= True
            along = 0 if length == 0 else min(1, max(0, ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length))
            distance = np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0))
            clear[row, column] &= distance > 1
    return inside, clear


@QUICK
@given(run_lengths())
def test_run_lengths_equal_their_slow_twin(drawn: tuple[int, int, list[int]]) -> None:
    """As a list, and compressed by the twin as text and bytes."""
    height, width, runs = drawn
    expected = slow_decode(height, width, runs)
    text = slow_compress(runs)
    assert slow_decompress(text.encode()) == runs
    for counts in (runs, text, text.encode()):
        seen = decode_region({"size": [height, width], "counts": counts}, height, width)
        np.testing.assert_array_equal(seen, expected)
    encoded = encode_mask(expected)
    assert slow_decode(height, width, slow_decompress(encoded["counts"].encode()) or []).tolist() == expected.tolist()


@QUICK
@given(st.lists(st.integers(40, 115), max_size=12).map(bytes), st.integers(1, 8), st.integers(1, 8))
def test_any_string_is_decoded_as_by_the_twin_or_refused(counts: bytes, height: int, width: int) -> None:
    """A string is valid if its runs are not negative and fill the mask."""
    runs = slow_decompress(counts)
    raw = {"size": [height, width], "counts": counts}
    if runs is None or min(runs) < 0 or sum(runs) != height * width:
        with pytest.raises(DataError, match="do not make a mask"):
            clean_region(raw)
    else:
        np.testing.assert_array_equal(decode_region(raw, height, width), slow_decode(height, width, runs))


@QUICK
@given(run_lengths(), st.integers(0, 20), st.integers(-3, 3).filter(bool))
def test_runs_that_do_not_fill_the_mask_are_refused(drawn: tuple[int, int, list[int]], place: int, change: int) -> None:
    """One run too long or too short, as a list and compressed."""
    height, width, runs = drawn
    runs[place % len(runs)] += change
    for counts in (runs, slow_compress(runs)):
        with pytest.raises(DataError, match=r"must add up to|do not make a mask"):
            clean_region({"size": [height, width], "counts": counts})


@QUICK
@given(polygons)
def test_polygons_equal_their_slow_twin(polygon: list[float]) -> None:
    """Of any shape, self-crossing and beyond the border; within one pixel of the outline, rounding decides."""
    inside, clear = slow_polygon(polygon)
    assert not ((decode_region([polygon], HEIGHT, WIDTH) != inside) & clear).any()


@QUICK
@given(st.integers(0, WIDTH), st.integers(0, HEIGHT), st.integers(1, WIDTH), st.integers(1, HEIGHT), st.booleans())
def test_rectangles_are_exact(left: int, top: int, width: int, height: int, is_clockwise: bool) -> None:
    """Whole pixels, in either direction, from any corner, cut at the border."""
    corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[top : top + height, left : left + width] = True
    for start in range(4):
        turned = [*corners[start:], *corners[:start]][:: 1 if is_clockwise else -1]
        seen = decode_region([[value for corner in turned for value in corner]], HEIGHT, WIDTH)
        np.testing.assert_array_equal(seen, expected)


@QUICK
@given(st.lists(polygons, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_regions_are_unions(several: list[list[float]], shuffled: random.Random) -> None:
    """Polygons of one region, regions of one sample, in any order, and again after a round trip by run lengths."""
    expected = np.any([decode_region([polygon], HEIGHT, WIDTH) for polygon in several], axis=0)
    np.testing.assert_array_equal(decode_region(several, HEIGHT, WIDTH), expected)
    rles = [encode_mask(decode_region([polygon], HEIGHT, WIDTH)) for polygon in several]
    regions = [*rles, several]
    shuffled.shuffle(regions)
    for chosen in (rles, regions):
        np.testing.assert_array_equal(decode_regions(tuple(chosen), HEIGHT, WIDTH), expected)
    cleaned, dropped = clean_region([*several, [1.0, 2.0]])
    assert dropped == 1
    again, dropped = clean_region(cleaned)
    assert dropped == 0
    np.testing.assert_array_equal(decode_region(again, HEIGHT, WIDTH), expected)
