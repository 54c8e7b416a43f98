"""Shapes and norms of the spatial prior."""

from __future__ import annotations

import torch
from torch import nn

from refersam.model.spatial_prior import SpatialPrior


@torch.no_grad()
def test_spatial_prior_shapes_and_norms() -> None:
    """Widths n, 2n, 4n, 4n, projected to D; biases only in the projections; every norm has one group."""
    layer = SpatialPrior(channels=4, hidden_size=12)
    stride4, pyramid = layer(torch.randn(2, 3, 32, 64))
    assert stride4.shape == (2, 4, 8, 16)
    assert (stride4 >= 0).all()
    assert pyramid.shape == (2, 42, 12)
    convolutions = [module for module in layer.modules() if isinstance(module, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [4, 4, 4, 8, 16, 16, 12, 12, 12]
    assert [c.stride[0] for c in convolutions] == [2, 1, 1, 2, 2, 2, 1, 1, 1]
    assert [c.bias is not None for c in convolutions] == [False] * 6 + [True] * 3
    norms = [module for module in layer.modules() if isinstance(module, nn.GroupNorm)]
    assert {(norm.num_groups, norm.eps) for norm in norms} == {(1, 1e-6)}
