"""Boundary IoU: by hand, and against erosion pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refersam.metrics import PROTOCOLS, SampleResult, summarise
from refersam.metrics.boundary import boundary_distance, boundary_region, compare_boundaries


def slow_region(mask: np.ndarray, distance: int) -> np.ndarray:
    """Return what so many erosions by a 3 x 3 square remove, one pixel after the other; outside are zeros."""
    kept = mask
    for _ in range(distance):
        padded = np.pad(kept, 1)
        kept = np.array(
            [[padded[y : y + 3, x : x + 3].all() for x in range(mask.shape[1])] for y in range(mask.shape[0])]
        ).reshape(mask.shape)
    return mask & ~kept


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    distance=st.integers(1, 6),
    density=st.sampled_from([0.5, 0.98, 1]),
)
def test_region_equals_repeated_erosion(height: int, width: int, distance: int, density: float) -> None:
    """Blobs, specks, masks up to the border, and full and empty ones."""
    rng = np.random.default_rng([height, width, distance])
    coarse = rng.random((-(-height // 4), -(-width // 4))) < 0.7
    mask = np.kron(coarse, np.ones((4, 4), bool))[:height, :width] & (rng.random((height, width)) < density)
    before = mask.copy()
    np.testing.assert_array_equal(boundary_region(mask, distance), slow_region(mask, distance))
    np.testing.assert_array_equal(mask, before)
    assert not boundary_region(np.zeros_like(mask), distance).any()


def test_by_hand() -> None:
    """A square of 10 x 10 pixels, and the same one pixel to the right, in 40 x 30 pixels: a distance of 1.

    Each boundary is a ring of 36 pixels. They share the two rows of 9 pixels at top and bottom: 18 of 54.
    """
    assert boundary_distance(30, 40) == 1  # 2 % of the diagonal of 50 pixels
    assert boundary_distance(480, 640) == 16
    assert boundary_distance(2, 2) == 1
    masks = np.zeros((2, 30, 40), bool)
    masks[0, 10:20, 10:20] = masks[1, 10:20, 11:21] = True
    assert compare_boundaries(masks[0], masks[1]) == (18, 54)
    assert compare_boundaries(masks[0], masks[0]) == (36, 36)
    assert compare_boundaries(masks[0], np.zeros((30, 40), bool)) == (0, 36)


def result(boundary: tuple[int, int] | None, has_target: bool = True, judged: bool = True) -> SampleResult:
    return SampleResult(5, 10, 5, has_target, judged, boundary=boundary)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sceneref", (0.25 + 0.75 + 1) / 3),  # empty boundaries as empty masks; the decision has no part in it
        ("ref-zom", (0.25 + 0.75 + 0) / 3),
        ("gres", (0.25 + 0 + 0) / 3),  # judged to have no target: 0, as its IoU
    ],
)
def test_mean_over_phrases_with_a_target(name: str, expected: float) -> None:
    """Other metrics stay as they are, and without boundaries there is no mBIoU."""
    results = [result((1, 4)), result((3, 4), judged=False), result((0, 0)), result((0, 9), has_target=False)]
    metrics = summarise(PROTOCOLS[name], results)
    assert metrics.pop("mBIoU") == pytest.approx(100 * expected)
    without = [result(None, each.has_target, each.judged_target) for each in results]
    assert summarise(PROTOCOLS[name], without) == metrics
