"""Multi-scale deformable attention in plain PyTorch: runs on CPU, CUDA and MPS, nothing to compile."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DeformableAttention(nn.Module):
    """Each query samples a few points per head and level around its reference point (Deformable DETR).

    Args:
        hidden_size: width of queries, values and output.
        num_heads: heads.
        num_levels: maps the values come from.
        num_points: points per head and level.
        value_ratio: width of the projected values as a share of hidden_size.
    """

    def __init__(
        self, *, hidden_size: int, num_heads: int, num_levels: int, num_points: int, value_ratio: float
    ) -> None:
        super().__init__()
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        value_size = int(hidden_size * value_ratio)
        self.sampling_offsets = nn.Linear(hidden_size, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(hidden_size, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(hidden_size, value_size)
        self.output_proj = nn.Linear(value_size, hidden_size)

    def forward(
        self, query: Tensor, value: Tensor, reference_points: Tensor, level_sizes: tuple[tuple[int, int], ...]
    ) -> Tensor:
        """Sample and mix.

        Args:
            query: (B, N, hidden_size).
            value: (B, L, hidden_size), the levels' tokens one after the other, row-major.
            reference_points: (N, 2), (x, y) in [0, 1].
            level_sizes: (height, width) of each level.

        Returns:
            (B, N, hidden_size).
        """
        batch, length = query.shape[:2]
        layout = (self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(query).unflatten(2, (*layout, 2))  # (B, N, heads, levels, points, xy)
        weights = self.attention_weights(query).unflatten(2, (self.num_heads, -1)).softmax(dim=-1)
        weights = weights.unflatten(3, layout[1:])  # (B, N, heads, levels, points)
        values = self.value_proj(value).unflatten(2, (self.num_heads, -1))  # (B, L, heads, head width)

        # Sampling is done at the precision of the coordinates: in half precision cells would be missed.
        extents = torch.tensor([[width, height] for height, width in level_sizes], device=query.device)
        locations = reference_points[:, None, None, None] + offsets.float() / extents[:, None]
        grids = (2 * locations - 1).to(values.dtype)  # grid_sample's range [-1, 1]

        mixed: Tensor | None = None
        for level, tokens in enumerate(values.split([height * width for height, width in level_sizes], dim=1)):
            maps = tokens.permute(0, 2, 3, 1).reshape(batch * self.num_heads, -1, *level_sizes[level])
            grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B * heads, N, points, xy)
            sampled = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            weight = weights[:, :, :, level].transpose(1, 2).flatten(0, 1).unsqueeze(1)  # (B * heads, 1, N, points)
            level_sum = (sampled * weight).sum(dim=-1)  # (B * heads, head width, N)
            mixed = level_sum if mixed is None else mixed + level_sum
        if mixed is None:
            raise ValueError("level_sizes must name at least one level, but is empty.")
        return self.output_proj(mixed.unflatten(0, (batch, -1)).permute(0, 3, 1, 2).reshape(batch, length, -1))


def compass_offsets(num_heads: int, num_levels: int, num_points: int) -> Tensor:
    """Start of the offsets' bias: each head looks in its own direction, point k at distance k.

    Returns:
        (heads * levels * points * 2,) offsets (x, y) in cells.
    """
    angle = torch.arange(num_heads, dtype=torch.float32) * (2 * math.pi / num_heads)
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
    direction = direction / direction.abs().amax(dim=-1, keepdim=True)  # on the square of radius 1
    distance = torch.arange(1, num_points + 1, dtype=torch.float32)
    offsets = direction[:, None, None, :] * distance[None, None, :, None]  # (heads, 1, points, xy)
    return offsets.expand(num_heads, num_levels, num_points, 2).flatten()
