"""Both attentions against the formula written out head by head."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from refersam.model.attention import Attention, AttentionProjections, LevelAttention
from refersam.model.fast import reassociation

LEVELS = [24, 6, 2]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the reference implementation for all sizes."""
    monkeypatch.setattr(reassociation, "MAX_COST_RATIO", 0.0)


def heads_of(module: AttentionProjections, query: Tensor, key: Tensor, value: Tensor) -> list[tuple[Tensor, ...]]:
    """Return projected queries, keys and values of each head."""
    width = module.q_proj.out_features // module.num_heads
    projected = (module.q_proj(query), module.k_proj(key), module.v_proj(value))
    return list(zip(*(tokens.split(width, dim=2) for tokens in projected), strict=True))


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute softmax(q k^T / sqrt(head width)) v."""
    scores = query @ key.transpose(1, 2) / query.shape[2] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], -torch.inf)
    return scores.softmax(-1) @ value


@pytest.mark.parametrize("masked", [False, True])
def test_attention(masked: bool) -> None:
    """Queries and keys of different widths; some keys of each sample masked."""
    module = Attention(query_size=12, key_size=20, hidden_size=24, num_heads=3).double()
    query, key, value = (torch.randn(2, n, c).double() for n, c in ((9, 12), (5, 20), (5, 20)))
    mask = torch.tensor([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0]]).bool() if masked else None
    heads = [attend(*parts, mask) for parts in heads_of(module, query, key, value)]
    torch.testing.assert_close(module(query, key, value, mask), module.out_proj(torch.cat(heads, dim=2)))


def test_level_attention() -> None:
    """A softmax per level; then each head mixes the levels by weights that depend on the query."""
    module = LevelAttention(query_size=12, key_size=20, hidden_size=24, num_heads=3).double()
    query, key, value = (torch.randn(2, n, c).double() for n, c in ((5, 12), (32, 20), (32, 20)))
    shares = module.level_weights(query).unflatten(2, (3, 3)).softmax(-1)  # (B, Nq, heads, levels)
    heads = []
    for head, (queries, keys, values) in enumerate(heads_of(module, query, key, value)):
        levels = zip(keys.split(LEVELS, dim=1), values.split(LEVELS, dim=1), strict=True)
        seen = [attend(queries, k, v) for k, v in levels]
        heads.append(sum(shares[:, :, head, level, None] * part for level, part in enumerate(seen)))
    torch.testing.assert_close(module(query, key, value, LEVELS), module.out_proj(torch.cat(heads, dim=2)))
