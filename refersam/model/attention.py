"""Multi-head attention, and its variant with one softmax per pyramid level; each in its cheapest exact form.

Text has tens of tokens, the pyramid thousands. Projecting every token of the long side costs more than all the rest and
is not needed. Projections are linear: that of the keys can be moved to the queries and that of the values behind the
attention, per head (`fold_level_keys`, for few queries); or that of the queries to the keys and that of the output to
the values (`fold_queries`, for few keys). The sizes alone say which form is cheapest; all give the same result.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refersam.model.blocks import nothing_recorded
from refersam.model.pyramid import NUM_LEVELS

FOLDING_GAIN = 0.8
"""A folded form is used where it needs at most this share of the plain form's multiplications."""


class Attention(nn.Module):
    """Multi-head attention between streams of different widths.

    Its attribute `folded_in_export` is the form in graphs of `torch.export`, which may leave the sizes open.

    Args:
        query_size: width of the queries' stream, and of the output.
        key_size: width of the keys' and values' stream.
        hidden_size: width inside; the scale is 1 / sqrt(hidden_size / num_heads).
        num_heads: heads.
    """

    _folded_form = 2
    """Which of `costs` is the folded form's."""

    def __init__(self, *, query_size: int, key_size: int, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.folded_in_export = False
        self.scale = 1 / math.sqrt(hidden_size / num_heads)
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
        if self.folds(query.shape[1], key.shape[1]):
            return self.fold_queries(query, key, value, mask)
        return self.plain(query, key, value, mask)

    def folds(self, num_queries: int, num_keys: int) -> bool:
        """Whether the folded form is the one to run."""
        if torch.compiler.is_exporting():
            return self.folded_in_export
        costs = self.costs(num_queries, num_keys)
        return costs[self._folded_form] <= FOLDING_GAIN * costs[0]

    def costs(self, num_queries: int, num_keys: int) -> tuple[int, int, int]:
        """Multiplications per sample of `plain`, of folded keys and of `fold_queries`."""
        inside, query_size, key_size = self.q_proj.out_features, self.q_proj.in_features, self.k_proj.in_features
        of_queries = 2 * num_queries * query_size * inside  # projections of the queries, and of the output
        of_keys = 2 * num_keys * key_size * inside
        return (
            of_queries + of_keys + 2 * num_queries * num_keys * inside,
            of_queries + 2 * num_queries * key_size * (inside + self.num_heads * num_keys),
            of_keys + 2 * num_keys * query_size * (inside + self.num_heads * num_queries),
        )

    def plain(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """As `forward`: projections of all tokens, as the formula says."""
        attended = F.scaled_dot_product_attention(
            self._heads(self.q_proj(query)),
            self._heads(self.k_proj(key)),
            self._heads(self.v_proj(value)),
            attn_mask=None if mask is None else mask[:, None, None, :],
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def fold_queries(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """As `forward`, for few keys: the queries are never projected."""
        keys, values = self._heads(self.k_proj(key)) * self.scale, self._heads(self.v_proj(value))
        query_weight = self.q_proj.weight.unflatten(0, (self.num_heads, -1))  # (heads, head width, query_size)
        query_bias = self.q_proj.bias.unflatten(0, (self.num_heads, -1))
        folded_keys = (keys @ query_weight).flatten(1, 2).transpose(1, 2)  # (B, query_size, heads * Nk)
        offsets = (keys @ query_bias.unsqueeze(2)).flatten(1).unsqueeze(1)  # (B, 1, heads * Nk)
        if mask is not None:  # a key's offset reaches all its scores
            offsets = offsets.masked_fill(~mask.repeat(1, self.num_heads).unsqueeze(1), -torch.inf)
        scores = torch.baddbmm(offsets, query, folded_keys).unflatten(2, (self.num_heads, -1))
        output_weight = self.out_proj.weight.t().unflatten(0, (self.num_heads, -1))  # (heads, head width, query_size)
        folded_values = (values @ output_weight).flatten(1, 2)  # (B, heads * Nk, query_size)
        return torch.baddbmm(self.out_proj.bias, scores.softmax(dim=-1).flatten(2), folded_values)


class LevelAttention(Attention):
    """Attention to a pyramid with a softmax inside each level; the levels are then mixed per head.

    The mixing weights are a softmax over the levels of a linear map of the query's input.
    """

    _folded_form = 1

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
        attend = self.fold_level_keys if self.folds(query.shape[1], key.shape[1]) else self.plain_levels
        attended = attend(query, key, value, level_lengths)  # (B, heads, Nq, head width)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _mixing(self, query: Tensor) -> Tensor:
        weights = self.level_weights(query).unflatten(2, (self.num_heads, NUM_LEVELS)).softmax(dim=-1)
        return weights.transpose(1, 2)  # (B, heads, Nq, levels)

    def plain_levels(self, query: Tensor, key: Tensor, value: Tensor, level_lengths: list[int]) -> Tensor:
        """(B, heads, Nq, head width), with projections of all tokens, as the formula says."""
        queries = self._heads(self.q_proj(query))
        keys = self._heads(self.k_proj(key)).split(level_lengths, dim=2)
        values = self._heads(self.v_proj(value)).split(level_lengths, dim=2)
        per_level = [F.scaled_dot_product_attention(queries, k, v) for k, v in zip(keys, values, strict=True)]
        return (torch.stack(per_level, dim=-1) * self._mixing(query).unsqueeze(3)).sum(dim=-1)

    def fold_level_keys(self, query: Tensor, key: Tensor, value: Tensor, level_lengths: list[int]) -> Tensor:
        """The same for few queries: the pyramid is never projected.

        The keys' bias adds the same to all scores of a query, which a softmax cancels; the values' is added at the end,
        since the probabilities of a query add up to 1 over all levels.
        """
        heads, num_queries = self.num_heads, query.shape[1]
        key_weight = self.k_proj.weight.unflatten(0, (heads, -1))  # (heads, head width, key_size)
        folded = (self._heads(self.q_proj(query)) * self.scale) @ key_weight  # (B, heads, Nq, key_size)
        scores = _scores(folded.flatten(1, 2), key).unflatten(1, (heads, num_queries))
        mixing = self._mixing(query).split(1, dim=-1)
        levels = scores.split(level_lengths, dim=-1)
        if nothing_recorded():
            for level, share in zip(levels, mixing, strict=True):
                torch.mul(level.softmax(dim=-1), share, out=level)
            mixed = scores
        else:
            shares = [level.softmax(dim=-1) * share for level, share in zip(levels, mixing, strict=True)]
            mixed = torch.cat(shares, dim=-1)
        seen = (mixed.flatten(1, 2) @ value).unflatten(1, (heads, num_queries))  # (B, heads, Nq, key_size)
        value_weight = self.v_proj.weight.unflatten(0, (heads, -1)).transpose(1, 2)  # (heads, key_size, head width)
        return seen @ value_weight + self.v_proj.bias.unflatten(0, (heads, 1, -1))


def _scores(query: Tensor, key: Tensor) -> Tensor:
    """(B, Nq, D) and (B, Nk, D) -> (B, Nq, Nk). A single picture goes without the copy that a batched product makes."""
    if query.shape[0] == 1 and not torch.compiler.is_exporting():
        return F.linear(query[0], key[0]).unsqueeze(0)
    return query @ key.transpose(1, 2)
