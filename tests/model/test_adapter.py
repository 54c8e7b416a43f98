"""Injector and extractor against their formulas."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from twins import as_array, randomise, slow_deformable

from refersam.model.adapter import Extractor, Injector
from refersam.model.pyramid import PyramidGeometry

CPU = torch.device("cpu")
ADAPTER = {"hidden_size": 12, "num_heads": 3, "num_points": 2, "value_ratio": 0.5}


@torch.no_grad()
def test_injector_by_formula() -> None:
    """v + gamma * MSDA(LN(v) on the grid, pyramid); a closed gate changes nothing."""
    geometry = PyramidGeometry.of_image(32, 64, CPU)
    layer = Injector(**ADAPTER, gate_init=1.0)
    randomise(layer)
    patches, pyramid = torch.randn(2, 8, 12), torch.randn(2, 42, 12)
    query = F.layer_norm(patches, (12,), layer.query_norm.weight, layer.query_norm.bias, 1e-6)
    sampled = slow_deformable(layer.attention, query, pyramid, geometry.grid_reference_points, geometry.level_sizes)
    expected = as_array(patches) + as_array(layer.gate) * sampled
    np.testing.assert_allclose(as_array(layer(patches, pyramid, geometry)), expected, atol=2e-5)
    nn.init.zeros_(layer.gate)
    assert torch.equal(layer(patches, pyramid, geometry), patches)


@torch.no_grad()
def test_extractor_by_formula() -> None:
    """LN(p + MSDA(p on its own cell centres, LN(v)))."""
    geometry = PyramidGeometry.of_image(32, 64, CPU)
    layer = Extractor(**ADAPTER)
    randomise(layer)
    patches, pyramid = torch.randn(1, 8, 12), torch.randn(1, 42, 12)
    value = F.layer_norm(patches, (12,), layer.value_norm.weight, layer.value_norm.bias, 1e-6)
    sampled = slow_deformable(layer.attention, pyramid, value, geometry.reference_points, ((2, 4),))
    total = pyramid + torch.from_numpy(sampled).float()
    expected = F.layer_norm(total, (12,), layer.output_norm.weight, layer.output_norm.bias, 1e-6)
    torch.testing.assert_close(layer(pyramid, patches, geometry), expected, atol=1e-4, rtol=0)
