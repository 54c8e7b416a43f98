"""Simulated clicks and boxes of a user, for training and evaluation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

FOREGROUND, BACKGROUND, PADDING = 1, 0, -1
"""Labels of clicks, as in `ReferSamModel.forward`."""

BOX_NOISE = 0.1
"""Standard deviation of box noise, as a fraction of its side (Kirillov et al., Segment Anything, 2023, appendix A)."""
MAX_BOX_NOISE = 20.0
"""Largest noise in pixels (same source)."""


def depths(masks: Tensor) -> Tensor:
    """Compute the exact Euclidean distance transform of masks; pixels outside the image count as background.

    Args:
        masks: (B, H, W) bool masks.

    Returns:
        (B, H, W) float32 distances to the nearest background pixel, in pixels; 0 outside the masks.
    """
    height, width = masks.shape[1:]
    if not masks.any():
        return torch.zeros(masks.shape, device=masks.device)
    rows = torch.arange(1, height + 1, device=masks.device, dtype=torch.float32)[:, None]
    above = rows - torch.where(masks, 0.0, rows).cummax(dim=1).values
    below = torch.where(masks, height + 1.0, rows).flip(1).cummin(dim=1).values.flip(1) - rows
    columns = torch.minimum(above, below).square()  # squared distance within the column
    nearest = columns.clone()
    padded = F.pad(columns, (width, width))
    offset = 1
    while offset <= width and offset**2 < nearest.max():
        for start in (width - offset, width + offset):
            torch.minimum(nearest, padded[:, :, start : start + width] + offset**2, out=nearest)
        offset += 1
    return nearest.sqrt()


def next_clicks(
    predicted: Tensor, truth: Tensor, share_of_depth: float = 1.0, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Sample a click at the deepest point of the largest error region, as in interactive segmentation benchmarks.

    Error regions are false negatives (foreground click) and false positives (background click). The largest region is
    the one with the largest inscribed circle, and the click is at the centre of that circle.

    Source: K. Sofiiuk, I. A. Petrov, A. Konushin: Reviving Iterative Training with Mask Guidance, ICIP 2022.

    Args:
        predicted: (B, H, W) bool predicted masks.
        truth: (B, H, W) bool ground truth masks.
        share_of_depth: minimum depth of a random click, as a fraction of the largest depth; 1 for the deepest pixel.
        generator: CPU random generator; None for the default generator of torch.

    Returns:
        (B, 2) points (x, y) in pixels, and (B,) labels; `PADDING` without errors.
    """
    errors = torch.stack([truth & ~predicted, predicted & ~truth], dim=1)  # (B, 2, H, W)
    depth = depths(errors.flatten(0, 1)).unflatten(0, (-1, 2)).flatten(1)  # (B, 2 * H * W)
    deepest = depth.amax(dim=1)
    if share_of_depth < 1:
        chance = torch.rand(depth.shape, generator=generator).to(depth.device)
        depth = torch.where(depth >= share_of_depth * deepest[:, None], chance, -1.0)
    index = depth.argmax(dim=1)
    height, width = truth.shape[1:]
    kind, place = index // (height * width), index % (height * width)
    points = torch.stack([place % width, place // width], dim=1).float()
    return points, torch.where(deepest > 0, torch.where(kind == 0, FOREGROUND, BACKGROUND), PADDING)


def noisy_boxes(truth: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Sample bounding boxes of masks with noise as in the training of SAM.

    Args:
        truth: (B, H, W) bool ground truth masks.
        generator: CPU random generator; None for the default generator of torch.

    Returns:
        (B, 4) boxes (left, top, right, bottom) in pixels, all inclusive; NaN for an empty mask.
    """
    sides = []
    for dim, size in ((1, truth.shape[2]), (2, truth.shape[1])):
        covered = truth.any(dim=dim)  # (B, W), then (B, H)
        index = torch.arange(size, device=truth.device)
        sides.append((torch.where(covered, index, size).amin(dim=1), torch.where(covered, index, -1).amax(dim=1)))
    (left, right), (top, bottom) = sides
    boxes = torch.stack([left, top, right, bottom], dim=1).float()
    lengths = (boxes[:, 2:] - boxes[:, :2] + 1).repeat(1, 2)
    noise = (BOX_NOISE * torch.randn(boxes.shape, generator=generator)).to(boxes.device) * lengths
    limits = torch.tensor([truth.shape[2], truth.shape[1]] * 2, device=boxes.device) - 1.0
    noisy = torch.minimum((boxes + noise.clamp(-MAX_BOX_NOISE, MAX_BOX_NOISE)).clamp(min=0), limits)
    return torch.where(truth.flatten(1).any(dim=1)[:, None], noisy, torch.nan)
