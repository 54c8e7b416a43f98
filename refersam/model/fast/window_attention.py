"""Attention of SAM's ViT layers without a dense bias, and without projecting the padding of windows.

transformers' `SamVisionLayer`, the reference implementation, adds the decomposed relative positions as a dense bias,
N x N per head, and projects the zeros that pad windows. Here, relative positions are additional channels of queries and
keys, and only real tokens are projected: the projection of a padded token is the projection's bias.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.sam.modeling_sam import SamVisionAttention

from refersam.model.fast.maps import resize
from refersam.model.fast.mode import is_exporting, is_inference

MAX_HEAD_TOKENS = 16384
"""Maximum number of tokens times heads in one attention on a CPU in inference. At 1024 px, queries, keys and values of
all heads with the additional channels would need more memory than the rest of the forward pass."""


def attend(attention: SamVisionAttention, tokens: Tensor, window: int) -> Tensor:
    """Compute the attention of a ViT layer, with its input and output projections.

    Args:
        attention: weights, number of heads and relative positions.
        tokens: (B, h, w, D) normalised tokens.
        window: side of the windows in tokens; 0 for global attention.

    Returns:
        (B, h, w, D).
    """
    size = tokens.shape[1:3]
    # Windows per axis, rounded up without negative numbers, which ONNX rounds towards zero; the last one is padded.
    grid = [(side + window - 1) // window if window else 1 for side in size]
    padding = [count * window - side if window else 0 for count, side in zip(grid, size, strict=True)]
    # An exported graph is for all sizes and therefore always pads, possibly by 0.
    if (window and is_exporting()) or any(padding):
        projected = F.pad(F.linear(tokens, attention.qkv.weight), (0, 0, 0, padding[1], 0, padding[0]))
        if attention.qkv.bias is not None:
            projected = projected + attention.qkv.bias
    else:
        projected = attention.qkv(tokens)
    if window:
        # (B, rows, columns, 3D) -> (B * windows, window, window, 3D)
        windows = projected.unflatten(2, (grid[1], window)).unflatten(1, (grid[0], window)).transpose(2, 3)
        attended = _attend_in_groups(attention, windows.flatten(0, 2))
        attended = attended.unflatten(0, (tokens.shape[0], *grid)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        attended = attended[:, : size[0], : size[1]]
    else:
        attended = _attend_in_groups(attention, projected)
    return attention.proj(attended)


def _attend_in_groups(attention: SamVisionAttention, projected: Tensor) -> Tensor:
    """Attend with decomposed relative positions, on a CPU in inference in groups of heads.

    Args:
        attention: relative positions and number of heads.
        projected: (B, h, w, 3D) queries, keys and values of each token.

    Returns:
        (B, h, w, D) before the output projection.
    """
    height, width = projected.shape[1:3]
    num_heads = attention.num_attention_heads
    tokens = projected.flatten(1, 2).unflatten(2, (3, num_heads, -1))  # (B, h * w, 3, heads, head width)
    group_size = num_heads
    if projected.device.type == "cpu" and is_inference():
        groups = -(-num_heads * height * width // MAX_HEAD_TOKENS)
        group_size = max(1, -(-num_heads // groups))
    if group_size == num_heads:
        return _attend(attention, tokens, height, width).unflatten(1, (height, width))
    attended = torch.empty_like(tokens[:, :, 0])
    for heads, target in zip(tokens.split(group_size, dim=3), attended.split(group_size, dim=2), strict=True):
        target.copy_(_attend(attention, heads, height, width).unflatten(2, target.shape[2:]))
    return attended.flatten(2).unflatten(1, (height, width))


def _attend(attention: SamVisionAttention, tokens: Tensor, height: int, width: int) -> Tensor:
    """Attend with relative positions as channels.

    The bias of a score is one term for the pair of rows and one for the pair of columns. Queries get the terms for all
    rows and columns as additional channels. Each key gets a 1 in the channels of its own row and its own column.

    Args:
        attention: relative positions.
        tokens: (B, h * w, 3, n, head width) queries, keys and values of n heads.
        height: h.
        width: w.

    Returns:
        (B, h * w, n * head width).
    """
    query, key, value = tokens.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, n, h * w, head width)
    channels = query.shape[3]
    if attention.use_rel_pos:
        along_y = relative_table(attention.rel_pos_h, height) / attention.scale
        along_x = relative_table(attention.rel_pos_w, width) / attention.scale
        by_row = query.unflatten(2, (height, width))
        bias_y = torch.einsum("nhrwc,rkc->nhrwk", by_row, along_y).flatten(2, 3)
        bias_x = torch.einsum("nhrwc,wkc->nhrwk", by_row, along_x).flatten(2, 3)
        own_row = torch.eye(height, dtype=key.dtype, device=key.device).unsqueeze(1).expand(-1, width, -1)
        own_column = torch.eye(width, dtype=key.dtype, device=key.device).expand(height, -1, -1)
        place = torch.cat([own_row, own_column], dim=2).flatten(0, 1).expand(*key.shape[:2], -1, -1)
        query = torch.cat([query, bias_y, bias_x], dim=3)
        key = torch.cat([key, place], dim=3)
        if not is_exporting():
            value = F.pad(value, (0, height + width))  # PyTorch's fast kernels need values as wide as keys
    attended = F.scaled_dot_product_attention(query, key, value, scale=attention.scale)[..., :channels]
    return attended.transpose(1, 2).flatten(2)


def relative_table(table: nn.Parameter, length: int) -> Tensor:
    """Return the embedding of each pair of positions along one axis.

    Args:
        table: (2n - 1, head width) embeddings of relative positions, resized linearly if n is not `length`.
        length: positions along the axis.

    Returns:
        (length, length, head width): by query, then by key.
    """
    entries = resize(table.t().unsqueeze(0), (2 * length - 1,), mode="linear")[0].t()
    index = torch.arange(length, device=table.device)
    return entries[index[:, None] - index[None, :] + length - 1]
