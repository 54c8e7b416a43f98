"""Each way of sampling maps against the reference implementation, and the choice of the Triton kernel."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from refersam.errors import MissingExtraError
from refersam.model.deformable_attention import DeformableAttention, sample_maps
from refersam.model.fast import sampling
from refersam.model.fast.sampling import TRITON_SWITCH, run_kernel, triton_kernel

SIZES = ((4, 6), (2, 3), (1, 2))


@pytest.mark.parametrize("sizes", [SIZES, ((3, 5),)])
@pytest.mark.parametrize("reach", [1.0, 5.0], ids=["inside", "far outside"])
def test_gathered_samples_are_those_of_the_plain_formula(sizes: tuple[tuple[int, int], ...], reach: float) -> None:
    """In double precision, with points inside, on and outside the border."""
    length = sum(height * width for height, width in sizes)
    values, weights = torch.randn(2, length, 3, 4).double(), torch.rand(2, 7, 3, len(sizes), 2).double()
    locations = (torch.rand(2, 7, 3, len(sizes), 2, 2).double() - 0.5) * reach + 0.5
    locations[0, 0], locations[0, 1], locations[0, 2] = 0.0, 1.0, 0.5
    expected = sample_maps(values, locations, weights, sizes)
    torch.testing.assert_close(sampling.gather(values, locations, weights, sizes), expected)


def test_samples_are_gathered_in_inference_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients need the plain formula."""
    values, locations, weights = torch.randn(1, 15, 2, 4), torch.rand(1, 3, 2, 1, 2, 2), torch.rand(1, 3, 2, 1, 2)
    gathered: list[Tensor] = []
    original = sampling.gather
    monkeypatch.setattr(sampling, "gather", lambda *args: gathered.append(args[0]) or original(*args))
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            sampling.sample(values, locations, weights, ((3, 5),), plain=sample_maps, kernel=None, width=8)
    assert len(gathered) == 1


def test_softmax_of_few_entries() -> None:
    """Equal to PyTorch's in both modes."""
    scores = torch.randn(2, 5, 3, 8)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(sampling.softmax(scores), scores.softmax(dim=-1))


@torch.no_grad()
def test_a_kernel_gets_what_it_needs_to_sample_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """In deformops' layout, with sizes and first cells of the levels as tensors; the switch applies to CUDA only."""
    sizes = ((4, 6), (2, 3), (1, 2))
    seen = []

    def msda(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        """Compute what deformops documents, level by level."""
        seen.append((shapes.tolist(), starts.tolist(), locations.shape, weights.shape))
        parts = []
        for level, ((height, width), start) in enumerate(zip(shapes.tolist(), starts.tolist(), strict=True)):
            cells, one = value[:, start : start + height * width], slice(level, level + 1)
            parts.append(sample_maps(cells, locations[:, :, :, one], weights[:, :, :, one], ((height, width),)))
        return torch.stack(parts).sum(dim=0)

    registry = SimpleNamespace(msda=msda)
    monkeypatch.setitem(sys.modules, "deformops", SimpleNamespace(registry=registry))
    monkeypatch.setitem(sys.modules, "deformops.registry", registry)
    monkeypatch.setenv(TRITON_SWITCH, "0")
    assert triton_kernel() is None
    monkeypatch.setenv(TRITON_SWITCH, "1")
    assert triton_kernel() is msda
    values, weights = torch.randn(2, 32, 3, 4), torch.rand(2, 5, 3, 3, 2)
    locations = torch.rand(2, 5, 3, 3, 2, 2)
    torch.testing.assert_close(
        run_kernel(msda, values, locations, weights, sizes), sample_maps(values, locations, weights, sizes)
    )
    assert seen == [([[4, 6], [2, 3], [1, 2]], [0, 24, 30], locations.shape, weights.shape)]
    layer = DeformableAttention(hidden_size=12, num_heads=3, num_levels=3, num_points=2, value_ratio=0.5)
    layer(torch.randn(1, 2, 12), torch.randn(1, 32, 12), torch.rand(2, 2), sizes)
    assert len(seen) == 1  # not on a CPU


def test_the_switch_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra."""
    monkeypatch.setenv(TRITON_SWITCH, "1")
    monkeypatch.setitem(sys.modules, "deformops", None)
    with pytest.raises(MissingExtraError, match=r"REFERSAM_TRITON=1 needs the package deformops.*\.\[gpu\]"):
        DeformableAttention(hidden_size=12, num_heads=3, num_levels=1, num_points=2, value_ratio=0.5)
