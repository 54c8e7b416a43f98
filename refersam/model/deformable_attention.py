"""Multi-scale deformable attention in plain PyTorch: runs on CPU, CUDA and MPS, nothing to compile.

On CUDA a Triton kernel of deformops (extra `gpu`) can take its place: by `REFERSAM_TRITON=1` in the environment.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refersam.model.blocks import in_blocks, nothing_recorded
from refersam.model.pyramid import level_extents
from refersam.optional import require

TRITON_SWITCH = "REFERSAM_TRITON"
"""Environment variable, read where a model is built: 1 for deformops' kernel on CUDA; 0 or nothing for torch alone."""


class DeformableAttention(nn.Module):
    """Each query samples a few points per head and level around its reference point (Deformable DETR).

    Args:
        hidden_size: width of queries, values and output.
        num_heads: heads.
        num_levels: maps the values come from.
        num_points: points per head and level.
        value_ratio: width of the projected values as a share of hidden_size.

    Raises:
        MissingExtraError: `REFERSAM_TRITON=1` without deformops.
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
        self._kernel = triton_kernel()

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
        if not level_sizes:
            raise ValueError("level_sizes must name at least one level, but is empty.")
        layout = (self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(query).unflatten(2, (*layout, 2))  # (B, N, heads, levels, points, xy)
        weights = softmax_of_few(self.attention_weights(query).unflatten(2, (self.num_heads, -1)))
        weights = weights.unflatten(3, layout[1:])  # (B, N, heads, levels, points)
        values = self.value_proj(value).unflatten(2, (self.num_heads, -1))  # (B, L, heads, head width)
        # In half precision cells would be missed: places are computed in float32.
        extents = level_extents(level_sizes, query.device)
        locations = reference_points[:, None, None, None] + offsets.float() / extents[:, None]
        if self._kernel is not None and values.device.type == "cuda" and not torch.compiler.is_exporting():
            return self.output_proj(run_kernel(self._kernel, values, locations, weights, level_sizes))
        # Looking cells up is fastest on a CPU, where nothing has to be learned from it or compiled.
        mix = look_up if values.device.type == "cpu" and nothing_recorded() else sample_maps

        def mix_block(locations: Tensor, weights: Tensor, values: Tensor) -> Tensor:
            return mix(values, locations, weights, level_sizes)

        return self.output_proj(in_blocks(mix_block, (locations, weights), values, width=query.shape[2]))


def triton_kernel() -> Callable[..., Tensor] | None:
    """deformops' multi-scale deformable attention if `REFERSAM_TRITON` asks for it, else None.

    Raises:
        MissingExtraError: deformops is not installed.
    """
    if os.environ.get(TRITON_SWITCH, "0") in ("", "0"):
        return None
    return require("deformops.registry", "gpu", f"{TRITON_SWITCH}={os.environ[TRITON_SWITCH]}").msda


def run_kernel(
    kernel: Callable[..., Tensor],
    values: Tensor,
    locations: Tensor,
    weights: Tensor,
    level_sizes: tuple[tuple[int, int], ...],
) -> Tensor:
    """As `sample_maps`, by a kernel that takes the sizes of the levels and where each begins as tensors."""
    sizes = torch.tensor(level_sizes, device=values.device)
    cells = sizes.prod(dim=1)
    return kernel(values, sizes, cells.cumsum(0) - cells, locations, weights)


def softmax_of_few(scores: Tensor) -> Tensor:
    """Softmax over the last axis, which has a few entries.

    On a CPU without gradients they come first meanwhile, so that its vectors run along the other axes.
    """
    if scores.device.type != "cpu" or not nothing_recorded():
        return scores.softmax(dim=-1)
    return scores.movedim(-1, 0).contiguous().softmax(dim=0).movedim(0, -1).contiguous()


def sample_maps(values: Tensor, locations: Tensor, weights: Tensor, level_sizes: tuple[tuple[int, int], ...]) -> Tensor:
    """Bilinear samples of the levels' maps, summed up with weights; outside a map is zero.

    Args:
        values: (B, L, heads, head width), the levels' cells one after the other, row-major.
        locations: (B, N, heads, levels, points, 2), (x, y) in [0, 1], in float32.
        weights: (B, N, heads, levels, points).
        level_sizes: (height, width) of each level.

    Returns:
        (B, N, heads * head width).
    """
    batch, length, heads = locations.shape[:3]
    grids = (2 * locations - 1).to(values.dtype)  # grid_sample's range [-1, 1]
    sums = []
    for level, cells in enumerate(values.split([height * width for height, width in level_sizes], dim=1)):
        maps = cells.permute(0, 2, 3, 1).reshape(batch * heads, -1, *level_sizes[level])
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B * heads, N, points, xy)
        sampled = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        weight = weights[:, :, :, level].transpose(1, 2).flatten(0, 1).unsqueeze(1)  # (B * heads, 1, N, points)
        sums.append((sampled * weight).sum(dim=-1))  # (B * heads, head width, N)
    mixed = torch.stack(sums).sum(dim=0) if len(sums) > 1 else sums[0]
    return mixed.unflatten(0, (batch, heads)).permute(0, 3, 1, 2).reshape(batch, length, -1)


def look_up(values: Tensor, locations: Tensor, weights: Tensor, level_sizes: tuple[tuple[int, int], ...]) -> Tensor:
    """As `sample_maps`: for each query and head one weighted sum over the four cells around each of its points.

    Each level gets a frame of empty cells, two wide on the far sides, so that points outside need no other treatment.
    """
    batch, length, heads = locations.shape[:3]
    device = values.device
    cells = values.split([height * width for height, width in level_sizes], dim=1)
    framed = [
        F.pad(level.unflatten(1, size), (0, 0, 0, 0, 1, 2, 1, 2)).flatten(1, 2)
        for level, size in zip(cells, level_sizes, strict=True)
    ]
    starts, total = [], 0
    for level in framed:
        starts.append(total)
        total += level.shape[1]
    table = (framed[0] if len(framed) == 1 else torch.cat(framed, dim=1)).flatten(0, 2)  # a row per cell and head

    extents = torch.tensor([[width, height] for height, width in level_sizes], device=device)
    corners = (locations * extents[:, None] + 0.5).nan_to_num_(0.0)  # in cells of the framed maps
    corners = corners.clamp_(min=torch.zeros_like(extents[:, None]), max=extents[:, None] + 1)
    x, y = corners.unbind(dim=-1)  # (B, N, heads, levels, points)
    left, top = x.floor(), y.floor()
    right_share, bottom_share = x - left, y - top
    bottom = weights * bottom_share
    above = weights - bottom
    bottom_right, above_right = bottom * right_share, above * right_share
    shares = torch.stack([above - above_right, above_right, bottom - bottom_right, bottom_right], dim=3)

    dtype = torch.int32 if table.shape[0] < 2**31 else torch.int64
    number = partial(torch.tensor, device=device, dtype=dtype)
    widths = number([width + 3 for _, width in level_sizes])
    first = top * widths[:, None] + left  # exact in float32 for maps of up to 2**24 cells
    rows = first.to(dtype) + number(starts)[:, None]
    rows = rows + total * number(range(batch))[:, None, None, None, None]
    rows = rows * heads + number(range(heads))[:, None, None]
    steps = torch.stack([torch.zeros_like(widths), torch.ones_like(widths), widths, widths + 1]) * heads
    rows = rows.unsqueeze(3) + steps[:, :, None]  # (B, N, heads, corners, levels, points)
    mixed = F.embedding_bag(
        rows.flatten(0, 2).flatten(1), table, mode="sum", per_sample_weights=shares.flatten(0, 2).flatten(1).to(table)
    )
    return mixed.view(batch, length, -1)


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
