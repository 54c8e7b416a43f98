"""Multi-scale deformable attention in PyTorch, which runs on CPU, CUDA and MPS without compiled extensions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from refersam.model.fast import sampling
from refersam.model.pyramid import level_extents


class DeformableAttention(nn.Module):
    """Each query samples a few points per head and level around its reference point (Deformable DETR).

    Args:
        hidden_size: width of queries, values and output.
        num_heads: number of heads.
        num_levels: number of maps that values are sampled from.
        num_points: points per head and level.
        value_ratio: width of the projected values as a share of hidden_size.

    Raises:
        MissingExtraError: the environment variable `REFERSAM_TRITON` is 1, but deformops is not installed.
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
        self._kernel = sampling.triton_kernel()

    def reset_parameters(self) -> None:
        """Initialise: each head samples along its own direction, with equal weights of all samples."""
        init.zeros_(self.sampling_offsets.weight)
        init.copy_(self.sampling_offsets.bias, compass_offsets(self.num_heads, self.num_levels, self.num_points))
        init.zeros_(self.attention_weights.weight)
        init.xavier_uniform_(self.value_proj.weight)
        init.xavier_uniform_(self.output_proj.weight)

    def forward(
        self, query: Tensor, value: Tensor, reference_points: Tensor, level_sizes: tuple[tuple[int, int], ...]
    ) -> Tensor:
        """Sample and mix.

        Args:
            query: (B, N, hidden_size).
            value: (B, L, hidden_size), row-major tokens of the levels, concatenated.
            reference_points: (N, 2), (x, y) in [0, 1].
            level_sizes: (height, width) of each level.

        Returns:
            (B, N, hidden_size).

        Raises:
            ValueError: level_sizes is empty.
        """
        if not level_sizes:
            raise ValueError("level_sizes must name at least one level, but is empty.")
        layout = (self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(query).unflatten(2, (*layout, 2))  # (B, N, heads, levels, points, xy) in cells
        weights = sampling.softmax(self.attention_weights(query).unflatten(2, (self.num_heads, -1)))
        weights = weights.unflatten(3, layout[1:])  # (B, N, heads, levels, points), adding up to 1 per head
        values = self.value_proj(value).unflatten(2, (self.num_heads, -1))  # (B, L, heads, head width)
        # In float32, since half precision does not separate the cells of large maps.
        extents = level_extents(level_sizes, query.device)
        locations = reference_points[:, None, None, None] + offsets.float() / extents[:, None]
        mixed = sampling.sample(
            values, locations, weights, level_sizes, plain=sample_maps, kernel=self._kernel, width=query.shape[2]
        )
        return self.output_proj(mixed)


def sample_maps(values: Tensor, locations: Tensor, weights: Tensor, level_sizes: tuple[tuple[int, int], ...]) -> Tensor:
    """Sum bilinear samples of the levels' maps with weights; cells outside a map are zero.

    Args:
        values: (B, L, heads, head width), row-major cells of the levels, concatenated.
        locations: (B, N, heads, levels, points, 2), (x, y) in [0, 1], in float32.
        weights: (B, N, heads, levels, points).
        level_sizes: (height, width) of each level.

    Returns:
        (B, N, heads * head width).
    """
    batch, length, heads = locations.shape[:3]
    grids = (2 * locations - 1).to(values.dtype)  # range [-1, 1] of grid_sample
    sums = []
    for level, cells in enumerate(values.split([height * width for height, width in level_sizes], dim=1)):
        maps = cells.permute(0, 2, 3, 1).reshape(batch * heads, -1, *level_sizes[level])
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B * heads, N, points, xy)
        sampled = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        weight = weights[:, :, :, level].transpose(1, 2).flatten(0, 1).unsqueeze(1)  # (B * heads, 1, N, points)
        sums.append((sampled * weight).sum(dim=-1))  # (B * heads, head width, N)
    mixed = torch.stack(sums).sum(dim=0) if len(sums) > 1 else sums[0]
    return mixed.unflatten(0, (batch, heads)).permute(0, 3, 1, 2).reshape(batch, length, -1)


def compass_offsets(num_heads: int, num_levels: int, num_points: int) -> Tensor:
    """Return the initial bias of the offsets: each head has its own direction, point k lies at distance k.

    Returns:
        (heads * levels * points * 2,) offsets (x, y) in cells.
    """
    angle = torch.arange(num_heads, dtype=torch.float32) * (2 * math.pi / num_heads)
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
    direction = direction / direction.abs().amax(dim=-1, keepdim=True)  # on the square of radius 1
    distance = torch.arange(1, num_points + 1, dtype=torch.float32)
    offsets = direction[:, None, None, :] * distance[None, None, :, None]  # (heads, 1, points, xy)
    return offsets.expand(num_heads, num_levels, num_points, 2).flatten()
