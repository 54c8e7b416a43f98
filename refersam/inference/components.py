"""Connected components of masks, and removal of specks (small components)."""

from __future__ import annotations

import numpy as np

from refersam.config import MIN_COMPONENT_FRACTION


def label_components(mask: np.ndarray) -> np.ndarray:
    """Label the connected components of a mask with 8-connectivity.

    Args:
        mask: (H, W) bool mask.

    Returns:
        (H, W) int32 labels: 0 outside the mask; 1, 2, ... in the reading order of the components' first pixels.
    """
    starts, ends, labels = _label_runs(mask)
    changes = np.zeros(mask.size + 1, np.int32)  # differences of the labels of consecutive pixels
    np.add.at(changes, starts, labels)
    np.subtract.at(changes, ends, labels)
    return np.cumsum(changes[:-1], dtype=np.int32).reshape(mask.shape)


def drop_specks(mask: np.ndarray, min_fraction: float = MIN_COMPONENT_FRACTION) -> np.ndarray:
    """Remove components that are small relative to the largest one.

    Args:
        mask: (H, W) bool mask.
        min_fraction: minimum area of a component as a fraction of the largest component's area, in [0, 1].

    Returns:
        (H, W) bool mask: a copy, or `mask` itself if nothing is removed.
    """
    if not min_fraction:
        return mask
    starts, ends, labels = _label_runs(mask)
    areas = np.bincount(labels, weights=ends - starts)
    is_speck = areas < min_fraction * areas.max(initial=0)
    is_speck[:1] = False  # no run has the label 0
    removed = is_speck[labels]
    if not removed.any():
        return mask
    kept = mask.copy()
    pixels = kept.reshape(-1)
    for start, end in zip(starts[removed], ends[removed], strict=True):
        pixels[start:end] = False
    return kept


def _label_runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split a mask into runs: maximal horizontal sequences of set pixels.

    Returns:
        Starts, ends (exclusive) and component labels of R runs in reading order. Starts and ends are indices into the
        flattened mask; labels count from 1 in the order of the components' first runs.
    """
    height, width = mask.shape
    stride = width + 2  # two cleared pixels per row separate the runs of consecutive rows in the flattened mask
    padded = np.zeros((height, stride), np.int8)
    padded[:, 1:-1] = mask
    edges = np.flatnonzero(np.diff(padded.reshape(-1))) + 1
    starts, ends = edges[::2], edges[1::2]
    # A run touches the runs of the row above with start <= its end and end >= its start.
    first = np.searchsorted(ends, starts - stride)
    touching = np.searchsorted(starts, ends - stride, side="right") - first
    below = np.repeat(np.arange(starts.size), touching)
    above = np.arange(below.size) - np.repeat(np.cumsum(touching) - touching, touching) + np.repeat(first, touching)
    roots = _union(starts.size, above, below)
    labels = np.unique(roots, return_inverse=True)[1] + 1
    offsets = 2 * (starts // stride) + 1
    return starts - offsets, ends - offsets, labels


def _union(count: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the smallest node of each node's component, for `count` nodes and the edges (`one`, `other`)."""
    parents = np.arange(count)
    while True:
        lower, higher = np.minimum(parents[one], parents[other]), np.maximum(parents[one], parents[other])
        if np.array_equal(lower, higher):
            return parents
        np.minimum.at(parents, higher, lower)
        while not np.array_equal(parents, shorter := parents[parents]):
            parents = shorter
