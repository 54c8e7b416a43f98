"""Labels of each cell (colour, shape and pattern of the object in it), and linear heads that classify them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sceneref.colours import COLOURS
from sceneref.objects import PATTERNS, SHAPES, SceneObject

MIN_COVERAGE = {8: 0.5, 16: 0.2}
"""Minimum share of a cell that an object must cover to label it, by stride of the pyramid's first two levels."""
ATTRIBUTE_CLASSES = {"colour": COLOURS, "shape": SHAPES, "pattern": PATTERNS}
"""Class names of each classified attribute, in the order of the labels."""


def attribute_labels(objects: Iterable[SceneObject]) -> Tensor:
    """Return the (k, 3) class indices of k objects, in the order of `ATTRIBUTE_CLASSES`."""
    return torch.tensor(
        [[values.index(getattr(item, name)) for name, values in ATTRIBUTE_CLASSES.items()] for item in objects]
    )


def cell_labels(masks: Tensor, attributes: Tensor, stride: int) -> Tensor:
    """Label each cell with the attributes of the object in it.

    Args:
        masks: (k, H, W) in [0, 1], visible pixels of the objects in drawing order.
        attributes: (k, 3) class indices, see `attribute_labels`.
        stride: pixels per cell.

    Returns:
        (3, H/stride, W/stride) class indices; -1 without object.
    """
    cover = F.avg_pool2d(masks.unsqueeze(1), stride).squeeze(1)
    labels = torch.full((attributes.shape[1], *cover.shape[1:]), -1)
    for numbers, share in zip(attributes, cover, strict=True):
        labels = torch.where(share > MIN_COVERAGE[stride], numbers[:, None, None], labels)
    return labels


class AttributeHeads(nn.Module):
    """Linear classifiers of attributes over the pyramid's first two levels, for training only.

    Args:
        hidden_size: width of the pyramid.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.counts = [len(values) for values in ATTRIBUTE_CLASSES.values()]
        self.levels = nn.ModuleList(nn.Linear(hidden_size, sum(self.counts)) for _ in MIN_COVERAGE)

    def forward(self, pyramid: Tensor, cells: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """Compute the cross-entropy of each attribute, summed over levels, and its accuracy at the last level.

        Both are means over the labelled cells of an image, then over images. They are therefore independent of the
        distribution of images over processes.

        Args:
            pyramid: (I, L, D) of I images.
            cells: `cell_labels` of the images by stride, each (I, 3, H/stride, W/stride).

        Returns:
            Cross-entropies by attribute name; accuracies in [0, 1] as "colour accuracy" etc.
        """
        terms = {name: torch.zeros((), device=pyramid.device) for name in ATTRIBUTE_CLASSES}
        start = 0
        for head, labels in zip(self.levels, cells.values(), strict=True):
            by_attribute = labels.flatten(2).unbind(1)  # each (I, cells)
            logits = cast(Tensor, head(pyramid[:, start : start + by_attribute[0].shape[1]])).float()
            predicted = logits.split(self.counts, dim=-1)
            start += by_attribute[0].shape[1]
            is_object = by_attribute[0] >= 0
            count = is_object.sum(dim=1).clamp(min=1)  # all objects may be too small to label a cell: the loss is 0
            for name, scores, target in zip(ATTRIBUTE_CLASSES, predicted, by_attribute, strict=True):
                error = F.cross_entropy(scores.transpose(1, 2), target, ignore_index=-1, reduction="none")
                terms[name] = terms[name] + (error.sum(dim=1) / count).mean()
        for name, scores, target in zip(ATTRIBUTE_CLASSES, predicted, by_attribute, strict=True):  # of the last stride
            terms[f"{name} accuracy"] = (((scores.argmax(-1) == target) & is_object).sum(dim=1) / count).mean()
        return terms
