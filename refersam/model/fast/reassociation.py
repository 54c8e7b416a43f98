"""Multi-head attention with its matrix products reassociated, for one short and one long side.

Text has tens of tokens, the pyramid thousands. The plain formula projects every token of both sides. Projections are
linear, so those of the long side can be applied to the short side instead:

* Few queries: (q W_k) k^T replaces q (k W_k)^T, and (P v) W_v replaces P (v W_v). Keys and values are never projected.
* Few keys: q (W_q k^T) replaces (q W_q) k^T, and P (v W_o) replaces (P v) W_o. Queries are never projected.

The results are equal up to rounding. `costs` counts the multiplications of each form.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refersam.model.fast.mode import is_exporting, is_inference

MAX_COST_RATIO = 0.8
"""Maximum share of the plain form's multiplications for using a reassociated form; 0 disables these forms."""

ReassociatedForm = Literal["few_queries", "few_keys"]


class Projections(Protocol):
    """Weights and sizes of multi-head attention, as `refersam.model.attention` holds them.

    Attributes:
        num_heads: number of heads.
        scale: factor of the scores.
        q_proj: projection of the queries; k_proj, v_proj and out_proj likewise.
        reassociated_form: the form that replaces the plain one.
        reassociated_in_export: whether graphs of `torch.export`, whose sizes may be dynamic, use that form.
    """

    num_heads: int
    scale: float
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    out_proj: nn.Linear
    reassociated_form: ReassociatedForm
    reassociated_in_export: bool

    def split_heads(self, tokens: Tensor) -> Tensor:
        """(B, N, hidden_size) -> (B, heads, N, head width)."""


class LevelProjections(Projections, Protocol):
    """Weights and sizes of `LevelAttention`."""

    def mixing_weights(self, query: Tensor) -> Tensor:
        """Return the (B, heads, Nq, levels) weights of the levels."""


class Costs(NamedTuple):
    """Multiplications per sample of each form, without lower-order terms."""

    plain: int
    few_queries: int
    few_keys: int


def costs(attention: Projections, num_queries: int, num_keys: int) -> Costs:
    """Count the multiplications of each form of an attention."""
    inside, query_size = attention.q_proj.out_features, attention.q_proj.in_features
    key_size, heads = attention.k_proj.in_features, attention.num_heads
    query_side = 2 * num_queries * query_size * inside  # projections of the queries and of the output
    key_side = 2 * num_keys * key_size * inside  # projections of the keys and of the values
    return Costs(
        plain=query_side + key_side + 2 * num_queries * num_keys * inside,
        few_queries=query_side + 2 * num_queries * key_size * (inside + heads * num_keys),
        few_keys=key_side + 2 * num_keys * query_size * (inside + heads * num_queries),
    )


def pays(attention: Projections, num_queries: int, num_keys: int) -> bool:
    """Return whether to run the reassociated form of an attention; in an exported graph, the recorded choice."""
    if is_exporting():
        return attention.reassociated_in_export
    counted = costs(attention, num_queries, num_keys)
    reassociated = counted.few_queries if attention.reassociated_form == "few_queries" else counted.few_keys
    return reassociated <= MAX_COST_RATIO * counted.plain


def attend_to_few_keys(
    attention: Projections, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> Tensor:
    """Compute `Attention.forward` without projecting the queries.

    Args:
        attention: weights.
        query: (B, Nq, query_size).
        key: (B, Nk, key_size).
        value: (B, Nk, key_size).
        mask: (B, Nk) boolean, True for keys to attend to; None for all keys.

    Returns:
        (B, Nq, query_size).
    """
    heads = attention.num_heads
    keys = attention.split_heads(attention.k_proj(key)) * attention.scale
    values = attention.split_heads(attention.v_proj(value))
    query_weight = attention.q_proj.weight.unflatten(0, (heads, -1))  # (heads, head width, query_size)
    query_bias = attention.q_proj.bias.unflatten(0, (heads, -1))
    unprojected_keys = (keys @ query_weight).flatten(1, 2).transpose(1, 2)  # (B, query_size, heads * Nk)
    offsets = (keys @ query_bias.unsqueeze(2)).flatten(1).unsqueeze(1)  # (B, 1, heads * Nk), added to all scores
    if mask is not None:
        offsets = offsets.masked_fill(~mask.repeat(1, heads).unsqueeze(1), -torch.inf)
    scores = torch.baddbmm(offsets, query, unprojected_keys).unflatten(2, (heads, -1))
    output_weight = attention.out_proj.weight.t().unflatten(0, (heads, -1))  # (heads, head width, query_size)
    projected_values = (values @ output_weight).flatten(1, 2)  # (B, heads * Nk, query_size)
    return torch.baddbmm(attention.out_proj.bias, scores.softmax(dim=-1).flatten(2), projected_values)


def attend_to_levels(
    attention: LevelProjections, query: Tensor, key: Tensor, value: Tensor, level_lengths: list[int]
) -> Tensor:
    """Compute `LevelAttention.forward` for few queries, without projecting the pyramid.

    The bias of the keys adds the same to all scores of a query, and cancels in the softmax. The bias of the values is
    added at the end, since the probabilities of a query add up to 1 over all levels.

    Args:
        attention: weights.
        query: (B, Nq, query_size).
        key: (B, L, key_size).
        value: (B, L, key_size).
        level_lengths: tokens per level, adding up to L.

    Returns:
        (B, Nq, query_size).
    """
    heads, num_queries = attention.num_heads, query.shape[1]
    key_weight = attention.k_proj.weight.unflatten(0, (heads, -1))  # (heads, head width, key_size)
    projected_twice = (attention.split_heads(attention.q_proj(query)) * attention.scale) @ key_weight
    scores = _products(projected_twice.flatten(1, 2), key).unflatten(1, (heads, num_queries))  # (B, heads, Nq, L)
    shares = attention.mixing_weights(query).split(1, dim=-1)  # each (B, heads, Nq, 1)
    levels = scores.split(level_lengths, dim=-1)
    if is_inference():
        for level, share in zip(levels, shares, strict=True):
            torch.mul(level.softmax(dim=-1), share, out=level)
        mixed = scores
    else:
        mixed = torch.cat([level.softmax(dim=-1) * share for level, share in zip(levels, shares, strict=True)], dim=-1)
    seen = (mixed.flatten(1, 2) @ value).unflatten(1, (heads, num_queries))  # (B, heads, Nq, key_size)
    value_weight = attention.v_proj.weight.unflatten(0, (heads, -1)).transpose(1, 2)  # (heads, key_size, head width)
    attended = seen @ value_weight + attention.v_proj.bias.unflatten(0, (heads, 1, -1))
    return attention.out_proj(attended.transpose(1, 2).flatten(2))


def _products(query: Tensor, key: Tensor) -> Tensor:
    """(B, Nq, D) and (B, Nk, D) -> (B, Nq, Nk); one sample avoids the copy that a batched product makes."""
    if query.shape[0] == 1 and not is_exporting():
        return F.linear(query[0], key[0]).unsqueeze(0)
    return query @ key.transpose(1, 2)
