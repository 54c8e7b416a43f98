"""Targets at a protocol's size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from refersam.data.regions import decode_region
from refersam.data.sample import ImageRecord, ReferringSample
from refersam.errors import DataError
from refersam.metrics import PROTOCOLS
from refersam.metrics.masks import encode_mask, resize_nearest, target_mask


def make_sample(regions: tuple, height: int, width: int) -> ReferringSample:
    """About an image that is never read."""
    return ReferringSample("1", "a phrase", ImageRecord("1", Path("none.png"), width, height), regions)


def rectangle(left: float, top: float, right: float, bottom: float) -> list[float]:
    """Its corners."""
    return [left, top, right, top, right, bottom, left, bottom]


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(sides=st.tuples(*[st.integers(1, 700)] * 4), seed=st.integers(0, 9))
def test_nearest_neighbour_takes_the_pixel_under_the_centre(sides: tuple[int, int, int, int], seed: int) -> None:
    """The slow twin is integer arithmetic: pixel i of n is pixel floor((i + 1/2) * m / n) of m."""
    height, width, new_height, new_width = sides
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    seen = resize_nearest(mask, new_height, new_width)
    rows, columns = (2 * np.arange(new_height) + 1) * height, (2 * np.arange(new_width) + 1) * width
    # Where a centre lies on the border of two pixels, rounding may choose either.
    allowed = [
        mask[(rows - on_row) // (2 * new_height)][:, (columns - on_column) // (2 * new_width)]
        for on_row in (0, 1)
        for on_column in (0, 1)
    ]
    assert np.any([seen == choice for choice in allowed], axis=0).all()


def test_nearest_neighbour_by_hand() -> None:
    """3 x 1 to 2 x 2: the centres are in the first and the third column."""
    assert resize_nearest(np.array([[True, True, False]]), 2, 2).tolist() == [[True, False]] * 2


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if PROTOCOLS[name].side is None])
def test_own_size(name: str) -> None:
    """The union of all regions."""
    regions = ([rectangle(0, 0, 1, 2)], encode_mask(np.array([[False, True, False], [False] * 3])))
    seen = target_mask(make_sample(regions, 2, 3), PROTOCOLS[name])
    assert seen.tolist() == [[True, True, False], [True, False, False]]


@pytest.mark.parametrize("name", ["lavt", "caris", "ref-zom"])
def test_fixed_size_by_nearest_neighbour(name: str) -> None:
    """Polygons too: rasterised at the image's size first, where a thin one fills its pixels or none."""
    side = PROTOCOLS[name].side
    sample = make_sample(([rectangle(0.9, 0, 2.2, 4)],), 4, 4)
    own = sample.load_mask()
    seen = target_mask(sample, PROTOCOLS[name])
    assert seen.shape == (side, side)
    assert np.array_equal(seen, np.kron(own, np.ones((side // 4, side // 4), dtype=bool)))


def test_gres_scales_polygons_before_it_rasterises() -> None:
    """A quarter of a pixel of a 4 x 4 image is 30 of 480 columns."""
    seen = target_mask(make_sample(([rectangle(1, 0, 1.25, 4)],), 4, 4), PROTOCOLS["gres"])
    assert np.flatnonzero(seen.any(axis=0)).tolist() == list(range(120, 150))
    assert seen[:, 120:150].all()


def test_gres_scales_width_and_height_apart() -> None:
    """An image of 2 wide and 8 high: the lower half of the left half."""
    seen = target_mask(make_sample(([rectangle(0, 4, 1, 8)],), 8, 2), PROTOCOLS["gres"])
    expected = np.zeros((480, 480), bool)
    expected[240:, :240] = True
    assert np.array_equal(seen, expected)


def test_gres_unites_polygons_and_run_lengths() -> None:
    """Of one object and of several; overlaps stay part of the target."""
    first = [rectangle(0, 0, 2, 2), rectangle(1, 0, 3, 2)]
    second = encode_mask(np.array([[False] * 3 + [True], [False] * 4]))
    seen = target_mask(make_sample((first, second), 2, 4), PROTOCOLS["gres"])
    expected = np.zeros((480, 480), bool)
    expected[:, :360] = True
    expected[:240, 360:] = True
    assert np.array_equal(seen, expected)


def test_gres_leaves_crowds_out_and_the_others_do_not() -> None:
    """A crowd is marked in its run lengths."""
    everything = encode_mask(np.ones((2, 2), bool))
    sample = make_sample((everything | {"iscrowd": 1}, encode_mask(np.array([[True, False], [False, False]]))), 2, 2)
    assert target_mask(sample, PROTOCOLS["gres"]).sum() == 240 * 240
    assert target_mask(sample, PROTOCOLS["original"]).sum() == 4
    assert target_mask(make_sample((everything | {"iscrowd": 0},), 2, 2), PROTOCOLS["gres"]).sum() == 480 * 480


def test_mask_images(tmp_path: Path) -> None:
    """By nearest neighbour for every fixed size."""
    path = tmp_path / "mask.png"
    Image.fromarray(np.array([[255, 0], [0, 0]], np.uint8)).save(path)
    for name in ("gres", "lavt"):
        seen = target_mask(make_sample((path,), 2, 2), PROTOCOLS[name])
        assert seen[:240, :240].all()
        assert seen.sum() == 240 * 240


def test_no_target_and_wrong_sizes() -> None:
    """Empty at the protocol's size; a mask of another size than its image's is an error."""
    assert target_mask(make_sample((), 2, 3), PROTOCOLS["original"]).tolist() == [[False] * 3] * 2
    assert target_mask(make_sample((), 2, 3), PROTOCOLS["gres"]).shape == (480, 480)
    with pytest.raises(DataError, match="3 x 2 pixels, but its image 2 x 2"):
        target_mask(make_sample((encode_mask(np.ones((2, 3), bool)),), 2, 2), PROTOCOLS["gres"])


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(shape=st.tuples(st.integers(1, 40), st.integers(1, 40)), seed=st.integers(0, 99))
def test_run_lengths_come_back(shape: tuple[int, int], seed: int) -> None:
    """Encoded and decoded."""
    mask = np.random.default_rng(seed).random(shape) < 0.3
    assert np.array_equal(decode_region(encode_mask(mask), *shape), mask)
