"""Each form of attention against the formula written out, and the choice between them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from refersam.model import attention
from refersam.model.attention import Attention, LevelAttention

LEVELS = [24, 6, 2]


def written_out(module: Attention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Multi-head attention, head by head."""
    width = module.q_proj.out_features // module.num_heads
    q, k, v = module.q_proj(query), module.k_proj(key), module.v_proj(value)
    heads = []
    for head in range(module.num_heads):
        part = slice(head * width, (head + 1) * width)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / width**0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], -torch.inf)
        heads.append(scores.softmax(-1) @ v[..., part])
    return module.out_proj(torch.cat(heads, dim=-1))


def gradients(output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Of a fixed weighted sum of the output."""
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return list(torch.autograd.grad((output * weights).sum(), inputs))


def assert_same(found: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    """Output and gradients; exact up to rounding in double precision."""
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for left, right in zip(gradients(found, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("form", ["plain", "fold_queries"])
def test_attention(form: str, masked: bool) -> None:
    """Queries and keys of different widths; some keys of each sample hidden."""
    module = Attention(query_size=12, key_size=20, hidden_size=24, num_heads=3).double()
    query, key, value = (torch.randn(2, n, c).double().requires_grad_() for n, c in ((9, 12), (5, 20), (5, 20)))
    mask = torch.tensor([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0]]).bool() if masked else None
    inputs = [query, key, value, *module.parameters()]
    assert_same(getattr(module, form)(query, key, value, mask), written_out(module, query, key, value, mask), inputs)


@pytest.mark.parametrize("form", ["plain_levels", "fold_level_keys"])
def test_level_attention(form: str) -> None:
    """A softmax per level, then the levels' shares per head and query."""
    module = LevelAttention(query_size=12, key_size=20, hidden_size=24, num_heads=3).double()
    query, key, value = (torch.randn(2, n, c).double() for n, c in ((5, 12), (32, 20), (32, 20)))
    shares = module.level_weights(query).unflatten(2, (3, 3)).softmax(-1)  # (B, Nq, heads, levels)
    attended = torch.zeros(2, 3, 5, 8, dtype=torch.float64)
    q, k, v = (x.unflatten(2, (3, 8)) for x in (module.q_proj(query), module.k_proj(key), module.v_proj(value)))
    start = 0
    for level, length in enumerate(LEVELS):
        part = slice(start, start + length)
        start += length
        probability = (torch.einsum("bqhc,bkhc->bhqk", q, k[:, part]) / 8**0.5).softmax(-1)
        attended += torch.einsum("bhqk,bkhc,bqh->bhqc", probability, v[:, part], shares[..., level])
    # The keys' bias has no effect at all, so its gradient is rounding noise in one form and zero in the other.
    inputs = [p for p in module.parameters() if p is not module.k_proj.bias and p is not module.out_proj.bias]
    inputs = [p for p in inputs if p is not module.out_proj.weight]
    assert_same(getattr(module, form)(query, key, value, LEVELS), attended, inputs)


def test_the_cheapest_form_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the sizes of the base model at 448 px: folded for a phrase; plain where both sides are long."""
    taken = []
    for name in ("plain", "fold_queries"):
        monkeypatch.setattr(Attention, name, lambda self, q, *_rest, name=name: taken.append(name) or q)
    module = Attention(query_size=768, key_size=768, hidden_size=768, num_heads=12)
    pyramid, text = torch.empty(1, 4116, 768), torch.empty(1, 36, 768)
    module(pyramid, text, text)
    module(text, pyramid, pyramid)
    module(pyramid, pyramid, pyramid)
    assert taken == ["fold_queries", "plain", "plain"]


def test_costs_are_multiplications() -> None:
    """Counted by torch, in every form: two operations per multiplication."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    module = LevelAttention(query_size=12, key_size=20, hidden_size=24, num_heads=3)
    query, key = torch.randn(1, 5, 12), torch.randn(1, 32, 20)
    for cost, form in zip(module.costs(5, 32)[:2], (module.plain_levels, module.fold_level_keys), strict=True):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # the fused kernel is not counted
            module.out_proj(form(query, key, key, LEVELS).transpose(1, 2).flatten(2))
            mixing = 2 * 5 * module.level_weights.weight.numel()
        assert counter.get_total_flops() - mixing == 2 * cost, form
    plain = Attention(query_size=12, key_size=20, hidden_size=24, num_heads=3)
    query, key = torch.randn(1, 32, 12), torch.randn(1, 5, 20)
    with FlopCounterMode(display=False) as counter:
        plain.fold_queries(query, key, key, None)
    offsets = 2 * 24 * 5  # the queries' bias against the keys: left out of the estimate
    assert counter.get_total_flops() - offsets == 2 * plain.costs(32, 5)[2]
    assert 0 < attention.FOLDING_GAIN <= 1
