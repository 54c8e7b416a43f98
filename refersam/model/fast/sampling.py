"""Bilinear sampling of maps for deformable attention, in the fastest exact form for the device.

On a CPU in inference, samples are gathered as embedding bags. On CUDA, the environment variable `REFERSAM_TRITON=1`
selects a Triton kernel of deformops (extra `gpu`). All other cases run the plain formula.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from refersam.model.fast.chunks import in_chunks
from refersam.model.fast.mode import is_exporting, is_inference
from refersam.optional import require

TRITON_SWITCH = "REFERSAM_TRITON"
"""Environment variable, read when a model is built: 1 for deformops' kernel on CUDA, 0 or empty for PyTorch only."""

LevelSizes = tuple[tuple[int, int], ...]


def softmax(scores: Tensor) -> Tensor:
    """Compute `scores.softmax(dim=-1)` for a last axis of few entries.

    On a CPU in inference, that axis is moved to the front, so that vector instructions run along the other axes.
    """
    if scores.device.type != "cpu" or not is_inference():
        return scores.softmax(dim=-1)
    return scores.movedim(-1, 0).contiguous().softmax(dim=0).movedim(0, -1).contiguous()


def sample(
    values: Tensor,
    locations: Tensor,
    weights: Tensor,
    level_sizes: LevelSizes,
    *,
    plain: Callable[[Tensor, Tensor, Tensor, LevelSizes], Tensor],
    kernel: Callable[..., Tensor] | None,
    width: int,
) -> Tensor:
    """Compute `plain(values, locations, weights, level_sizes)`, in inference in chunks of queries.

    Args:
        values: (B, L, heads, head width), row-major cells of the levels, concatenated.
        locations: (B, N, heads, levels, points, 2), (x, y) in [0, 1], in float32.
        weights: (B, N, heads, levels, points).
        level_sizes: (height, width) of each level.
        plain: the plain formula, `sample_maps` of `refersam.model.deformable_attention`.
        kernel: result of `triton_kernel`.
        width: width of a query.

    Returns:
        (B, N, heads * head width).
    """
    if kernel is not None and values.device.type == "cuda" and not is_exporting():
        return run_kernel(kernel, values, locations, weights, level_sizes)
    mix = gather if values.device.type == "cpu" and is_inference() else plain

    def mix_chunk(locations: Tensor, weights: Tensor, values: Tensor) -> Tensor:
        return mix(values, locations, weights, level_sizes)

    return in_chunks(mix_chunk, (locations, weights), values, width=width)


def triton_kernel() -> Callable[..., Tensor] | None:
    """Return deformops' multi-scale deformable attention if `REFERSAM_TRITON` selects it, else None.

    Raises:
        MissingExtraError: deformops is not installed.
    """
    if os.environ.get(TRITON_SWITCH, "0") in ("", "0"):
        return None
    return require("deformops.registry", "gpu", f"{TRITON_SWITCH}={os.environ[TRITON_SWITCH]}").msda


def run_kernel(
    kernel: Callable[..., Tensor], values: Tensor, locations: Tensor, weights: Tensor, level_sizes: LevelSizes
) -> Tensor:
    """Sample with a kernel that takes level sizes and first cells as tensors; arguments as in `sample`."""
    sizes = torch.tensor(level_sizes, device=values.device)
    cells = sizes.prod(dim=1)
    return kernel(values, sizes, cells.cumsum(0) - cells, locations, weights)


def gather(values: Tensor, locations: Tensor, weights: Tensor, level_sizes: LevelSizes) -> Tensor:
    """Sample by an embedding-bag gather; arguments as in `sample`.

    The result of each query and head is one weighted sum over the four cells around each of its points. Each level is
    padded with zero cells, one before and two after each axis, so that points outside need no special case.
    """
    batch, length, heads = locations.shape[:3]
    device = values.device
    cells = values.split([height * width for height, width in level_sizes], dim=1)
    padded = [
        F.pad(level.unflatten(1, size), (0, 0, 0, 0, 1, 2, 1, 2)).flatten(1, 2)
        for level, size in zip(cells, level_sizes, strict=True)
    ]
    starts, total = [], 0
    for level in padded:
        starts.append(total)
        total += level.shape[1]
    table = (padded[0] if len(padded) == 1 else torch.cat(padded, dim=1)).flatten(0, 2)  # a row per cell and head

    extents = torch.tensor([[width, height] for height, width in level_sizes], device=device)
    corners = (locations * extents[:, None] + 0.5).nan_to_num_(0.0)  # in cells of the padded maps
    corners = corners.clamp_(min=torch.zeros_like(extents[:, None]), max=extents[:, None] + 1)
    x, y = corners.unbind(dim=-1)  # (B, N, heads, levels, points)
    left, top = x.floor(), y.floor()
    right_share, bottom_share = x - left, y - top
    bottom = weights * bottom_share
    above = weights - bottom
    bottom_right, above_right = bottom * right_share, above * right_share
    shares = torch.stack([above - above_right, above_right, bottom - bottom_right, bottom_right], dim=3)

    dtype = torch.int32 if table.shape[0] < 2**31 else torch.int64
    integers = partial(torch.tensor, device=device, dtype=dtype)
    widths = integers([width + 3 for _, width in level_sizes])
    first = top * widths[:, None] + left  # exact in float32 for maps of up to 2**24 cells
    rows = first.to(dtype) + integers(starts)[:, None]
    rows = rows + total * integers(range(batch))[:, None, None, None, None]
    rows = rows * heads + integers(range(heads))[:, None, None]
    steps = torch.stack([torch.zeros_like(widths), torch.ones_like(widths), widths, widths + 1]) * heads
    rows = rows.unsqueeze(3) + steps[:, :, None]  # (B, N, heads, corners, levels, points)
    mixed = F.embedding_bag(
        rows.flatten(0, 2).flatten(1), table, mode="sum", per_sample_weights=shares.flatten(0, 2).flatten(1).to(table)
    )
    return mixed.view(batch, length, -1)
