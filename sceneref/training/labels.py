"""Labels of rendered scenes: mentioned objects, attributes of the objects, and conditions stated by phrases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from refersam.data.sample import ReferringImage
from refersam.reprs import OneLineRepr
from refersam.training.data import resize_masks
from sceneref.benchmark import Scene
from sceneref.phrases import ScenePhrase
from sceneref.training.attributes import MIN_COVERAGE, attribute_labels, cell_labels

MENTION_STRIDE = 8
"""Pixels per cell of the label `mentions`: the stride of the pyramid's finest level."""
MENTIONS, ATTRIBUTES, CONDITIONS = "mentions", "attributes", "conditions"
"""Names of the labels in `Batch.extra`."""


@dataclass(frozen=True, repr=False)
class SceneLabels(OneLineRepr):
    """Labels of a rendered scene beyond the targets of its phrases; stored in `ReferringImage.extra`.

    Attributes:
        masks: (k, H, W) bool, visible pixels of the objects in drawing order; the masks are disjoint.
        attributes: (k, 3) class indices of colour, shape and pattern, see `sceneref.training.attributes`.
        mentions: for each phrase and each of its descriptions, the matching objects (`ScenePhrase.mentions`).
        conditions: (n, H, W) int8 for n phrases, see `condition_map`.
    """

    masks: np.ndarray
    attributes: np.ndarray
    mentions: tuple[tuple[tuple[int, ...], ...], ...]
    conditions: np.ndarray

    @classmethod
    def of_scene(cls, scene: Scene) -> SceneLabels:
        """Compute the labels of a scene."""
        conditions = np.stack([condition_map(scene, phrase) for phrase in scene.phrases])
        mentions = tuple(phrase.mentions for phrase in scene.phrases)
        return cls(scene.masks, attribute_labels(scene.objects).numpy(), mentions, conditions)

    def cut(self, rows: slice, columns: slice) -> SceneLabels:
        """Crop or mirror the labels like the image."""
        return replace(self, masks=self.masks[:, rows, columns], conditions=self.conditions[:, rows, columns])


def condition_map(scene: Scene, phrase: ScenePhrase) -> np.ndarray:
    """Label the pixels where the condition of a phrase ("left of ...", "not red") holds.

    A region labels each background pixel by its own position, and each object as a whole by its centre. A negation
    labels objects only.

    Returns:
        (H, W) int8: 1 where the condition holds, 0 where it does not, -1 without label.
    """
    rows, columns = np.indices(scene.image.shape[:2]) + 0.5
    instances = np.full(scene.image.shape[:2], -1)
    for index, mask in enumerate(scene.masks):
        instances[mask] = index
    return condition_at(scene, phrase, instances, columns, rows)


def condition_at(scene: Scene, phrase: ScenePhrase, instances: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Evaluate `condition_map` at given points.

    Args:
        scene: the scene.
        phrase: a phrase about the scene.
        instances: index of the object at each point, -1 for none.
        x, y: coordinates of the points in pixels.

    Returns:
        int8 array of the points' shape.
    """
    is_object = instances >= 0
    if phrase.region is not None:
        centres = np.array([item.centre for item in scene.objects])
        x, y = (np.where(is_object, centres[instances, axis], value) for axis, value in enumerate((x, y)))
        return phrase.region.holds(x, y)
    if phrase.negation_matches is not None:
        return np.where(is_object, np.isin(instances, phrase.negation_matches), -1).astype(np.int8)
    return np.full(instances.shape, -1, np.int8)


def collate_labels(
    images: Sequence[ReferringImage], chosen: Sequence[Sequence[int]], image_size: int
) -> dict[str, Any]:
    """Resize and stack the labels of a batch of I images with B phrases.

    Args:
        images: images with `SceneLabels`.
        chosen: for each image, the indices of its phrases in the batch.
        image_size: side of the network's input in pixels.

    Returns:
        "mentions": (B, 2, H/8, W/8) share of each cell covered by the objects that match the first description of the
        phrase, and by those that match its other descriptions. "attributes": by stride, (I, 3, H/stride, W/stride), see
        `cell_labels`. "conditions": by stride, (B, H/stride, W/stride), `SceneLabels.conditions` at the cell centres.
    """
    mentions: list[Tensor] = []
    attributes: list[dict[int, Tensor]] = []
    conditions: dict[int, list[Tensor]] = {stride: [] for stride in MIN_COVERAGE}
    for image, indices in zip(images, chosen, strict=True):
        labels = image.extra
        if not isinstance(labels, SceneLabels):
            raise TypeError("collate_labels needs images with SceneLabels.")
        objects = torch.from_numpy(resize_masks(labels.masks, image_size)).float() / 255
        cells = F.avg_pool2d(objects, MENTION_STRIDE)
        classes = torch.from_numpy(labels.attributes)
        attributes.append({stride: cell_labels(objects, classes, stride) for stride in MIN_COVERAGE})
        for index in indices:
            mentions.append(mention_mask(cells, labels.mentions[index]))
            for stride, maps in conditions.items():
                maps.append(_at_centres(labels.conditions[index], image_size // stride))
    return {
        MENTIONS: torch.stack(mentions),
        ATTRIBUTES: {stride: torch.stack([each[stride] for each in attributes]) for stride in MIN_COVERAGE},
        CONDITIONS: {stride: torch.stack(maps) for stride, maps in conditions.items()},
    }


def mention_mask(cells: Tensor, mentions: Sequence[Sequence[int]]) -> Tensor:
    """Return the share of each cell that mentioned objects cover.

    Args:
        cells: (k, h, w) share of each cell covered by each object.
        mentions: for each description of the phrase, the matching objects.

    Returns:
        (2, h, w) shares for the objects of the first description and for those of all others.
    """
    others = sorted({index for mention in mentions[1:] for index in mention})
    return torch.stack([cells[list(indices)].sum(dim=0) for indices in (mentions[0], others)])


def _at_centres(labels: np.ndarray, cells: int) -> Tensor:
    """Sample (H, W) labels at the centres of (cells, cells) cells."""
    rows, columns = (((np.arange(cells) + 0.5) * length / cells).astype(int) for length in labels.shape)
    return torch.from_numpy(labels[np.ix_(rows, columns)])
