"""Vision-Language Interactor (VLI): runs beside SAM's image encoder, and fuses image and text features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import initialization as init

from refersam.model.adapter import Extractor, Injector
from refersam.model.depth import layer_rates, run_layers
from refersam.model.fast.maps import repeat_per_phrase
from refersam.model.fusion import Fusion
from refersam.model.pyramid import NUM_LEVELS, PyramidGeometry, PyramidPositions, tokens_to_map
from refersam.model.sam import Sam
from refersam.model.spatial_prior import MapNorm, SpatialPrior
from refersam.reprs import OneLineRepr

NORM_EPS = 1e-6


@dataclass(frozen=True, eq=False)
class InteractorOutput:
    """Input of the prompter and of the mask decoder; C is SAM's prompt width.

    Attributes:
        text: (B, S, C) projected text.
        pyramid: (B, L, C) projected pyramid of strides 8, 16, 32.
        mask_features: (B, C, H/4, W/4).
        image_embedding: (B, C, h, w) at stride 16.
        geometry: geometry of the image size.
    """

    text: Tensor
    pyramid: Tensor
    mask_features: Tensor
    image_embedding: Tensor
    geometry: PyramidGeometry


@dataclass(frozen=True, eq=False, repr=False)
class ImageFeatures(OneLineRepr):
    """Text-independent features of I images.

    Attributes:
        geometry: geometry of the image size.
        patches: (I, h * w, D) ViT tokens after the layers that precede the first fusion.
        pyramid: (I, L, D) pyramid tokens at the same stage; without interactor (I, L, C), projected.
        detail: (I, C, H/4, W/4) part of the stride-4 features that does not depend on the text.
        guide: (I, 3, H, W) images, for upsamplers that use them; None for others.
    """

    geometry: PyramidGeometry = field(repr=False)
    patches: Tensor
    pyramid: Tensor
    detail: Tensor
    guide: Tensor | None = None

    @property
    def num_images(self) -> int:
        """I."""
        return self.detail.shape[0]


class Interaction(nn.Module):
    """Adapter and fusion of one group of ViT layers; the last group has extra (extract, fuse) pairs.

    Args:
        adapter: keyword arguments of `Injector` and `Extractor`.
        fusion: keyword arguments of `Fusion`.
        num_extra_fusions: number of extra pairs.
        injection_gate_init: initial value of the injector's gate.
    """

    def __init__(self, *, adapter: dict, fusion: dict, num_extra_fusions: int, injection_gate_init: float) -> None:
        super().__init__()
        self.injector = Injector(**adapter, gate_init=injection_gate_init)
        self.extractor = Extractor(**adapter)
        self.fusion = Fusion(**fusion)
        self.extra_extractors = nn.ModuleList(Extractor(**adapter) for _ in range(num_extra_fusions))
        self.extra_fusions = nn.ModuleList(Fusion(**fusion) for _ in range(num_extra_fusions))


class MaskFeatures(nn.Module):
    """Stride-4 features that the dense prompt is matched against: detail of the spatial prior, plus pyramid level 8.

    Args:
        prior_channels: width n of the spatial prior at stride 4.
        hidden_size: SAM's prompt width C.
    """

    def __init__(self, *, prior_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(prior_channels, hidden_size, kernel_size=1, bias=False)
        self.lateral_norm = MapNorm(hidden_size)
        self.smooth = nn.Conv2d(hidden_size, hidden_size, kernel_size=3, padding=1, bias=False)
        self.smooth_norm = MapNorm(hidden_size)
        self.output = nn.Conv2d(hidden_size, hidden_size, kernel_size=1)

    def detail(self, prior: Tensor) -> Tensor:
        """Project the (I, n, H/4, W/4) spatial prior to (I, C, H/4, W/4)."""
        return self.lateral_norm(self.lateral(prior))

    def forward(self, detail: Tensor, level8: Tensor) -> Tensor:
        """Combine the detail with the upsampled pyramid level.

        Args:
            detail: (I, C, H/4, W/4) detail of I images.
            level8: (B, C, H/8, W/8); B is a multiple of I.

        Returns:
            (B, C, H/4, W/4).
        """
        # The copy has the strides of channels last, which a transposed single-sample map hides.
        level8 = level8.clone(memory_format=torch.channels_last)
        features = F.interpolate(level8, size=detail.shape[2:], mode="bilinear", align_corners=False)
        features = self.smooth(features.add_(repeat_per_phrase(detail, level8.shape[0])))
        features = self.smooth_norm(features)
        features = F.gelu(features)
        return self.output(features)


def text_projection(text_size: int, prompt_size: int) -> nn.Sequential:
    """Build the projection from the text width to SAM's prompt width."""
    return nn.Sequential(
        nn.Linear(text_size, prompt_size),
        nn.GELU(),
        nn.Linear(prompt_size, prompt_size),
        nn.LayerNorm(prompt_size, eps=NORM_EPS),
    )


def level_projections(hidden_size: int, prompt_size: int) -> nn.ModuleList:
    """Build the projections from the ViT width to SAM's prompt width, one for each pyramid level."""
    return nn.ModuleList(
        nn.Sequential(nn.Linear(hidden_size, prompt_size), nn.LayerNorm(prompt_size, eps=NORM_EPS))
        for _ in range(NUM_LEVELS)
    )


class Interactor(nn.Module):
    """Vision-Language Interactor; see `ReferSamConfig` for the sizes.

    Args:
        hidden_size: ViT width D.
        text_size: text width Dt.
        prompt_size: SAM's prompt width C.
        layer_groups: first and last ViT layer of each group.
        prior_channels: width of the spatial prior at stride 4.
        adapter: keyword arguments of `Injector` and `Extractor`.
        fusion: keyword arguments of `Fusion`.
        num_extra_fusions: number of (extract, fuse) pairs after the last group.
        num_context_tokens: number of learned tokens that are processed together with the text.
        drop_path: drop-path rate of the last ViT layer in training.
        injection_gate_init: initial value of the injectors' gates.

    Attributes:
        gradient_checkpointing: in training, compute layers again for the gradient instead of storing them.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        text_size: int,
        prompt_size: int,
        layer_groups: Sequence[Sequence[int]],
        prior_channels: int,
        adapter: dict,
        fusion: dict,
        num_extra_fusions: int,
        num_context_tokens: int,
        drop_path: float,
        injection_gate_init: float,
    ) -> None:
        super().__init__()
        self.layer_groups = [(first, last) for first, last in layer_groups]
        self.drop_rates = layer_rates(self.layer_groups[-1][1] + 1, drop_path)
        self.gradient_checkpointing = False
        self.spatial_prior = SpatialPrior(channels=prior_channels, hidden_size=hidden_size)
        self.positions = PyramidPositions(hidden_size=hidden_size)
        self.context_tokens = nn.Parameter(torch.empty(num_context_tokens, text_size))
        last_group = len(self.layer_groups) - 1
        self.interactions = nn.ModuleList(
            Interaction(
                adapter=adapter,
                fusion=fusion,
                num_extra_fusions=num_extra_fusions * (index == last_group),
                injection_gate_init=injection_gate_init,
            )
            for index in range(last_group + 1)
        )
        self.text_projection = text_projection(text_size, prompt_size)
        self.level_projections = level_projections(hidden_size, prompt_size)
        self.mask_features = MaskFeatures(prior_channels=prior_channels, hidden_size=prompt_size)

    def reset_parameters(self) -> None:
        """Initialise the context tokens."""
        init.normal_(self.context_tokens, std=1.0)

    def encode_image(self, sam: Sam, pixel_values: Tensor) -> ImageFeatures:
        """Compute the text-independent features: spatial prior, first injection, layer group and extraction.

        Args:
            sam: SAM's parts.
            pixel_values: (I, 3, H, W) images.
        """
        height, width = pixel_values.shape[2:]
        geometry = PyramidGeometry.of_image(height, width, pixel_values.device)
        prior, pyramid = self.spatial_prior(pixel_values.contiguous(memory_format=torch.channels_last))
        patches = sam.embed_patches(pixel_values).flatten(1, 2)
        patches, pyramid = self._encode_group(0, sam, patches, pyramid, geometry)
        return ImageFeatures(geometry, patches, pyramid, self.mask_features.detail(prior))

    def forward(self, sam: Sam, images: Tensor | ImageFeatures, text: Tensor, text_mask: Tensor) -> InteractorOutput:
        """Fuse images and text after each group of SAM's layers.

        Args:
            sam: SAM's parts.
            images: (I, 3, H, W) images, or their features from `encode_image`.
            text: (B, S, Dt) token features; B is a multiple of I, the phrases of an image follow one another.
            text_mask: (B, S) boolean.
        """
        features = images if isinstance(images, ImageFeatures) else self.encode_image(sam, images)
        geometry, detail = features.geometry, features.detail
        num_phrases, num_text_tokens = text.shape[:2]
        patches, pyramid = (repeat_per_phrase(part, num_phrases) for part in (features.patches, features.pyramid))
        del features  # frees patches and pyramid after their first use, unless the caller holds them
        tokens = torch.cat([text, self.context_tokens.expand(num_phrases, -1, -1)], dim=1)
        token_mask = F.pad(text_mask, (0, self.context_tokens.shape[0]), value=True)
        positions = self.positions(geometry)

        for group, module in enumerate(self.interactions):
            interaction = cast(Interaction, module)
            if group > 0:
                patches, pyramid = self._encode_group(group, sam, patches, pyramid, geometry)
            fuse = self._checkpointed(interaction.fusion)
            tokens, pyramid = fuse(tokens, token_mask, pyramid, positions, geometry.level_lengths)
            for extractor, fusion in zip(interaction.extra_extractors, interaction.extra_fusions, strict=True):
                pyramid = self._checkpointed(extractor)(pyramid, patches, geometry)
                fuse = self._checkpointed(fusion)
                tokens, pyramid = fuse(tokens, token_mask, pyramid, positions, geometry.level_lengths)

        projected = [
            project(level) for project, level in zip(self.level_projections, geometry.split(pyramid), strict=True)
        ]
        del pyramid, positions  # frees memory for the stride-4 features
        level8, level16 = (tokens_to_map(projected[i], geometry.level_sizes[i]) for i in (0, 1))
        return InteractorOutput(
            text=self.text_projection(tokens[:, :num_text_tokens]),
            pyramid=torch.cat(projected, dim=1),
            mask_features=self.mask_features(detail, level8),
            image_embedding=sam.neck(patches.unflatten(1, geometry.grid_size)) + level16,
            geometry=geometry,
        )

    def _checkpointed(self, module: nn.Module) -> Callable[..., Any]:
        """Return the module, wrapped by gradient checkpointing if enabled in training."""
        enabled = self.gradient_checkpointing and self.training
        return partial(checkpoint, module, use_reentrant=False) if enabled else module

    def _encode_group(
        self, group: int, sam: Sam, patches: Tensor, pyramid: Tensor, geometry: PyramidGeometry
    ) -> tuple[Tensor, Tensor]:
        """Inject the pyramid, run a group of SAM's layers, extract into the pyramid."""
        interaction = cast(Interaction, self.interactions[group])
        rates = self.drop_rates if self.training else [0.0] * len(self.drop_rates)
        first, last = self.layer_groups[group]
        grid = interaction.injector(patches, pyramid, geometry).unflatten(1, geometry.grid_size)
        grid = run_layers(sam, grid, range(first, last + 1), rates, self.gradient_checkpointing and self.training)
        patches = grid.flatten(1, 2)
        return patches, interaction.extractor(pyramid, patches, geometry)
