"""What lies in each cell of a drawn scene, and heads that learn to tell it: colour, shape and pattern."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sceneref.colours import COLOURS
from sceneref.objects import PATTERNS, SHAPES, SceneObject

LEAST_COVER = {8: 0.5, 16: 0.2}
"""Share of a cell, by stride, that an object must cover to give the cell its looks; the pyramid's first levels."""
LOOKS = {"colour": COLOURS, "shape": SHAPES, "pattern": PATTERNS}
"""What is learned of the object in a cell, with the values in the order of their labels."""


def looks_of(objects: Iterable[SceneObject]) -> Tensor:
    """(k, 3) numbers of the `LOOKS` of k objects."""
    return torch.tensor([[values.index(getattr(item, name)) for name, values in LOOKS.items()] for item in objects])


def cell_labels(masks: Tensor, looks: Tensor, stride: int) -> Tensor:
    """(3, H/stride, W/stride) numbers of the `LOOKS` in each cell; -1 where there is no object.

    Args:
        masks: (k, H, W) in [0, 1], the visible pixels of the objects in drawing order.
        looks: (k, 3), see `looks_of`.
        stride: pixels to a cell.
    """
    cover = F.avg_pool2d(masks.unsqueeze(1), stride).squeeze(1)
    labels = torch.full((looks.shape[1], *cover.shape[1:]), -1)
    for numbers, share in zip(looks, cover, strict=True):
        labels = torch.where(share > LEAST_COVER[stride], numbers[:, None, None], labels)
    return labels


class LooksHeads(nn.Module):
    """Linear heads over the pyramid's first levels, for training alone.

    Args:
        hidden_size: width of the pyramid.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.counts = [len(values) for values in LOOKS.values()]
        self.levels = nn.ModuleList(nn.Linear(hidden_size, sum(self.counts)) for _ in LEAST_COVER)

    def forward(self, pyramid: Tensor, cells: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """Cross-entropies by `LOOKS`, each the sum over levels; `shape right` and so on, shares at the last in [0, 1].

        Both are means over the cells with an object of a picture, then over pictures, however they are dealt out.

        Args:
            pyramid: (I, L, D) of I pictures.
            cells: `cell_labels` of the pictures by stride, each (I, 3, H/stride, W/stride).
        """
        terms = {name: torch.zeros((), device=pyramid.device) for name in LOOKS}
        start = 0
        for head, labels in zip(self.levels, cells.values(), strict=True):
            by_look = labels.flatten(2).unbind(1)  # each (I, cells)
            logits = cast(Tensor, head(pyramid[:, start : start + by_look[0].shape[1]])).float()
            found = logits.split(self.counts, dim=-1)
            start += by_look[0].shape[1]
            is_object = by_look[0] >= 0
            count = is_object.sum(dim=1).clamp(min=1)  # objects may all be too small for a cell: then there is no loss
            for name, scores, wanted in zip(LOOKS, found, by_look, strict=True):
                error = F.cross_entropy(scores.transpose(1, 2), wanted, ignore_index=-1, reduction="none")
                terms[name] = terms[name] + (error.sum(dim=1) / count).mean()
        for name, scores, wanted in zip(LOOKS, found, by_look, strict=True):  # of the last stride
            terms[f"{name} right"] = (((scores.argmax(-1) == wanted) & is_object).sum(dim=1) / count).mean()
        return terms
