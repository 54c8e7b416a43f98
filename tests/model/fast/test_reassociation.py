"""Reassociated attention against the plain formula of the same module, and the choice between them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from refersam.model.attention import Attention, LevelAttention
from refersam.model.fast import reassociation
from refersam.model.fast.reassociation import attend_to_few_keys, attend_to_levels, costs

LEVELS = [24, 6, 2]


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tensor]:
    """Call with an attention and its inputs to compute the reference implementation."""

    def call(module: nn.Module, *inputs: object) -> Tensor:
        with monkeypatch.context() as patch:
            patch.setattr(reassociation, "MAX_COST_RATIO", 0.0)
            return module(*inputs)

    return call


def gradients(output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Return the gradients of a fixed weighted sum of the output."""
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return list(torch.autograd.grad((output * weights).sum(), inputs))


def assert_same(found: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    """Output and gradients; equal up to rounding in double precision."""
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for left, right in zip(gradients(found, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("masked", [False, True])
def test_few_keys(plainly: Callable[..., Tensor], masked: bool) -> None:
    """Queries and keys of different widths; some keys of each sample masked."""
    module = Attention(query_size=12, key_size=20, hidden_size=24, num_heads=3).double()
    query, key, value = (torch.randn(2, n, c).double().requires_grad_() for n, c in ((9, 12), (5, 20), (5, 20)))
    mask = torch.tensor([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0]]).bool() if masked else None
    expected = plainly(module, query, key, value, mask)
    assert_same(
        attend_to_few_keys(module, query, key, value, mask), expected, [query, key, value, *module.parameters()]
    )


@pytest.mark.parametrize("batch", [1, 2])
def test_few_queries(plainly: Callable[..., Tensor], batch: int) -> None:
    """With gradients, and in inference, where scores are overwritten."""
    module = LevelAttention(query_size=12, key_size=20, hidden_size=24, num_heads=3).double()
    query, key, value = (torch.randn(batch, n, c).double() for n, c in ((5, 12), (32, 20), (32, 20)))
    expected = plainly(module, query, key, value, LEVELS)
    # The bias of the keys has no effect: its gradient is rounding noise in one form and zero in the other.
    inputs = [parameter for parameter in module.parameters() if parameter is not module.k_proj.bias]
    found = attend_to_levels(module, query, key, value, LEVELS)
    zero = torch.autograd.grad(found.sum(), module.k_proj.bias, retain_graph=True, allow_unused=True)[0]
    assert zero is None or not zero.any()
    assert_same(found, expected, inputs)
    with torch.no_grad():
        torch.testing.assert_close(attend_to_levels(module, query, key, value, LEVELS), expected)


def test_the_cheaper_form_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the sizes of the base model at 448 px: reassociated for a phrase, plain between two long sides."""
    taken: list[str] = []
    for name in ("attend_to_few_keys", "attend_to_levels"):
        monkeypatch.setattr(reassociation, name, lambda _module, query, *_rest, name=name: taken.append(name) or query)
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda query, *_, **__: taken.append("plain") or query
    )
    sizes = {"query_size": 768, "key_size": 768, "hidden_size": 768, "num_heads": 12}
    module, levels = Attention(**sizes), LevelAttention(**sizes)
    pyramid, text = torch.empty(1, 4116, 768), torch.empty(1, 36, 768)
    module(pyramid, text, text)
    module(text, pyramid, pyramid)
    module(pyramid, pyramid, pyramid)
    levels(text, pyramid, pyramid, [3136, 784, 196])
    assert taken == ["attend_to_few_keys", "plain", "plain", "attend_to_levels"]


@pytest.mark.parametrize("reassociated", [False, True])
def test_exported_graphs_have_the_recorded_form(reassociated: bool) -> None:
    """The form that is cheaper at the example's size, identified by its matrix products."""
    module = Attention(query_size=12, key_size=20, hidden_size=24, num_heads=3)
    module.reassociated_in_export = reassociated
    query, key = torch.randn(1, 32, 12), torch.randn(1, 5, 20)
    graph = torch.export.export(module, (query, key, key)).graph
    called = {node.name for node in graph.nodes if node.op == "call_function"}
    assert any(name.startswith("scaled_dot_product_attention") for name in called) is not reassociated


def count_multiplications(call: Callable[[], Tensor]) -> int:
    """Count the operations with PyTorch: two per multiplication."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # the fused kernel is not counted
        call()
    return counter.get_total_flops() // 2


def test_costs_are_multiplications(plainly: Callable[..., Tensor]) -> None:
    """Each form as counted by PyTorch, except lower-order terms that `costs` omits."""
    sizes = {"query_size": 12, "key_size": 20, "hidden_size": 24, "num_heads": 3}
    levels, attention = LevelAttention(**sizes), Attention(**sizes)
    query, key = torch.randn(1, 5, 12), torch.randn(1, 32, 20)
    mixing = 5 * levels.level_weights.weight.numel()
    found = count_multiplications(lambda: plainly(levels, query, key, key, LEVELS))
    assert found - mixing == costs(levels, 5, 32).plain
    found = count_multiplications(lambda: attend_to_levels(levels, query, key, key, LEVELS))
    assert found - mixing == costs(levels, 5, 32).few_queries
    query, key = torch.randn(1, 32, 12), torch.randn(1, 5, 20)
    found = count_multiplications(lambda: attend_to_few_keys(attention, query, key, key, None))
    query_bias = 24 * 5
    assert found - query_bias == costs(attention, 32, 5).few_keys


@pytest.mark.parametrize("num_keys", [1, 20, 36, 200, 4116])
def test_the_choice_follows_the_counted_multiplications(monkeypatch: pytest.MonkeyPatch, num_keys: int) -> None:
    """The reassociated form runs exactly if it needs at most the given share of the plain form's multiplications."""
    module = Attention(query_size=48, key_size=48, hidden_size=48, num_heads=3)
    counted = costs(module, 1000, num_keys)
    for ratio in (0.9 * counted.few_keys / counted.plain, 1.1 * counted.few_keys / counted.plain):
        monkeypatch.setattr(reassociation, "MAX_COST_RATIO", ratio)
        assert reassociation.pays(module, 1000, num_keys) == (ratio * counted.plain >= counted.few_keys)
