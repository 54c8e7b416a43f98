"""Connected components of masks, and masks without specks."""

from __future__ import annotations

import numpy as np

from refersam.config import MIN_COMPONENT_FRACTION


def label_components(mask: np.ndarray) -> np.ndarray:
    """Number the connected components of a mask; pixels that touch at a side or a corner are connected.

    Args:
        mask: (H, W) bool.

    Returns:
        (H, W) int32: 0 outside the mask, 1 for the component of the first pixel in reading order, then 2, ...
    """
    starts, ends, labels = _label_runs(mask)
    changes = np.zeros(mask.size + 1, np.int32)  # of the label along the pixels in reading order
    np.add.at(changes, starts, labels)
    np.subtract.at(changes, ends, labels)
    return np.cumsum(changes[:-1], dtype=np.int32).reshape(mask.shape)


def drop_specks(mask: np.ndarray, min_fraction: float = MIN_COMPONENT_FRACTION) -> np.ndarray:
    """Remove the components that are small beside the largest one.

    Args:
        mask: (H, W) bool.
        min_fraction: in [0, 1]; a component with less than this fraction of the largest component's area is removed.

    Returns:
        (H, W) bool: a copy, or `mask` itself where nothing is removed.
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
    """Split a mask into runs, its rows' maximal sequences of set pixels.

    Returns:
        For each of R runs in reading order: its first pixel, the pixel after its last, both as indices into the
        flattened mask, and the number of its component, from 1 in the order of their first runs.
    """
    height, width = mask.shape
    stride = width + 2  # two cleared pixels end each row: runs of different rows never touch along the flattened rows
    padded = np.zeros((height, stride), np.int8)
    padded[:, 1:-1] = mask
    edges = np.flatnonzero(np.diff(padded.reshape(-1))) + 1
    starts, ends = edges[::2], edges[1::2]
    # A run touches those of the row above that begin before or at its end, and end at or after its start.
    first = np.searchsorted(ends, starts - stride)
    touching = np.searchsorted(starts, ends - stride, side="right") - first
    below = np.repeat(np.arange(starts.size), touching)
    above = np.arange(below.size) - np.repeat(np.cumsum(touching) - touching, touching) + np.repeat(first, touching)
    roots = _union(starts.size, above, below)
    labels = np.unique(roots, return_inverse=True)[1] + 1
    offsets = 2 * (starts // stride) + 1
    return starts - offsets, ends - offsets, labels


def _union(count: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """For each of `count` nodes, the smallest node of its component; `one` and `other` are the ends of the edges."""
    parents = np.arange(count)
    while True:
        lower, higher = np.minimum(parents[one], parents[other]), np.maximum(parents[one], parents[other])
        if np.array_equal(lower, higher):
            return parents
        np.minimum.at(parents, higher, lower)
        while not np.array_equal(parents, shorter := parents[parents]):
            parents = shorter
