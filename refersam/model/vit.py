"""SAM's ViT layer, exactly, on transformers' weights, without what costs memory and time for nothing.

transformers adds the decomposed relative positions as one dense bias, N x N per head, and projects the zeros that pad
windows. Here they are further channels of queries and keys, and only real tokens are projected: a padded token is zero
before the projection, so afterwards it is the projection's bias.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionLayer

from refersam.model.blocks import nothing_recorded

HEAD_TOKENS = 16384
"""Tokens of a picture times heads whose attention a CPU computes at once where nothing is recorded: queries, keys and
values with further channels would take more memory than all else at 1024 px."""


def run_layer(layer: SamVisionLayer, patches: Tensor) -> Tensor:
    """(B, h, w, D) -> the same, as the layer's own forward."""
    patches = patches + _attend_in_windows(layer, layer.layer_norm1(patches))
    return patches + layer.mlp(layer.layer_norm2(patches))


def _attend_in_windows(layer: SamVisionLayer, normed: Tensor) -> Tensor:
    """(B, h, w, D) -> the same: the layer's attention, in windows or global."""
    attention, size, window = layer.attn, normed.shape[1:3], layer.window_size
    # Windows, the last of which may need padding; rounded up without negative numbers, which ONNX rounds to zero.
    grid = [(side + window - 1) // window if window else 1 for side in size]
    padding = [count * window - side if window else 0 for count, side in zip(grid, size, strict=True)]
    # An exported graph serves all sizes: it always pads, if need be by nothing.
    if (window and torch.compiler.is_exporting()) or any(padding):
        projected = F.pad(F.linear(normed, attention.qkv.weight), (0, 0, 0, padding[1], 0, padding[0]))
        if attention.qkv.bias is not None:
            projected = projected + attention.qkv.bias
    else:
        projected = attention.qkv(normed)
    if window:
        # (B, rows, columns, 3D) -> (B * windows, window, window, 3D)
        windows = projected.unflatten(2, (grid[1], window)).unflatten(1, (grid[0], window)).transpose(2, 3)
        attended = attend(attention, windows.flatten(0, 2))
        attended = attended.unflatten(0, (normed.shape[0], *grid)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        attended = attended[:, : size[0], : size[1]]
    else:
        attended = attend(attention, projected)
    return attention.proj(attended)


def attend(attention: SamVisionAttention, projected: Tensor) -> Tensor:
    """Attention with decomposed relative positions.

    A score's bias is one term for the pair of rows and one for the pair of columns. Queries get the terms for all rows
    and columns as further channels, and each key a one for its own row and its own column: no N x N bias is made.

    Args:
        attention: weights and number of heads.
        projected: (B, h, w, 3D) queries, keys and values of each token.

    Returns:
        (B, h, w, D) before the output projection.
    """
    height, width = projected.shape[1:3]
    num_heads = attention.num_attention_heads
    tokens = projected.flatten(1, 2).unflatten(2, (3, num_heads, -1))  # (B, h * w, 3, heads, head width)
    few = num_heads
    if projected.device.type == "cpu" and nothing_recorded():
        groups = -(-num_heads * height * width // HEAD_TOKENS)
        few = max(1, -(-num_heads // groups))
    if few == num_heads:
        return _attend(attention, tokens, height, width).unflatten(1, (height, width))
    attended = torch.empty_like(tokens[:, :, 0])
    for heads, target in zip(tokens.split(few, dim=3), attended.split(few, dim=2), strict=True):
        target.copy_(_attend(attention, heads, height, width).unflatten(2, target.shape[2:]))
    return attended.flatten(2).unflatten(1, (height, width))


def _attend(attention: SamVisionAttention, tokens: Tensor, height: int, width: int) -> Tensor:
    """(B, h * w, 3, n, head width) queries, keys and values of n heads -> (B, h * w, n * head width)."""
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
        if not torch.compiler.is_exporting():
            value = F.pad(value, (0, height + width))  # torch's fast kernels want values as wide as keys
    attended = F.scaled_dot_product_attention(query, key, value, scale=attention.scale)[..., :channels]
    return attended.transpose(1, 2).flatten(2)


def relative_table(table: nn.Parameter, length: int) -> Tensor:
    """(2n - 1, head width) table of relative positions -> (length, length, head width) for queries and keys.

    Resized linearly where it was made for another length.
    """
    if torch.compiler.is_exporting() or table.shape[0] != 2 * length - 1:
        resized = F.interpolate(table.t().unsqueeze(0), size=2 * length - 1, mode="linear")
        entries = resized[0].t()
    else:
        entries = table
    index = torch.arange(length, device=table.device)
    return entries[index[:, None] - index[None, :] + length - 1]
