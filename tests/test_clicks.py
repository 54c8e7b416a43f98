"""Simulated clicks and boxes, against slow twins and cases worked out by hand."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refersam.clicks import MAX_BOX_NOISE, depths, next_clicks, noisy_boxes


def slow_depth(mask: np.ndarray) -> np.ndarray:
    """Each pixel's distance to the nearest one outside, pixel by pixel, with a frame around the image."""
    framed = np.pad(mask, 1)
    outside = np.argwhere(~framed)
    result = np.zeros(framed.shape)
    for place in np.argwhere(framed):
        result[tuple(place)] = np.sqrt(((outside - place) ** 2).sum(axis=1).min())
    return result[1:-1, 1:-1]


def masks(*images: list[str]) -> torch.Tensor:
    """Masks from rows of '#' and '.'."""
    return torch.tensor([[[character == "#" for character in row] for row in image] for image in images])


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 14), width=st.integers(1, 14), share=st.floats(0, 1))
def test_depths_equal_the_slow_twin(seed: int, height: int, width: int, share: float) -> None:
    """On random masks of any size, empty and full ones too."""
    mask = np.random.default_rng(seed).random((3, height, width)) < share
    mask[1] = True
    found = depths(torch.from_numpy(mask))
    for ours, one in zip(found, mask, strict=True):
        np.testing.assert_allclose(ours, slow_depth(one), rtol=1e-6)


def test_clicks_by_hand() -> None:
    """In the middle of what is missing, of what is too much, of the larger of two; none on a right mask."""
    truth = masks(["#######", "#######", "#######", ".......", "......."])
    left = masks(["###....", "###....", "###....", ".......", "......."])
    below = masks(["#######", "#######", "#######", ".......", "##....."])
    right_and_more = masks(["##.....", "##.....", "##.....", ".......", "#......"])
    points, labels = next_clicks(torch.cat([left, below, right_and_more, truth]), truth.expand(4, -1, -1))
    assert labels.tolist() == [1, 0, 1, -1]
    assert points[1].tolist() == [0, 4]
    assert points[0].tolist()[1] == points[2].tolist()[1] == 1
    assert points[0, 0] in (4, 5)
    assert points[2, 0] in (3, 4, 5)


def test_drawn_clicks_are_deep_in_the_error() -> None:
    """Anywhere in its inner half, the same for the same generator."""
    truth = torch.zeros(1, 30, 30, dtype=torch.bool)
    truth[:, 5:25, 5:25] = True
    nothing = torch.zeros_like(truth)
    found = set()
    for seed in range(30):
        points, labels = next_clicks(nothing, truth, 0.5, torch.Generator().manual_seed(seed))
        again, _ = next_clicks(nothing, truth, 0.5, torch.Generator().manual_seed(seed))
        assert torch.equal(points, again)
        assert labels.tolist() == [1]
        x, y = points[0].tolist()
        assert 9 <= x <= 20
        assert 9 <= y <= 20
        found.add((x, y))
    assert len(found) > 15
    assert next_clicks(nothing, truth)[0].tolist() in [[[x, y]] for x in (14.0, 15.0) for y in (14.0, 15.0)]


def test_boxes() -> None:
    """Around the mask, with noise of a tenth of each side, at most 20 pixels, inside the image; none for no mask."""
    truth = torch.zeros(3, 400, 500, dtype=torch.bool)
    truth[0, 100:140, 200:260] = True
    truth[1, 5:395, 2:490] = True
    draws = torch.stack([noisy_boxes(truth, torch.Generator().manual_seed(seed)) for seed in range(400)])
    small = draws[:, 0] - torch.tensor([200.0, 100, 259, 139])
    np.testing.assert_allclose(small.std(dim=0), [6, 4, 6, 4], rtol=0.15)
    assert small.mean(dim=0).abs().max() < 1
    large = draws[:, 1] - torch.tensor([2.0, 5, 489, 394])
    assert large.abs().max() <= MAX_BOX_NOISE
    assert draws[:, 1].amin() >= 0
    assert (draws[:, 1] <= torch.tensor([499.0, 399, 499, 399])).all()
    assert draws[:, 2].isnan().all()
