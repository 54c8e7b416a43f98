"""Multi-head attention, and its variant with one softmax per pyramid level."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refersam.model.pyramid import NUM_LEVELS


class Attention(nn.Module):
    """Multi-head attention between streams of different widths.

    Args:
        query_size: width of the queries' stream, and of the output.
        key_size: width of the keys' and values' stream.
        hidden_size: width inside; the scale is 1 / sqrt(hidden_size / num_heads).
        num_heads: heads.
    """

    def __init__(self, *, query_size: int, key_size: int, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(query_size, hidden_size)
        self.k_proj = nn.Linear(key_size, hidden_size)
        self.v_proj = nn.Linear(key_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, query_size)

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, N, head width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query: (B, Nq, query_size).
            key: (B, Nk, key_size).
            value: (B, Nk, key_size).
            mask: (B, Nk) boolean, True where a key may be attended to; None for everywhere.

        Returns:
            (B, Nq, query_size).
        """
        attended = F.scaled_dot_product_attention(
            self._heads(self.q_proj(query)),
            self._heads(self.k_proj(key)),
            self._heads(self.v_proj(value)),
            attn_mask=None if mask is None else mask[:, None, None, :],
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class LevelAttention(Attention):
    """Attention to a pyramid with a softmax inside each level; the levels are then mixed per head.

    The mixing weights are a softmax over the levels of a linear map of the query's input.
    """

    def __init__(self, *, query_size: int, key_size: int, hidden_size: int, num_heads: int) -> None:
        super().__init__(query_size=query_size, key_size=key_size, hidden_size=hidden_size, num_heads=num_heads)
        self.level_weights = nn.Linear(query_size, num_heads * NUM_LEVELS)

    def forward(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, level_lengths: list[int]
    ) -> Tensor:
        """Attend to every level and mix.

        Args:
            query: (B, Nq, query_size).
            key: (B, L, key_size) the pyramid's tokens with their positions.
            value: (B, L, key_size) the pyramid's tokens.
            level_lengths: tokens per level, adding up to L.

        Returns:
            (B, Nq, query_size).
        """
        queries = self._heads(self.q_proj(query))
        keys = self._heads(self.k_proj(key)).split(level_lengths, dim=2)
        values = self._heads(self.v_proj(value)).split(level_lengths, dim=2)
        per_level = [F.scaled_dot_product_attention(queries, k, v) for k, v in zip(keys, values, strict=True)]
        weights = self.level_weights(query).unflatten(2, (self.num_heads, NUM_LEVELS)).softmax(dim=-1)
        weights = weights.transpose(1, 2).unsqueeze(3)  # (B, heads, Nq, 1, levels)
        attended = (torch.stack(per_level, dim=-1) * weights).sum(dim=-1)  # (B, heads, Nq, head width)
        return self.out_proj(attended.transpose(1, 2).flatten(2))
