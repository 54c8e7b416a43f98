"""Deformable attention against a slow reference implementation, for both ways of sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from twins import as_array, randomise, slow_deformable

from refersam.model.deformable_attention import DeformableAttention, compass_offsets
from refersam.model.pyramid import cell_centres


@pytest.mark.parametrize("sizes", [((4, 6), (2, 3), (1, 2)), ((3, 5),)])
@pytest.mark.parametrize("with_gradients", [True, False], ids=["samples maps", "gathers"])
@pytest.mark.parametrize("reach", [1.0, 20.0], ids=["near", "far outside"])
def test_deformable_attention_equals_the_reference(
    sizes: tuple[tuple[int, int], ...], with_gradients: bool, reach: float
) -> None:
    """Layouts of offsets, weights and heads, sampling and zero padding agree, for both ways of sampling."""
    layer = DeformableAttention(hidden_size=12, num_heads=3, num_levels=len(sizes), num_points=2, value_ratio=0.5)
    randomise(layer)
    length = sum(height * width for height, width in sizes)
    query, value, points = torch.randn(2, 7, 12), torch.randn(2, length, 12), torch.rand(7, 2)
    with torch.set_grad_enabled(with_gradients):
        layer.sampling_offsets.weight.data *= reach
        ours = layer(query, value, points, sizes).detach()
    with torch.no_grad():
        np.testing.assert_allclose(as_array(ours), slow_deformable(layer, query, value, points, sizes), atol=3e-5)


@torch.no_grad()
def test_deformable_attention_in_half_precision_stays_near() -> None:
    """Positions are computed in float32, weights and values rounded; a NaN value affects no other query."""
    sizes = ((16, 16), (8, 8))
    layer = DeformableAttention(hidden_size=16, num_heads=4, num_levels=2, num_points=4, value_ratio=0.5)
    randomise(layer)
    layer.bfloat16()  # both have the same rounded weights
    query, value = torch.randn(2, 9, 16).bfloat16(), torch.randn(2, 320, 16).bfloat16()
    points = torch.rand(9, 2)
    rounded = layer(query, value, points, sizes).float()
    exact = layer.float()(query.float(), value.float(), points, sizes)
    assert (rounded - exact).norm() <= 0.05 * exact.norm()
    query[0, 0] = torch.nan
    broken = layer(query.float(), value.float(), points, sizes)
    assert broken[0, 0].isnan().all()
    assert broken[0, 1:].isfinite().all()
    assert broken[1].isfinite().all()


@torch.no_grad()
def test_deformable_attention_of_cell_centres_without_offsets_is_the_identity() -> None:
    """With offsets 0 and identity projections, a cell's centre gives that cell."""
    layer = DeformableAttention(hidden_size=4, num_heads=2, num_levels=1, num_points=3, value_ratio=1.0)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    nn.init.eye_(layer.value_proj.weight)
    nn.init.eye_(layer.output_proj.weight)
    value = torch.randn(1, 15, 4)
    ours = layer(torch.randn(1, 15, 4), value, cell_centres((3, 5), torch.device("cpu")), ((3, 5),))
    torch.testing.assert_close(ours, value, atol=1e-5, rtol=0)


def test_compass_offsets_by_hand() -> None:
    """Eight heads look east, south-east, south, ... at distance 1, 2 (y grows downwards), alike on every level."""
    compass = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    expected = [[[[x * distance, y * distance] for distance in (1, 2)] for _level in range(3)] for x, y in compass]
    offsets = compass_offsets(8, 3, 2).reshape(8, 3, 2, 2)
    torch.testing.assert_close(offsets, torch.tensor(expected, dtype=torch.float32), atol=1e-5, rtol=0)
