"""Multi-head attention, and its variant with one softmax per pyramid level.

If one side is short, `fast.reassociation` computes the same result with fewer multiplications.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refersam.model.fast import reassociation
from refersam.model.fast.reassociation import ReassociatedForm
from refersam.model.pyramid import NUM_LEVELS


class AttentionProjections(nn.Module):
    """Projections of multi-head attention between streams of different widths.

    Args:
        query_size: width of the queries and of the output.
        key_size: width of the keys and values.
        hidden_size: width of all heads together; the scale is 1 / sqrt(hidden_size / num_heads).
        num_heads: number of heads.

    Attributes:
        reassociated_form: the fast form of `fast.reassociation`.
        reassociated_in_export: whether graphs of `torch.export` use that form; exporters set it.
    """

    reassociated_form: ReassociatedForm

    def __init__(self, *, query_size: int, key_size: int, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.reassociated_in_export = False
        self.scale = 1 / math.sqrt(hidden_size / num_heads)
        self.q_proj = nn.Linear(query_size, hidden_size)
        self.k_proj = nn.Linear(key_size, hidden_size)
        self.v_proj = nn.Linear(key_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, query_size)

    def split_heads(self, tokens: Tensor) -> Tensor:
        """(B, N, hidden_size) -> (B, heads, N, head width)."""
        return tokens.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class Attention(AttentionProjections):
    """Multi-head attention: softmax(q k^T / sqrt(head width)) v in each head, then a projection of all heads."""

    reassociated_form: ReassociatedForm = "few_keys"

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query: (B, Nq, query_size).
            key: (B, Nk, key_size).
            value: (B, Nk, key_size).
            mask: (B, Nk) boolean, True for keys to attend to; None for all keys.

        Returns:
            (B, Nq, query_size).
        """
        if reassociation.pays(self, query.shape[1], key.shape[1]):
            return reassociation.attend_to_few_keys(self, query, key, value, mask)
        attended = F.scaled_dot_product_attention(
            self.split_heads(self.q_proj(query)),
            self.split_heads(self.k_proj(key)),
            self.split_heads(self.v_proj(value)),
            attn_mask=None if mask is None else mask[:, None, None, :],
        )  # (B, heads, Nq, head width)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class LevelAttention(AttentionProjections):
    """Attention to a pyramid with a softmax inside each level; the levels are then mixed per head.

    The mixing weights are a softmax over the levels of a linear map of the query.
    """

    reassociated_form: ReassociatedForm = "few_queries"

    def __init__(self, *, query_size: int, key_size: int, hidden_size: int, num_heads: int) -> None:
        super().__init__(query_size=query_size, key_size=key_size, hidden_size=hidden_size, num_heads=num_heads)
        self.level_weights = nn.Linear(query_size, num_heads * NUM_LEVELS)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, level_lengths: list[int]) -> Tensor:
        """Attend to each level and mix.

        Args:
            query: (B, Nq, query_size).
            key: (B, L, key_size) pyramid tokens with their positions.
            value: (B, L, key_size) pyramid tokens.
            level_lengths: tokens per level, adding up to L.

        Returns:
            (B, Nq, query_size).
        """
        if reassociation.pays(self, query.shape[1], key.shape[1]):
            return reassociation.attend_to_levels(self, query, key, value, level_lengths)
        queries = self.split_heads(self.q_proj(query))
        keys = self.split_heads(self.k_proj(key)).split(level_lengths, dim=2)
        values = self.split_heads(self.v_proj(value)).split(level_lengths, dim=2)
        per_level = [F.scaled_dot_product_attention(queries, k, v) for k, v in zip(keys, values, strict=True)]
        mixing = self.mixing_weights(query).unsqueeze(3)  # (B, heads, Nq, 1, levels)
        attended = (torch.stack(per_level, dim=-1) * mixing).sum(dim=-1)  # (B, heads, Nq, head width)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def mixing_weights(self, query: Tensor) -> Tensor:
        """Return the (B, heads, Nq, levels) weights of the levels, adding up to 1."""
        weights = self.level_weights(query).unflatten(2, (self.num_heads, NUM_LEVELS)).softmax(dim=-1)
        return weights.transpose(1, 2)
