"""Where in the picture each token of a pyramid lies, told by linear heads.

Text reads what a pyramid's tokens hold, and finds them by their positions, but does not read these: so a word that has
found the red ring can tell the other tokens where that is only if the ring's tokens themselves hold it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

SIDES_PER_UNIT = 10
"""The loss is in units of a tenth of the side, about the size of an object."""


class PositionHeads(nn.Module):
    """A linear head per pyramid, for all its levels alike; for training alone.

    Args:
        hidden_size: width of the pyramids.
        num_pyramids: heads.
    """

    def __init__(self, hidden_size: int, num_pyramids: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(hidden_size, 2) for _ in range(num_pyramids))

    def forward(self, pyramids: Sequence[Tensor], centres: Tensor) -> Tensor:
        """Mean distance along an axis between where tokens are told to be and where they are, in tenths of the side.

        Each level weighs by its number of tokens.

        Args:
            pyramids: (B, L, D) each, as many as heads.
            centres: (L, 2) centres (x, y) of the tokens in [0, 1] (`PyramidGeometry.reference_points`).
        """
        total = centres.new_zeros(())
        for head, pyramid in zip(self.heads, pyramids, strict=True):
            total = total + (head(pyramid).float() - centres).abs().mean()
        return SIDES_PER_UNIT * total / len(self.heads)
