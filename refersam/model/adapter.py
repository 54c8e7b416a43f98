"""The two ways between SAM's ViT and the pyramid (ViT-Adapter): inject into the ViT, extract from it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refersam.model.blocks import in_blocks
from refersam.model.deformable_attention import DeformableAttention
from refersam.model.pyramid import NUM_LEVELS, PyramidGeometry

NORM_EPS = 1e-6


class Injector(nn.Module):
    """v <- v + gamma * DeformableAttention(LN(v) -> pyramid)."""

    def __init__(self, *, hidden_size: int, num_heads: int, num_points: int, value_ratio: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.attention = DeformableAttention(
            hidden_size=hidden_size,
            num_heads=num_heads,
            num_levels=NUM_LEVELS,
            num_points=num_points,
            value_ratio=value_ratio,
        )
        self.gate = nn.Parameter(torch.empty(hidden_size))

    def forward(self, patches: Tensor, pyramid: Tensor, geometry: PyramidGeometry) -> Tensor:
        """(B, h * w, D) ViT tokens and (B, L, D) pyramid -> (B, h * w, D) ViT tokens."""
        injected = self.attention(
            self.query_norm(patches), pyramid, geometry.grid_reference_points, geometry.level_sizes
        )
        return torch.addcmul(patches, self.gate, injected)


class Extractor(nn.Module):
    """p <- LN(p + DeformableAttention(p -> LN(v)))."""

    def __init__(self, *, hidden_size: int, num_heads: int, num_points: int, value_ratio: float) -> None:
        super().__init__()
        self.value_norm = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.attention = DeformableAttention(
            hidden_size=hidden_size, num_heads=num_heads, num_levels=1, num_points=num_points, value_ratio=value_ratio
        )
        self.output_norm = nn.LayerNorm(hidden_size, eps=NORM_EPS)

    def forward(self, pyramid: Tensor, patches: Tensor, geometry: PyramidGeometry) -> Tensor:
        """(B, L, D) pyramid and (B, h * w, D) ViT tokens -> (B, L, D) pyramid."""
        extracted = self.attention(pyramid, self.value_norm(patches), geometry.reference_points, (geometry.grid_size,))
        return in_blocks(self._add, (pyramid, extracted), width=pyramid.shape[2], out=extracted)

    def _add(self, pyramid: Tensor, extracted: Tensor) -> Tensor:
        return self.output_norm(pyramid + extracted)
