"""Upsamplers: from SAM's masks at stride 4 to the size of the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDE = 4
"""Stride of SAM's masks, in pixels of the network's input."""

BOUND = 8.0
"""Bound that the guided filter compresses logits to, softly, so that gradients pass everywhere."""


class BilinearUpsampler(nn.Module):
    """Bilinear upsampling with aligned corners, as in the authors' model."""

    uses_guide = False

    def forward(self, logits: Tensor, _guide: Tensor | None = None) -> Tensor:
        """Upsample (B, H/4, W/4) mask logits to (B, H, W)."""
        size = [STRIDE * side for side in logits.shape[1:]]
        return F.interpolate(logits.unsqueeze(1), size=size, mode="bilinear", align_corners=True).squeeze(1)


class GuidedUpsampler(nn.Module):
    """Upsampling along the edges of the image by the fast guided filter.

    In each small window, a ridge regression writes the logits as a linear function of the three image channels. The
    functions of all windows that contain a pixel are averaged, and applied to the image at full size. The filter has no
    weights; gradients pass to the logits.

    Source: K. He, J. Sun, X. Tang: Guided Image Filtering, ECCV 2010; K. He, J. Sun: Fast Guided Filter, 2015.

    Args:
        radius: radius of the windows, in cells of the logits: (2 radius + 1) squared.
        epsilon: weight of the ridge penalty, in squared units of the image; edges of less contrast are smoothed.
    """

    uses_guide = True

    def __init__(self, radius: int, epsilon: float) -> None:
        super().__init__()
        self.radius, self.epsilon = radius, epsilon

    def forward(self, logits: Tensor, guide: Tensor | None) -> Tensor:
        """Upsample mask logits.

        Args:
            logits: (B, H/4, W/4) mask logits; the phrases of an image follow one another.
            guide: (I, 3, H, W) images; B is a multiple of I.

        Returns:
            (B, H, W) mask logits in the dtype of `logits`, computed in float32.

        Raises:
            ValueError: guide is None.
        """
        if guide is None:
            raise ValueError("The guided filter needs the images as its guide, but guide is None.")
        count = guide.shape[0]
        guide, values = guide.float(), logits.float()
        values = values / (1 + values.abs() / BOUND)  # a few extreme logits must not dominate a window
        values = values.unflatten(0, (count, -1)).unsqueeze(2)  # (I, P, 1, h, w)
        small = F.avg_pool2d(guide, STRIDE).unsqueeze(1)  # (I, 1, 3, h, w)
        means, value_means = self._window_means(small), self._window_means(values)
        variances = self._window_means(_products(small)) - _products(means)
        covariances = self._window_means(small * values) - means * value_means  # (I, P, 3, h, w)
        slopes = _solve(variances, self.epsilon, covariances)
        offsets = value_means - (slopes * means).sum(dim=2, keepdim=True)
        functions = self._window_means(torch.cat([slopes, offsets], dim=2))  # (I, P, 4, h, w)
        functions = F.interpolate(functions.flatten(0, 1), size=guide.shape[2:], mode="bilinear", align_corners=False)
        functions = functions.unflatten(0, (count, -1))  # (I, P, 4, H, W)
        mask = (functions[:, :, :3] * guide.unsqueeze(1)).sum(dim=2) + functions[:, :, 3]
        return mask.flatten(0, 1).to(logits.dtype)

    def _window_means(self, maps: Tensor) -> Tensor:
        """Average (..., h, w) maps over the window around each cell, leaving out cells outside the map."""
        side = 2 * self.radius + 1
        flat = maps.flatten(0, -3)
        rows = F.avg_pool2d(flat, (side, 1), stride=1, padding=(self.radius, 0), count_include_pad=False)
        means = F.avg_pool2d(rows, (1, side), stride=1, padding=(0, self.radius), count_include_pad=False)
        return means.unflatten(0, maps.shape[:-2])


def _products(colours: Tensor) -> Tensor:
    """Multiply each pair of channels, including a channel with itself: (I, 1, 3, h, w) -> (I, 1, 6, h, w)."""
    red, green, blue = colours.unbind(dim=2)
    return torch.stack([red * red, red * green, red * blue, green * green, green * blue, blue * blue], dim=2)


def _solve(matrices: Tensor, epsilon: float, right: Tensor) -> Tensor:
    """Solve (A + epsilon) x = right for symmetric 3 x 3 matrices A in each cell, by L D L^T.

    Args:
        matrices: (I, 1, 6, h, w), entries 11, 12, 13, 22, 23, 33 of A.
        epsilon: value added to the diagonal.
        right: (I, P, 3, h, w).

    Returns:
        (I, P, 3, h, w).
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
