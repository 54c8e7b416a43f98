"""Colour, shape and pattern: labels of cells, and the heads that classify them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sceneref import SceneRefSettings, generate_scene
from sceneref.colours import COLOURS
from sceneref.objects import PATTERNS, SHAPES
from sceneref.training.attributes import AttributeHeads, attribute_labels, cell_labels


def test_labels_of_cells() -> None:
    """Checked pixel by pixel: the object that covers enough of a cell, the topmost of several."""
    scene = generate_scene(SceneRefSettings(width=96, height=64, phrases_per_scene=1), "train", 0, 3)
    labelled = 0
    for stride, least in ((8, 0.5), (16, 0.2)):
        labels = cell_labels(torch.from_numpy(scene.masks).float(), attribute_labels(scene.objects), stride)
        assert labels.shape == (3, 64 // stride, 96 // stride)
        for row, column in np.ndindex(*labels.shape[1:]):
            cell = np.s_[row * stride : (row + 1) * stride, column * stride : (column + 1) * stride]
            here = [i for i, mask in enumerate(scene.masks) if mask[cell].mean() > least]
            found = labels[:, row, column].tolist()
            if here:
                item = scene.objects[here[-1]]
                expected = COLOURS.index(item.colour), SHAPES.index(item.shape), PATTERNS.index(item.pattern)
                assert found == list(expected)
                labelled += 1
            else:
                assert found == [-1, -1, -1]
    assert labelled > 5


def test_attributes_do_not_depend_on_how_images_are_distributed() -> None:
    """Images with many objects and with none: the mean of two batches equals that of the joint batch."""
    torch.manual_seed(0)
    heads, pyramid = AttributeHeads(8), torch.rand(2, 64 + 16 + 4, 8)
    labels = {8: torch.randint(-1, 3, (2, 3, 8, 8)), 16: torch.randint(-1, 3, (2, 3, 4, 4))}
    for of in labels.values():
        of[:, 1:] = torch.where(of[:, :1] < 0, -1, of[:, 1:].clamp(min=0))
        of[1, :, :, 1:] = -1
    together = heads(pyramid, labels)
    apart = [heads(pyramid[i : i + 1], {stride: of[i : i + 1] for stride, of in labels.items()}) for i in range(2)]
    for name, value in together.items():
        assert value.item() == pytest.approx((apart[0][name].item() + apart[1][name].item()) / 2, rel=1e-5), name
    empty = heads(pyramid, {stride: torch.full_like(of, -1) for stride, of in labels.items()})
    assert {value.item() for value in empty.values()} == {0.0}
