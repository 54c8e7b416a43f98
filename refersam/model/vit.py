"""SAM's ViT, built from transformers' modules, with the same weight names."""

from __future__ import annotations

from typing import cast

from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.sam.configuration_sam import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionEncoder, SamVisionLayer

from refersam.model.fast import window_attention


class VisionLayer(GradientCheckpointingLayer):
    """SAM's ViT layer: v <- v + Attention(LN(v)), v <- v + MLP(LN(v)).

    The attention is global or in windows. A score is q k / sqrt(head width) + q r_y + q r_x, where r_y and r_x are
    embeddings of the distances between query and key in rows and in columns. `SamVisionLayer.forward` computes it by
    this formula, with a dense bias; `fast.window_attention` computes the same with less memory.

    Args:
        layer: transformers' layer, whose submodules are used.
    """

    def __init__(self, layer: SamVisionLayer) -> None:
        super().__init__()
        self.layer_norm1 = layer.layer_norm1
        self.attn = layer.attn
        self.layer_norm2 = layer.layer_norm2
        self.mlp = layer.mlp
        self.window_size = layer.window_size

    def forward(self, patches: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, h, w, D)."""
        patches = patches + window_attention.attend(self.attn, self.layer_norm1(patches), self.window_size)
        return patches + self.mlp(self.layer_norm2(patches))


class VisionEncoder(SamVisionEncoder):
    """SAM's image encoder with `VisionLayer`s.

    Args:
        config: sizes.
    """

    def __init__(self, config: SamVisionConfig) -> None:
        super().__init__(config)
        for index, layer in enumerate(self.layers):
            self.layers[index] = VisionLayer(cast(SamVisionLayer, layer))
