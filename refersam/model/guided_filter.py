"""A mask at the picture's edges: the fast guided filter in place of bilinear upsampling.

A mask of stride 4 knows where an object is, but not where exactly it ends; the picture does. In every small window
the logits are written as a linear function of the picture's three channels (ridge regression), the functions of all
windows that see a pixel are averaged, and the picture at full size says the rest: where its colours change, the
logits do. No weights, nothing to compile, a fraction of a layer's time; gradients pass to the logits.

Source: K. He, J. Sun, X. Tang: Guided Image Filtering, ECCV 2010; K. He, J. Sun: Fast Guided Filter, 2015.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

STRIDE = 4
"""Of SAM's masks, in pixels of the network's input."""

BOUND = 8.0
"""Logits beyond come close to this one, softly, so that gradients still pass."""


def guided_upsampling(logits: Tensor, guide: Tensor, radius: int, epsilon: float) -> Tensor:
    """Bring masks to the size of the pictures that they are of, along the pictures' edges.

    Args:
        logits: (B, h, w), of B phrases; those of one picture follow one another.
        guide: (I, 3, H, W) pictures, B a multiple of I, H and W four times h and w.
        radius: of the windows, in cells of the logits: (2 radius + 1) squared.
        epsilon: of the regression, in squared units of the guide: edges of less contrast are smoothed over.

    Returns:
        (B, H, W) in the logits' number format; computed in float32.
    """
    count = guide.shape[0]
    guide, values = guide.float(), logits.float()
    # A few cells of very large logits must not outvote the rest of a window.
    values = values / (1 + values.abs() / BOUND)
    values = values.unflatten(0, (count, -1)).unsqueeze(2)  # (I, P, 1, h, w)
    small = F.avg_pool2d(guide, STRIDE).unsqueeze(1)  # (I, 1, 3, h, w)
    means, value_means = _window_means(small, radius), _window_means(values, radius)
    variances = _window_means(_products(small), radius) - _products(means)
    shared = _window_means(small * values, radius) - means * value_means  # (I, P, 3, h, w)
    slopes = _solve(variances, epsilon, shared)
    offsets = value_means - (slopes * means).sum(dim=2, keepdim=True)
    lines = _window_means(torch.cat([slopes, offsets], dim=2), radius)  # (I, P, 4, h, w)
    lines = F.interpolate(lines.flatten(0, 1), size=guide.shape[2:], mode="bilinear", align_corners=False)
    lines = lines.unflatten(0, (count, -1))  # (I, P, 4, H, W)
    mask = (lines[:, :, :3] * guide.unsqueeze(1)).sum(dim=2) + lines[:, :, 3]
    return mask.flatten(0, 1).to(logits.dtype)


def _window_means(maps: Tensor, radius: int) -> Tensor:
    """(..., h, w) -> the same, the mean over the window around each cell, of cells inside the map."""
    side = 2 * radius + 1
    flat = maps.flatten(0, -3)
    rows = F.avg_pool2d(flat, (side, 1), stride=1, padding=(radius, 0), count_include_pad=False)
    means = F.avg_pool2d(rows, (1, side), stride=1, padding=(0, radius), count_include_pad=False)
    return means.unflatten(0, maps.shape[:-2])


def _products(colours: Tensor) -> Tensor:
    """(I, 1, 3, h, w) -> (I, 1, 6, h, w): of every two channels, a channel with itself among them."""
    red, green, blue = colours.unbind(dim=2)
    return torch.stack([red * red, red * green, red * blue, green * green, green * blue, blue * blue], dim=2)


def _solve(matrices: Tensor, epsilon: float, right: Tensor) -> Tensor:
    """x of (A + epsilon) x = right for symmetric 3 x 3 matrices A, cell by cell, as L D L^T.

    Args:
        matrices: (I, 1, 6, h, w), A's entries 11, 12, 13, 22, 23, 33.
        epsilon: on the diagonal.
        right: (I, P, 3, h, w).
    """
    a11, a12, a13, a22, a23, a33 = matrices.unbind(dim=2)
    d1 = a11 + epsilon
    l21, l31 = a12 / d1, a13 / d1
    d2 = a22 + epsilon - l21 * a12
    l32 = (a23 - l31 * a12) / d2
    d3 = a33 + epsilon - l31 * a13 - l32 * l32 * d2
    y1, y2, y3 = right.unbind(dim=2)
    y2 = y2 - l21 * y1
    y3 = y3 - l31 * y1 - l32 * y2
    x3 = y3 / d3
    x2 = y2 / d2 - l32 * x3
    x1 = y1 / d1 - l21 * x2 - l31 * x3
    return torch.stack([x1, x2, x3], dim=2)
