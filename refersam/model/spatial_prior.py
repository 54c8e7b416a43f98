"""Convolutional spatial prior: high-resolution features that complement ViT patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refersam.model.fast import maps
from refersam.model.pyramid import map_to_tokens

NORM_EPS = 1e-6


class MapNorm(nn.GroupNorm):
    """GroupNorm of one group: mean and variance over all channels and cells of a map.

    Args:
        channels: channels of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels, eps=NORM_EPS)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise a (B, C, H, W) map."""
        return maps.normalise(self, input)


def _conv_block(in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
    return [convolution, MapNorm(out_channels), nn.ReLU(inplace=True)]


class SpatialPrior(nn.Module):
    """Convolutional feature maps of strides 4, 8, 16 and 32.

    Args:
        channels: width n at stride 4; strides 8, 16, 32 have 2n, 4n, 4n before their projection.
        hidden_size: width D that strides 8, 16, 32 are projected to.
    """

    def __init__(self, *, channels: int, hidden_size: int) -> None:
        super().__init__()
        n = channels
        self.stem = nn.Sequential(
            *_conv_block(3, n, stride=2),
            *_conv_block(n, n, stride=1),
            *_conv_block(n, n, stride=1),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        widths = (n, 2 * n, 4 * n, 4 * n)
        self.stages = nn.ModuleList(nn.Sequential(*_conv_block(widths[i], widths[i + 1], stride=2)) for i in range(3))
        self.projections = nn.ModuleList(nn.Conv2d(width, hidden_size, kernel_size=1) for width in widths[1:])

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the prior.

        Args:
            pixel_values: (B, 3, H, W) images.

        Returns:
            The stride-4 map (B, n, H/4, W/4), and the pyramid (B, L, hidden_size).
        """
        stride4 = feature_map = self.stem(pixel_values)
        levels = []
        for stage, projection in zip(self.stages, self.projections, strict=True):
            feature_map = stage(feature_map)
            levels.append(map_to_tokens(projection(feature_map)))
        return stride4, torch.cat(levels, dim=1)
