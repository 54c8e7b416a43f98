"""Operations on maps and per-image features that depend on whether a graph with dynamic sizes is exported."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refersam.model.fast.mode import is_exporting


def resize(maps: Tensor, size: tuple[int, ...], mode: str) -> Tensor:
    """Compute `F.interpolate(maps, size, mode=mode, align_corners=False)`; return `maps` itself if it has that size."""
    if not is_exporting() and tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=size, mode=mode, align_corners=False)


def normalise(norm: nn.GroupNorm, maps: Tensor) -> Tensor:
    """Compute `nn.GroupNorm.forward` of a norm with one group.

    ONNX Runtime's operator adds up all values of a map sequentially, which is inaccurate. Exported graphs average one
    axis after another instead.
    """
    if not is_exporting():
        return nn.GroupNorm.forward(norm, maps)
    centred = maps - _mean_of_map(maps)
    scale = norm.weight[:, None, None] * torch.rsqrt(_mean_of_map(centred.square()) + norm.eps)
    return centred * scale + norm.bias[:, None, None]


def _mean_of_map(values: Tensor) -> Tensor:
    """Compute the means of (B, C, H, W) maps: (B, 1, 1, 1)."""
    return values.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True).mean(dim=1, keepdim=True)


def repeat_per_phrase(features: Tensor, num_phrases: int) -> Tensor:
    """Compute `features.repeat_interleave(num_phrases // I, dim=0)`; return `features` itself for one phrase per image.

    Args:
        features: (I, ...) features of I images.
        num_phrases: a multiple of I; the phrases of an image follow one another.

    Returns:
        (num_phrases, ...).
    """
    if is_exporting():  # one graph for every number of images
        phrase = torch.arange(num_phrases, device=features.device)
        return features.index_select(0, phrase * features.shape[0] // num_phrases)
    if features.shape[0] == num_phrases:
        return features
    return features.repeat_interleave(num_phrases // features.shape[0], dim=0)
