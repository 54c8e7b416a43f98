"""Replacement of the interactor in ablations: SAM's image encoder without interaction of image and text."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refersam.model.depth import layer_rates, run_layers
from refersam.model.fast.maps import repeat_per_phrase
from refersam.model.interactor import ImageFeatures, InteractorOutput, level_projections, text_projection
from refersam.model.pyramid import PyramidGeometry, map_to_tokens
from refersam.model.sam import Sam
from refersam.model.spatial_prior import MapNorm


class PlainEncoder(nn.Module):
    """SAM's encoder and a pyramid resampled from its last map: no spatial prior, adapter, fusion or context tokens.

    Args:
        hidden_size: ViT width D.
        text_size: text width Dt.
        prompt_size: SAM's prompt width C.
        num_layers: number of ViT layers.
        drop_path: drop-path rate of the last ViT layer in training.

    Attributes:
        gradient_checkpointing: in training, compute layers again for the gradient instead of storing them.
    """

    def __init__(
        self, *, hidden_size: int, text_size: int, prompt_size: int, num_layers: int, drop_path: float
    ) -> None:
        super().__init__()
        self.drop_rates = layer_rates(num_layers, drop_path)
        self.gradient_checkpointing = False
        self.text_projection = text_projection(text_size, prompt_size)
        self.level_projections = level_projections(hidden_size, prompt_size)
        self.mask_features = nn.Sequential(
            nn.Conv2d(prompt_size, prompt_size, kernel_size=3, padding=1, bias=False),
            MapNorm(prompt_size),
            nn.GELU(),
            nn.Conv2d(prompt_size, prompt_size, kernel_size=1),
        )

    def encode_image(self, sam: Sam, pixel_values: Tensor) -> ImageFeatures:
        """Compute all image features, which here are text-independent; arguments as in `Interactor.encode_image`."""
        height, width = pixel_values.shape[2:]
        geometry = PyramidGeometry.of_image(height, width, pixel_values.device)
        rates = self.drop_rates if self.training else [0.0] * len(self.drop_rates)
        checkpointing = self.gradient_checkpointing and self.training
        patches = run_layers(sam, sam.embed_patches(pixel_values), range(len(rates)), rates, checkpointing)
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

    def forward(self, sam: Sam, images: Tensor | ImageFeatures, text: Tensor, _text_mask: Tensor) -> InteractorOutput:
        """Project text and images separately; arguments as in `Interactor.forward`."""
        features = images if isinstance(images, ImageFeatures) else self.encode_image(sam, images)
        count, geometry = text.shape[0], features.geometry
        return InteractorOutput(
            text=self.text_projection(text),
            pyramid=repeat_per_phrase(features.pyramid, count),
            mask_features=repeat_per_phrase(features.detail, count),
            image_embedding=repeat_per_phrase(sam.neck(features.patches.unflatten(1, geometry.grid_size)), count),
            geometry=geometry,
        )
