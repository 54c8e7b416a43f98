"""Attention in groups of heads and tables of relative positions; `test_vit.py` compares whole layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.sam.modeling_sam import SamVisionSdpaAttention

from refersam.config import sam_vision_config
from refersam.model.fast import window_attention
from refersam.model.fast.window_attention import relative_table


@pytest.mark.parametrize("max_tokens", [1, 24, 48, 10**6], ids=["head by head", "one", "two", "all"])
@torch.no_grad()
def test_groups_of_heads(monkeypatch: pytest.MonkeyPatch, max_tokens: int) -> None:
    """Equal to transformers' attention for any number of heads per group."""
    config = sam_vision_config(24, 2, 3, [1], 128, 4, 16)
    config._attn_implementation = "sdpa"
    attention = SamVisionSdpaAttention(config, window_size=0).double()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    tokens = torch.randn(2, 4, 6, 24).double()
    calls: list[int] = []
    original = F.scaled_dot_product_attention

    def count(query: torch.Tensor, *args: torch.Tensor, **options: float) -> torch.Tensor:
        calls.append(query.shape[1])
        return original(query, *args, **options)

    expected = attention(tokens)[0]
    monkeypatch.setattr(window_attention, "MAX_HEAD_TOKENS", max_tokens)
    monkeypatch.setattr(F, "scaled_dot_product_attention", count)
    torch.testing.assert_close(window_attention.attend(attention, tokens, window=0), expected)
    assert calls == {1: [1, 1, 1], 24: [1, 1, 1], 48: [2, 1], 10**6: [3]}[max_tokens]


def test_relative_table() -> None:
    """Entry (i, j) is for the distance i - j; a table of another length is resized linearly."""
    table = nn.Parameter(torch.randn(7, 2))
    found = relative_table(table, 4)
    for query in range(4):
        for key in range(4):
            assert torch.equal(found[query, key], table[query - key + 3])
    resized = F.interpolate(table.t()[None], size=11, mode="linear")[0].t()
    torch.testing.assert_close(relative_table(table, 6)[5, 1], resized[9])
