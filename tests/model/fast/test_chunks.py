"""Results computed in chunks of tokens equal those computed at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from refersam.model.fast import chunks
from refersam.model.fast.chunks import in_chunks


@pytest.mark.parametrize(("batch", "length", "calls"), [(1, 40, 1), (1, 41, 2), (2, 20, 1), (5, 20, 3), (2, 100, 6)])
def test_chunks_cover_every_token_once(monkeypatch: pytest.MonkeyPatch, batch: int, length: int, calls: int) -> None:
    """As many whole samples as fit, or equal parts of one sample."""
    monkeypatch.setitem(chunks.CHUNK_VALUES, "cpu", 40 * 3)
    tokens, other = torch.randn(batch, length, 3), torch.randn(batch, length, 3)
    weight = torch.randn(batch, 3, 5)
    seen: list[torch.Size] = []

    def mixed(one: Tensor, two: Tensor, weight: Tensor) -> Tensor:
        seen.append(one.shape)
        return (one - two) @ weight

    with torch.no_grad():
        got = in_chunks(mixed, (tokens, other), weight, width=3)
    torch.testing.assert_close(got, (tokens - other) @ weight)
    assert len(seen) == calls
    assert all(shape[:2].numel() <= 40 for shape in seen)


def test_chunks_may_overwrite_their_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """The input given as `out`, if the dtypes agree; no input while gradients are recorded."""
    monkeypatch.setitem(chunks.CHUNK_VALUES, "cpu", 4 * 3)
    tokens, other = torch.randn(2, 10, 3), torch.randn(2, 10, 3)
    expected, before = tokens + other, other.clone()
    with torch.no_grad():
        assert in_chunks(torch.add, (tokens, other), width=3, out=other) is other
        torch.testing.assert_close(other, expected, rtol=0, atol=0)

        halves = before.bfloat16()
        got = in_chunks(torch.add, (tokens, halves), width=3, out=halves)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, tokens + halves, rtol=0, atol=0)
        torch.testing.assert_close(halves, before.bfloat16(), rtol=0, atol=0)
    kept = before.clone()
    with torch.enable_grad():
        torch.testing.assert_close(in_chunks(torch.add, (tokens, kept), width=3, out=kept), expected, rtol=0, atol=0)
    torch.testing.assert_close(kept, before, rtol=0, atol=0)
