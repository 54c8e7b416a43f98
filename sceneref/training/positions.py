"""Linear heads that regress the position of each pyramid token.

In the attention of the text to the pyramid, positional encodings are added to the keys, not to the values. The position
of an attended token therefore reaches the text only if the token's content represents it, which this objective trains.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

UNITS_PER_SIDE = 10
"""Scale of the loss: tenths of the image's side, about the size of an object."""


class PositionHeads(nn.Module):
    """One linear head per pyramid, shared by its levels; for training only.

    Args:
        hidden_size: width of the pyramids.
        num_pyramids: number of heads.
    """

    def __init__(self, hidden_size: int, num_pyramids: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(hidden_size, 2) for _ in range(num_pyramids))

    def forward(self, pyramids: Sequence[Tensor], centres: Tensor) -> Tensor:
        """Compute the mean distance per axis between predicted and true positions, in tenths of the side.

        Levels are weighted by their number of tokens.

        Args:
            pyramids: (B, L, D) pyramids, one per head.
            centres: (L, 2) centres (x, y) of the tokens in [0, 1] (`PyramidGeometry.reference_points`).
        """
        total = centres.new_zeros(())
        for head, pyramid in zip(self.heads, pyramids, strict=True):
            total = total + (head(pyramid).float() - centres).abs().mean()
        return UNITS_PER_SIDE * total / len(self.heads)
