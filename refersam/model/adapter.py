"""Exchange between SAM's ViT and the pyramid (ViT-Adapter): injection into the ViT and extraction from it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import initialization as init

from refersam.model.deformable_attention import DeformableAttention
from refersam.model.fast.chunks import in_chunks
from refersam.model.pyramid import NUM_LEVELS, PyramidGeometry

NORM_EPS = 1e-6


class Injector(nn.Module):
    """v <- v + gamma * DeformableAttention(LN(v) -> pyramid).

    Args:
        hidden_size: ViT width D.
        num_heads: heads of the deformable attention.
        num_points: sampling points per head and level.
        value_ratio: width of the projected values as a share of D.
        gate_init: initial value of gamma.
    """

    def __init__(
        self, *, hidden_size: int, num_heads: int, num_points: int, value_ratio: float, gate_init: float
    ) -> None:
        super().__init__()
        self.gate_init = gate_init
        self.query_norm = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.attention = DeformableAttention(
            hidden_size=hidden_size,
            num_heads=num_heads,
            num_levels=NUM_LEVELS,
            num_points=num_points,
            value_ratio=value_ratio,
        )
        self.gate = nn.Parameter(torch.empty(hidden_size))

    def reset_parameters(self) -> None:
        """Initialise the gate."""
        init.constant_(self.gate, self.gate_init)

    def forward(self, patches: Tensor, pyramid: Tensor, geometry: PyramidGeometry) -> Tensor:
        """Inject (B, L, D) pyramid tokens into (B, h * w, D) ViT tokens; return the new ViT tokens."""
        injected = self.attention(
            self.query_norm(patches), pyramid, geometry.grid_reference_points, geometry.level_sizes
        )
        return torch.addcmul(patches, self.gate, injected)


class Extractor(nn.Module):
    """p <- LN(p + DeformableAttention(p -> LN(v))).

    Args:
        hidden_size: ViT width D.
        num_heads: heads of the deformable attention.
        num_points: sampling points per head.
        value_ratio: width of the projected values as a share of D.
    """

    def __init__(self, *, hidden_size: int, num_heads: int, num_points: int, value_ratio: float) -> None:
        super().__init__()
        self.value_norm = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.attention = DeformableAttention(
            hidden_size=hidden_size, num_heads=num_heads, num_levels=1, num_points=num_points, value_ratio=value_ratio
        )
        self.output_norm = nn.LayerNorm(hidden_size, eps=NORM_EPS)

    def forward(self, pyramid: Tensor, patches: Tensor, geometry: PyramidGeometry) -> Tensor:
        """Extract (B, h * w, D) ViT tokens into (B, L, D) pyramid tokens; return the new pyramid."""
        extracted = self.attention(pyramid, self.value_norm(patches), geometry.reference_points, (geometry.grid_size,))
        return in_chunks(self._add_and_norm, (pyramid, extracted), width=pyramid.shape[2], out=extracted)

    def _add_and_norm(self, pyramid: Tensor, extracted: Tensor) -> Tensor:
        return self.output_norm(pyramid + extracted)
