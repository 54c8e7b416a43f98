"""Heads that regress the positions of tokens."""

from __future__ import annotations

import pytest
import torch

from sceneref.training.positions import PositionHeads


def test_the_loss_of_positions_by_hand() -> None:
    """In tenths of the side, the mean over axes, tokens and pyramids."""
    heads = PositionHeads(hidden_size=1, num_pyramids=2)
    with torch.no_grad():
        for head in heads.heads:
            head.weight.copy_(torch.tensor([[1.0], [-1.0]]))
            head.bias.copy_(torch.tensor([0.0, 1.0]))
    centres = torch.tensor([[0.25, 0.5], [0.75, 0.5]])
    pyramids = [torch.tensor([[[0.25], [0.75]]]), torch.tensor([[[0.5], [0.5]]])]
    # the first predicts x exactly, and y a quarter off twice; the second the other way round
    assert heads(pyramids, centres).item() == pytest.approx(10 * 0.125)
    assert heads(pyramids[:1] * 2, centres + torch.tensor([0.1, 0.0])).item() == pytest.approx(10 * 0.175)
