"""What stands in for the interactor in ablations: SAM's image encoder alone, where picture and text never meet."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refersam.model.depth import layer_rates, run_layers
from refersam.model.interactor import (
    NORM_EPS,
    ImageFeatures,
    InteractorOutput,
    repeat_per_phrase,
    text_projection,
)
from refersam.model.pyramid import PyramidGeometry, map_to_tokens
from refersam.model.sam import Sam
from refersam.model.spatial_prior import MapNorm


class PlainEncoder(nn.Module):
    """No spatial prior, injection, extraction, fusion or context tokens; the pyramid is the ViT's last map, resampled.

    Args:
        hidden_size: ViT width D.
        text_size: text width Dt.
        prompt_size: SAM's prompt width C.
        num_layers: of the ViT.
        drop_path: highest rate of skipped ViT layers in training.
    """

    def __init__(
        self, *, hidden_size: int, text_size: int, prompt_size: int, num_layers: int, drop_path: float
    ) -> None:
        super().__init__()
        self.drop_rates = layer_rates(num_layers, drop_path)
        self.recompute = False
        self.text_projection = text_projection(text_size, prompt_size)
        self.level_projections = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden_size, prompt_size), nn.LayerNorm(prompt_size, eps=NORM_EPS))
            for _ in range(3)
        )
        self.mask_features = nn.Sequential(
            nn.Conv2d(prompt_size, prompt_size, kernel_size=3, padding=1, bias=False),
            MapNorm(prompt_size),
            nn.GELU(),
            nn.Conv2d(prompt_size, prompt_size, kernel_size=1),
        )

    def encode_image(self, sam: Sam, pixel_values: Tensor) -> ImageFeatures:
        """As `Interactor.encode_image`: here all of the picture's way."""
        height, width = pixel_values.shape[2:]
        geometry = PyramidGeometry.of_image(height, width, pixel_values.device)
        rates = self.drop_rates if self.training else [0.0] * len(self.drop_rates)
        recompute = self.recompute and self.training
        patches = run_layers(sam, sam.embed_patches(pixel_values), range(len(rates)), rates, recompute)
        level16 = patches.permute(0, 3, 1, 2)
        level8 = F.interpolate(level16, scale_factor=2.0, mode="bilinear", align_corners=False)
        levels = (level8, level16, F.avg_pool2d(level16, 2))
        projected = [
            project(map_to_tokens(level)) for project, level in zip(self.level_projections, levels, strict=True)
        ]
        pyramid = torch.cat(projected, dim=1)
        stride8 = geometry.to_maps(pyramid)[0]
        upsampled = F.interpolate(stride8, scale_factor=2.0, mode="bilinear", align_corners=False)
        return ImageFeatures(geometry, patches.flatten(1, 2), pyramid, self.mask_features(upsampled))

    def forward(self, sam: Sam, image: ImageFeatures, text: Tensor, _text_mask: Tensor) -> InteractorOutput:
        """As `Interactor.forward`."""
        count = text.shape[0]
        patches = image.patches.unflatten(1, image.geometry.grid_size)
        return InteractorOutput(
            text=self.text_projection(text),
            pyramid=repeat_per_phrase(image.pyramid, count),
            mask_features=repeat_per_phrase(image.detail, count),
            image_embedding=repeat_per_phrase(sam.neck(patches), count),
        )
