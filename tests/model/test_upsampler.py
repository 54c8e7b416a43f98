"""Upsamplers: the guided filter against a regression per window, and the choice of the upsampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from refersam import ReferSamModel
from refersam.model.upsampler import BOUND, BilinearUpsampler, GuidedUpsampler


def plain_upsampling(logits: np.ndarray, guide: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """Compute (h, w) and (3, 4 h, 4 w) -> (4 h, 4 w) by one regression after another, in float64."""
    values = logits.astype(np.float64) / (1 + np.abs(logits) / BOUND)
    small = F.avg_pool2d(torch.from_numpy(guide.astype(np.float64)), 4).numpy()
    height, width = values.shape

    def window(row: int, column: int) -> tuple[slice, slice]:
        return (
            slice(max(row - radius, 0), row + radius + 1),
            slice(max(column - radius, 0), column + radius + 1),
        )

    lines = np.zeros((4, height, width))
    for row, column in np.ndindex(height, width):
        seen = window(row, column)
        colours, wanted = small[(slice(None), *seen)].reshape(3, -1), values[seen].reshape(-1)
        around = colours - colours.mean(axis=1, keepdims=True)
        covariance = around @ around.T / colours.shape[1] + epsilon * np.eye(3)
        slope = np.linalg.solve(covariance, around @ wanted / colours.shape[1])
        lines[:, row, column] = *slope, wanted.mean() - slope @ colours.mean(axis=1)
    means = np.stack(
        [
            lines[(slice(None), *window(row, column))].reshape(4, -1).mean(axis=1)
            for row, column in np.ndindex(height, width)
        ],
        axis=1,
    ).reshape(4, height, width)
    large = F.interpolate(torch.from_numpy(means)[None], scale_factor=4.0, mode="bilinear")[0].numpy()
    return (large[:3] * guide).sum(axis=0) + large[3]


@pytest.mark.parametrize("radius", [1, 2, 9])
def test_it_is_the_regression_in_every_window(radius: int) -> None:
    """Two images with three phrases each; windows that exceed the borders, and one larger than the map."""
    torch.manual_seed(0)
    logits, guides = 6 * torch.randn(6, 5, 7), torch.randn(2, 3, 20, 28)
    found = GuidedUpsampler(radius, 0.02)(logits, guides)
    for index in range(6):
        expected = plain_upsampling(logits[index].numpy(), guides[index // 3].numpy(), radius, 0.02)
        np.testing.assert_allclose(found[index].numpy(), expected, rtol=1e-4, atol=1e-4)


def test_a_mask_follows_the_edge_of_the_image() -> None:
    """A disk whose logits have each cell's share: bilinear upsampling blurs its edge, the guided filter does not."""
    y, x = np.mgrid[:128, :128]
    disk = torch.from_numpy((x - 61.3) ** 2 + (y - 66.7) ** 2 < 23.6**2)
    colours = torch.tensor([[-1.5, 0.3, 0.9], [1.0, -0.4, 0.8]])
    guide = torch.where(disk, colours[1][:, None, None], colours[0][:, None, None])[None]
    logits = 8 * F.avg_pool2d(disk.float()[None], 4) - 4 + 0.5 * torch.randn(1, 32, 32, generator=torch.manual_seed(0))
    bilinear = F.interpolate(logits[None], scale_factor=4.0, mode="bilinear")[0, 0] >= 0
    guided = GuidedUpsampler(2, 0.02)(logits, guide)[0] >= 0
    wrong = [int((mask != disk).sum()) for mask in (bilinear, guided)]
    assert wrong[0] > 20
    assert wrong[1] < wrong[0] / 10


def test_on_even_ground_it_only_smooths() -> None:
    """Without an edge, the mean of the windows' means, for any colour; logits are bounded."""
    logits = torch.full((1, 8, 8), 1000.0)
    found = GuidedUpsampler(2, 0.02)(logits, torch.full((1, 3, 32, 32), 2.0))
    assert found.max() - found.min() < 1e-3
    assert BOUND - 0.1 < found.mean() < BOUND


def test_gradients_pass_where_the_mask_is_sure_and_wrong() -> None:
    """The bound is soft: logits of -30 still have gradients."""
    logits = torch.full((1, 8, 8), -30.0, requires_grad=True)
    found = GuidedUpsampler(2, 0.02)(logits, torch.randn(1, 3, 32, 32))
    F.binary_cross_entropy_with_logits(found, torch.ones_like(found)).backward()
    assert logits.grad is not None
    assert (logits.grad < 0).float().mean() > 0.9
    assert logits.grad.sum() < -0.02


def test_dtype() -> None:
    """The result has half precision, computed in float32."""
    logits, guide = 3 * torch.randn(2, 8, 8), torch.randn(1, 3, 32, 32)
    exact = GuidedUpsampler(2, 0.02)(logits.bfloat16().float(), guide.bfloat16().float())
    found = GuidedUpsampler(2, 0.02)(logits.bfloat16(), guide.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, exact.bfloat16())


def test_bilinear_upsampling_aligns_corners() -> None:
    """Linear interpolation between the centres of the outermost cells; the guide has no effect."""
    logits = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    steps = torch.linspace(0, 1, 8)
    expected = 2 * steps[:, None] + steps[None]
    for guide in (None, torch.randn(1, 3, 8, 8)):
        torch.testing.assert_close(BilinearUpsampler()(logits, guide)[0], expected)


def test_the_guided_filter_needs_a_guide() -> None:
    """The error names the guide."""
    with pytest.raises(ValueError, match="needs the images as its guide, but guide is None"):
        GuidedUpsampler(2, 0.02)(torch.zeros(1, 8, 8), None)


def test_cached_features_keep_the_guide(small_config: Callable[..., Any]) -> None:
    """`encode_image` stores the images for the guided filter only; the two upsamplers give different masks."""
    model = ReferSamModel(small_config(guided_filter_radius=2)).eval()
    pixels, ids = torch.randn(2, 3, 64, 96), torch.randint(3, 50, (4, 5))
    with torch.no_grad():
        seen = model.encode_image(pixels)
        assert seen.guide is pixels
        direct, later = model(pixels, ids), model(None, ids, image_features=seen)
        torch.testing.assert_close(later.mask_logits, direct.mask_logits, atol=0, rtol=0)
        model.upsampler = BilinearUpsampler()
        assert model.encode_image(pixels).guide is None
        plain = model(pixels, ids)
    torch.testing.assert_close(plain.low_res_mask_logits, direct.low_res_mask_logits, atol=0, rtol=0)
    assert (plain.mask_logits - direct.mask_logits).abs().max() > 0.1 * plain.mask_logits.abs().max()


@pytest.mark.parametrize(
    "fields", [{"guided_filter_radius": -1}, {"guided_filter_epsilon": 0.0}, {"guided_filter_epsilon": float("nan")}]
)
def test_wrong_settings_are_refused(small_config: Callable[..., Any], fields: dict[str, Any]) -> None:
    """The error contains both values."""
    with pytest.raises(
        ValueError, match=r"guided_filter_(radius must be 0 or more.*they are|epsilon should be a finite number)"
    ):
        small_config(**fields)
