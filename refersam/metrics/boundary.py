"""Boundary IoU (Cheng et al., 2021): how well a mask follows the outline of its target."""

from __future__ import annotations

import math

import numpy as np

DISTANCE = 0.02
"""Width of a boundary region as a share of the image's diagonal."""


def boundary_distance(height: int, width: int) -> int:
    """Return the width of a boundary region in pixels, at least 1."""
    return max(1, round(DISTANCE * math.hypot(height, width)))


def boundary_region(mask: np.ndarray, distance: int) -> np.ndarray:
    """Return the pixels of a mask that are near its outline; the border of the image counts as outline.

    Args:
        mask: (H, W) bool.
        distance: in pixels: what `distance` erosions by a 3 x 3 square remove.

    Returns:
        (H, W) bool.
    """
    region = mask.copy()
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size:
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        # Erosion by a square is one by a column, then one by a row.
        region[window] &= ~_erode_rows(_erode_rows(mask[window], distance).T, distance).T
    return region


def _erode_rows(mask: np.ndarray, distance: int) -> np.ndarray:
    """(H, W) bool -> (H, W) bool: pixels with no pixel outside the mask up to `distance` rows above or below."""
    kept, span = np.pad(mask, ((distance, distance), (0, 0))), 1
    while span < 2 * distance + 1:  # row i of `kept` says whether rows i to i + span - 1 are all set
        step = min(span, 2 * distance + 1 - span)
        kept, span = kept[:-step] & kept[step:], span + step
    return kept


def compare_boundaries(prediction: np.ndarray, truth: np.ndarray) -> tuple[int, int]:
    """Return intersection and union of the boundary regions in pixels; the masks are (H, W) bool of one shape."""
    distance = boundary_distance(*truth.shape)
    one, other = boundary_region(prediction, distance), boundary_region(truth, distance)
    return int(np.count_nonzero(one & other)), int(np.count_nonzero(one | other))
