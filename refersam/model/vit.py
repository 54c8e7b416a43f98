"""SAM's ViT layer, exactly, on transformers' weights, without what costs memory and time for nothing.

transformers adds the decomposed relative positions as one dense bias, N x N per head, and projects the zeros that pad
windows. Here the bias is made for a block of queries at a time, and only real tokens are projected: a padded token is
zero before the projection, so afterwards it is the projection's bias.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionLayer

BIAS_ELEMENTS = 2**21
"""Most elements of the bias of one block of queries, over all its heads and windows: what a CPU's cache holds."""


def run_layer(layer: SamVisionLayer, patches: Tensor) -> Tensor:
    """(B, h, w, D) -> the same, as the layer's own forward."""
    attention, size = layer.attn, patches.shape[1:3]
    normed = layer.layer_norm1(patches)
    window = layer.window_size
    padding = tuple(-side % window if window else 0 for side in size)
    if any(padding):
        projected = F.pad(F.linear(normed, attention.qkv.weight), (0, 0, 0, padding[1], 0, padding[0]))
        if attention.qkv.bias is not None:
            projected = projected + attention.qkv.bias
    else:
        projected = attention.qkv(normed)
    if window:
        grid = [side // window for side in projected.shape[1:3]]
        # (B, rows, columns, 3D) -> (B * windows, window, window, 3D)
        windows = projected.unflatten(2, (grid[1], window)).unflatten(1, (grid[0], window)).transpose(2, 3)
        attended = attend(attention, windows.flatten(0, 2))
        attended = attended.unflatten(0, (patches.shape[0], *grid)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        attended = attended[:, : size[0], : size[1]]
    else:
        attended = attend(attention, projected)
    patches = patches + attention.proj(attended)
    return patches + layer.mlp(layer.layer_norm2(patches))


def attend(attention: SamVisionAttention, projected: Tensor) -> Tensor:
    """Attention with decomposed relative positions.

    Args:
        attention: weights and number of heads.
        projected: (B, h, w, 3D) queries, keys and values of each token.

    Returns:
        (B, h, w, D) before the output projection.
    """
    height, width = projected.shape[1:3]
    tokens = projected.flatten(1, 2).unflatten(2, (3, attention.num_attention_heads, -1))
    query, key, value = tokens.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, h * w, head width)
    if not attention.use_rel_pos:
        attended = F.scaled_dot_product_attention(query, key, value)
    else:
        along_y = relative_table(attention.rel_pos_h, height)
        along_x = relative_table(attention.rel_pos_w, width)
        rows = max(1, BIAS_ELEMENTS // (query.shape[0] * query.shape[1] * width * height * width))
        blocks = []
        for first in range(0, height, rows):
            last = min(first + rows, height)
            part = query[:, :, first * width : last * width]
            by_row = part.unflatten(2, (-1, width))  # (B, heads, rows, w, head width)
            bias_y = torch.einsum("nhrwc,rkc->nhrwk", by_row, along_y[first:last])
            bias_x = torch.einsum("nhrwc,wkc->nhrwk", by_row, along_x)
            bias = (bias_y.unsqueeze(5) + bias_x.unsqueeze(4)).flatten(4).flatten(2, 3)  # (B, heads, rows * w, h * w)
            blocks.append(F.scaled_dot_product_attention(part, key, value, attn_mask=bias))
        attended = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=2)
    return attended.transpose(1, 2).flatten(2).unflatten(1, (height, width))


def relative_table(table: nn.Parameter, length: int) -> Tensor:
    """(2n - 1, head width) table of relative positions -> (length, length, head width) for queries and keys.

    Resized linearly where it was made for another length.
    """
    if table.shape[0] != 2 * length - 1:
        resized = F.interpolate(table.t().unsqueeze(0), size=2 * length - 1, mode="linear")
        entries = resized[0].t()
    else:
        entries = table
    index = torch.arange(length, device=table.device)
    return entries[index[:, None] - index[None, :] + length - 1]
