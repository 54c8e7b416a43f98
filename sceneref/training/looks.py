"""Colour, shape and pattern of the object in each cell, and linear heads that learn to classify them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sceneref.colours import COLOURS
from sceneref.objects import PATTERNS, SHAPES, SceneObject

LEAST_COVER = {8: 0.5, 16: 0.2}
"""By stride of the pyramid's first levels: share of a cell that an object must cover to label the cell."""
LOOKS = {"colour": COLOURS, "shape": SHAPES, "pattern": PATTERNS}
"""Attributes that are classified, with their values in the order of the labels."""


def looks_of(objects: Iterable[SceneObject]) -> Tensor:
    """Return (k, 3) labels of the `LOOKS` of k objects."""
    return torch.tensor([[values.index(getattr(item, name)) for name, values in LOOKS.items()] for item in objects])


def cell_labels(masks: Tensor, looks: Tensor, stride: int) -> Tensor:
    """Label each cell with the `LOOKS` of the object in it.

    Args:
        masks: (k, H, W) in [0, 1], visible pixels of the objects in drawing order.
        looks: (k, 3), see `looks_of`.
        stride: pixels per cell.

    Returns:
        (3, H/stride, W/stride) labels; -1 where there is no object.
    """
    cover = F.avg_pool2d(masks.unsqueeze(1), stride).squeeze(1)
    labels = torch.full((looks.shape[1], *cover.shape[1:]), -1)
    for numbers, share in zip(looks, cover, strict=True):
        labels = torch.where(share > LEAST_COVER[stride], numbers[:, None, None], labels)
    return labels


class LooksHeads(nn.Module):
    """Linear heads over the pyramid's first levels, for training only.

    Args:
        hidden_size: width of the pyramid.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.counts = [len(values) for values in LOOKS.values()]
        self.levels = nn.ModuleList(nn.Linear(hidden_size, sum(self.counts)) for _ in LEAST_COVER)

    def forward(self, pyramid: Tensor, cells: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """Compute the cross-entropy of each attribute, summed over levels, and its accuracy at the last level.

        Both are means over the labelled cells of an image, then over images, so that they do not depend on how images
        are distributed over processes.

        Args:
            pyramid: (I, L, D) of I images.
            cells: `cell_labels` of the images by stride, each (I, 3, H/stride, W/stride).

        Returns:
            Cross-entropies by name of the `LOOKS`; accuracies in [0, 1] as "shape accuracy" and so on.
        """
        terms = {name: torch.zeros((), device=pyramid.device) for name in LOOKS}
        start = 0
        for head, labels in zip(self.levels, cells.values(), strict=True):
            by_look = labels.flatten(2).unbind(1)  # each (I, cells)
            logits = cast(Tensor, head(pyramid[:, start : start + by_look[0].shape[1]])).float()
            predicted = logits.split(self.counts, dim=-1)
            start += by_look[0].shape[1]
            is_object = by_look[0] >= 0
            count = is_object.sum(dim=1).clamp(min=1)  # objects may all be too small for a cell: then the loss is 0
            for name, scores, target in zip(LOOKS, predicted, by_look, strict=True):
                error = F.cross_entropy(scores.transpose(1, 2), target, ignore_index=-1, reduction="none")
                terms[name] = terms[name] + (error.sum(dim=1) / count).mean()
        for name, scores, target in zip(LOOKS, predicted, by_look, strict=True):  # of the last stride
            terms[f"{name} accuracy"] = (((scores.argmax(-1) == target) & is_object).sum(dim=1) / count).mean()
        return terms
