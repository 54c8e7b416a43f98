"""Labels of rendered scenes: mentioned objects, their looks and the conditions that a phrase states."""

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
from sceneref.training.looks import LEAST_COVER, cell_labels, looks_of

MENTION_STRIDE = 8
"""Pixels per cell of the label `mentions`: the stride of the pyramid's finest level."""
MENTIONS, LOOK_LABELS, CONDITIONS = "mentions", "looks", "conditions"
"""Names of the labels in `Batch.extra`."""


@dataclass(frozen=True, repr=False)
class SceneLabels(OneLineRepr):
    """What a rendered scene knows beyond the targets of its phrases; travels as `ReferringImage.extra`.

    Attributes:
        masks: (k, H, W) bool, visible pixels of the objects in drawing order; no two share one.
        looks: (k, 3) labels of their colour, shape and pattern, see `sceneref.training.looks`.
        mentions: for each phrase, for each description in it, the objects that it fits (`ScenePhrase.mentions`).
        conditions: (n, H, W) int8 for n phrases, see `condition_map`.
    """

    masks: np.ndarray
    looks: np.ndarray
    mentions: tuple[tuple[tuple[int, ...], ...], ...]
    conditions: np.ndarray

    @classmethod
    def of_scene(cls, scene: Scene) -> SceneLabels:
        """Collect the labels of a scene."""
        conditions = np.stack([condition_map(scene, phrase) for phrase in scene.phrases])
        mentions = tuple(phrase.mentions for phrase in scene.phrases)
        return cls(scene.masks, looks_of(scene.objects).numpy(), mentions, conditions)

    def cut(self, rows: slice, columns: slice) -> SceneLabels:
        """Crop or mirror the labels like the image."""
        return replace(self, masks=self.masks[:, rows, columns], conditions=self.conditions[:, rows, columns])


def condition_map(scene: Scene, phrase: ScenePhrase) -> np.ndarray:
    """Label where the condition of a phrase ("left of ...", "not red") holds.

    A region holds or does not for every pixel of the background, and for an object as a whole, by its centre. A
    negation labels objects only.

    Returns:
        (H, W) int8: 1 where it holds, 0 where not, -1 without a label.
    """
    rows, columns = np.indices(scene.image.shape[:2]) + 0.5
    owner = np.full(scene.image.shape[:2], -1)
    for index, mask in enumerate(scene.masks):
        owner[mask] = index
    return condition_at(scene, phrase, owner, columns, rows)


def condition_at(scene: Scene, phrase: ScenePhrase, owner: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Evaluate `condition_map` at given points.

    Args:
        scene: with the objects.
        phrase: about the scene.
        owner: for each point the index of the object under it, -1 for none.
        x, y: coordinates of the points in pixels.

    Returns:
        int8, of the points' shape.
    """
    is_object = owner >= 0
    if phrase.place is not None:
        centres = np.array([item.centre for item in scene.objects])
        x, y = (np.where(is_object, centres[owner, axis], value) for axis, value in enumerate((x, y)))
        return phrase.place.holds(x, y)
    if phrase.spared is not None:
        return np.where(is_object, np.isin(owner, phrase.spared), -1).astype(np.int8)
    return np.full(owner.shape, -1, np.int8)


def collate_labels(
    images: Sequence[ReferringImage], chosen: Sequence[Sequence[int]], image_size: int
) -> dict[str, Any]:
    """Resize and stack the labels of a batch of I images with B phrases.

    Args:
        images: with `SceneLabels`.
        chosen: for each image the indices of its phrases in the batch.
        image_size: side of the network's input in pixels.

    Returns:
        "mentions": (B, 2, H/8, W/8) share of each cell covered by the objects that the phrase's first description fits,
        and by those that its other descriptions fit. "looks": by stride, (I, 3, H/stride, W/stride), see `cell_labels`.
        "conditions": by stride, (B, H/stride, W/stride), `SceneLabels.conditions` at the cells' centres.
    """
    mentions: list[Tensor] = []
    looks: list[dict[int, Tensor]] = []
    conditions: dict[int, list[Tensor]] = {stride: [] for stride in LEAST_COVER}
    for image, indices in zip(images, chosen, strict=True):
        labels = image.extra
        if not isinstance(labels, SceneLabels):
            raise TypeError("collate_labels needs images with SceneLabels.")
        objects = torch.from_numpy(resize_masks(labels.masks, image_size)).float() / 255
        cells = F.avg_pool2d(objects, MENTION_STRIDE)
        looks.append({stride: cell_labels(objects, torch.from_numpy(labels.looks), stride) for stride in LEAST_COVER})
        for index in indices:
            mentions.append(mention_mask(cells, labels.mentions[index]))
            for stride, maps in conditions.items():
                maps.append(_at_centres(labels.conditions[index], image_size // stride))
    return {
        MENTIONS: torch.stack(mentions),
        LOOK_LABELS: {stride: torch.stack([each[stride] for each in looks]) for stride in LEAST_COVER},
        CONDITIONS: {stride: torch.stack(maps) for stride, maps in conditions.items()},
    }


def mention_mask(cells: Tensor, mentions: Sequence[Sequence[int]]) -> Tensor:
    """Return the share of each cell that mentioned objects cover.

    Args:
        cells: (k, h, w) share of each cell that each object covers.
        mentions: for each description of the phrase the objects that it fits.

    Returns:
        (2, h, w): of the objects of the first description, and of all others.
    """
    others = sorted({index for mention in mentions[1:] for index in mention})
    return torch.stack([cells[list(indices)].sum(dim=0) for indices in (mentions[0], others)])


def _at_centres(labels: np.ndarray, cells: int) -> Tensor:
    """(H, W) labels -> (cells, cells), those of the pixels at the centres of the cells."""
    rows, columns = (((np.arange(cells) + 0.5) * length / cells).astype(int) for length in labels.shape)
    return torch.from_numpy(labels[np.ix_(rows, columns)])
