"""Operations on maps against their plain formulas."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from refersam.model.fast.maps import normalise, repeat_per_phrase, resize


def test_repeat_per_phrase() -> None:
    """The phrases of an image are consecutive; nothing is copied for one phrase per image."""
    features = torch.tensor([[1.0], [2.0]])
    assert repeat_per_phrase(features, 6).flatten().tolist() == [1, 1, 1, 2, 2, 2]
    assert repeat_per_phrase(features, 2) is features


def exported(module: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    """Run the exported graph of a module."""
    return torch.export.export(module, inputs).module()(*inputs)


class Call(nn.Module):
    """A function as a module, for export."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Call the function."""
        return self.function(values)  # type: ignore[operator]


def test_repeat_per_phrase_in_a_graph() -> None:
    """The exported graph gives the same repetition."""
    features = torch.randn(3, 2)
    found = exported(Call(lambda values: repeat_per_phrase(values, 6)), features)
    assert torch.equal(found, features.repeat_interleave(2, dim=0))


def test_resize() -> None:
    """As `F.interpolate`; returns its input if the size is right, except in an exported graph."""
    maps = torch.randn(1, 2, 4, 6)
    assert resize(maps, (4, 6), mode="bilinear") is maps
    larger = resize(maps, (8, 9), mode="bilinear")
    torch.testing.assert_close(larger, F.interpolate(maps, size=(8, 9), mode="bilinear", align_corners=False))
    module = Call(lambda values: resize(values, (4, 6), mode="bilinear") + 0)
    called = [node.name for node in torch.export.export(module, (maps,)).graph.nodes]
    assert any("upsample" in name for name in called)
    torch.testing.assert_close(exported(module, maps), maps)


def test_the_exported_norm_is_a_group_norm() -> None:
    """Up to rounding."""
    norm = nn.GroupNorm(1, 6, eps=1e-6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    maps = torch.randn(2, 6, 5, 7) + 0.5
    assert torch.equal(normalise(norm, maps), norm(maps))
    torch.testing.assert_close(exported(Call(lambda values: normalise(norm, values)), maps), norm(maps))
