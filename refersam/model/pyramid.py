"""Geometry of the feature pyramid: level sizes, reference points and positions, computed once per image size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import initialization as init

NUM_LEVELS = 3
"""Strides 8, 16 and 32."""


@dataclass(frozen=True)
class PyramidGeometry:
    """Sizes and coordinates of the tokens of one image.

    The pyramid is a sequence of the tokens of strides 8, 16 and 32 in that order, row-major: (B, L, D).

    Attributes:
        level_sizes: (height, width) of the levels.
        reference_points: (L, 2) cell centres (x, y) in (0, 1) of the pyramid's tokens.
        grid_reference_points: (h * w, 2) the same for the ViT's grid at stride 16.
    """

    level_sizes: tuple[tuple[int, int], ...]
    reference_points: Tensor
    grid_reference_points: Tensor

    @property
    def grid_size(self) -> tuple[int, int]:
        """(h, w) of the ViT's grid, stride 16: also the pyramid's middle level."""
        return self.level_sizes[1]

    @property
    def level_lengths(self) -> list[int]:
        """Tokens per level."""
        return [height * width for height, width in self.level_sizes]

    @classmethod
    def of_image(cls, height: int, width: int, device: torch.device) -> PyramidGeometry:
        """Return the geometry for an image of height x width pixels, both multiples of 32."""
        sizes = tuple((height // stride, width // stride) for stride in (8, 16, 32))
        centres = [cell_centres(size, device) for size in sizes]
        return cls(level_sizes=sizes, reference_points=torch.cat(centres), grid_reference_points=centres[1])

    def split(self, pyramid: Tensor) -> list[Tensor]:
        """Split a (B, L, D) pyramid into its levels, each (B, h_l * w_l, D)."""
        return list(pyramid.split(self.level_lengths, dim=1))

    def to_maps(self, pyramid: Tensor) -> list[Tensor]:
        """Split a (B, L, D) pyramid into maps, each (B, D, h_l, w_l)."""
        return [tokens_to_map(level, size) for level, size in zip(self.split(pyramid), self.level_sizes, strict=True)]


def tokens_to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h * w, D) -> (B, D, h, w)."""
    return tokens.transpose(1, 2).unflatten(2, size)


def map_to_tokens(feature_map: Tensor) -> Tensor:
    """(B, D, h, w) -> (B, h * w, D)."""
    return feature_map.flatten(2).transpose(1, 2)


def level_extents(level_sizes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """Return the (levels, 2) widths and heights; sizes may be symbolic, as `torch.export` records them."""
    sides = [torch.scalar_tensor(side, device=device) for height, width in level_sizes for side in (width, height)]
    return torch.stack(sides).unflatten(0, (-1, 2))


def cell_centres(size: tuple[int, int], device: torch.device) -> Tensor:
    """Return the (h * w, 2) centres (x, y) of a grid's cells in (0, 1), row-major, in float32."""
    height, width = size
    y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
    x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([grid_x, grid_y], dim=-1).flatten(0, 1)


def sine_positions(size: tuple[int, int], width: int, device: torch.device) -> Tensor:
    """Return the sine encoding of a grid: (h * w, width), the first half for y, the second for x, in float32.

    Coordinates count from 1 and are scaled to (0, 2 pi]; channel k of a half of n channels has the frequency
    10000^(-2 floor(k / 2) / n), sine where k is even and cosine where it is odd (DETR, with normalisation).
    """
    half = width // 2
    channel = torch.arange(half, device=device, dtype=torch.float32)
    period = 10000 ** (2 * torch.div(channel, 2, rounding_mode="floor") / half)

    def encode(length: int) -> Tensor:
        index = torch.arange(1, length + 1, device=device, dtype=torch.float32)
        angle = (index / (length + 1e-6) * 2 * math.pi)[:, None] / period
        return torch.where(channel % 2 == 0, angle.sin(), angle.cos())  # (length, half)

    rows, columns = size
    y = encode(rows)[:, None].expand(rows, columns, half)
    x = encode(columns)[None].expand(rows, columns, half)
    return torch.cat([y, x], dim=-1).flatten(0, 1)


class PyramidPositions(nn.Module):
    """Sine positions per level plus a learned level embedding.

    Args:
        hidden_size: width of the tokens, even.
    """

    def __init__(self, *, hidden_size: int) -> None:
        super().__init__()
        self.level_embedding = nn.Parameter(torch.empty(NUM_LEVELS, hidden_size))

    def reset_parameters(self) -> None:
        """Initialise the level embedding."""
        init.normal_(self.level_embedding, std=1.0)

    def forward(self, geometry: PyramidGeometry) -> Tensor:
        """Return the (1, L, hidden_size) positions of the pyramid's tokens."""
        weight = self.level_embedding
        levels = [
            sine_positions(size, weight.shape[1], weight.device).to(weight.dtype) + weight[level]
            for level, size in enumerate(geometry.level_sizes)
        ]
        return torch.cat(levels)[None]
