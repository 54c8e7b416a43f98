"""SAM's ViT layer against transformers' implementation."""

from __future__ import annotations

import pytest
import torch
from transformers.models.sam.modeling_sam import SamVisionEncoder, SamVisionLayer

from refersam.config import sam_vision_config
from refersam.model.vit import VisionEncoder, VisionLayer


def make_layer(window: int, dtype: torch.dtype = torch.float64) -> SamVisionLayer:
    """A layer of transformers with random weights of large variance, including relative positions."""
    config = sam_vision_config(24, 2, 3, [1], 128, 4, 16)
    config._attn_implementation = "sdpa"
    layer = SamVisionLayer(config, window).to(dtype)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("size", [(8, 8), (4, 8), (5, 7), (9, 3), (10, 10)], ids=str)
def test_layer_is_transformers_own(window: int, size: tuple[int, int]) -> None:
    """Windows with and without padding, and resized tables: output and all gradients."""
    layer = make_layer(window)
    patches = torch.randn(2, *size, 24, dtype=torch.float64, requires_grad=True)
    inputs = [patches, *layer.parameters()]
    expected, found = layer(patches), VisionLayer(layer)(patches)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weights = torch.randn_like(expected)
    for left, right in zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-8)


def test_layer_without_relative_positions_or_bias() -> None:
    """Both are options of SAM's configuration."""
    config = sam_vision_config(24, 2, 3, [1], 128, 4, 16)
    config._attn_implementation, config.use_rel_pos, config.qkv_bias = "sdpa", False, False
    for window in (0, 4):
        layer = SamVisionLayer(config, window).double()
        patches = torch.randn(1, 6, 5, 24, dtype=torch.float64)
        torch.testing.assert_close(VisionLayer(layer)(patches), layer(patches), rtol=1e-10, atol=1e-10)


def test_encoder_keeps_the_names_of_transformers() -> None:
    """Equal weights in equal order, and layers of our class."""
    config = sam_vision_config(24, 2, 3, [1], 128, 4, 16)
    config._attn_implementation = "sdpa"
    encoder = VisionEncoder(config)
    assert list(encoder.state_dict()) == list(SamVisionEncoder(config).state_dict())
    assert [type(layer) for layer in encoder.layers] == [VisionLayer, VisionLayer]
    assert [layer.window_size for layer in encoder.layers] == [4, 0]
