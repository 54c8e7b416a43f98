"""Vision-Language Interactor (VLI): runs beside SAM's image encoder and lets picture and text read each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from refersam.model.adapter import Extractor, Injector
from refersam.model.blocks import nothing_recorded
from refersam.model.depth import layer_rates, run_layers
from refersam.model.fusion import Fusion
from refersam.model.pyramid import PyramidGeometry, PyramidPositions, tokens_to_map
from refersam.model.sam import Sam
from refersam.model.spatial_prior import MapNorm, SpatialPrior
from refersam.reprs import OneLineRepr

NORM_EPS = 1e-6


@dataclass
class InteractorOutput:
    """What the prompter and the mask decoder need; C is SAM's prompt width.

    Attributes:
        text: (B, S, C) projected text.
        pyramid: (B, L, C) projected pyramid of strides 8, 16, 32.
        mask_features: (B, C, H/4, W/4).
        image_embedding: (B, C, h, w) at stride 16.
    """

    text: Tensor
    pyramid: Tensor
    mask_features: Tensor
    image_embedding: Tensor


@dataclass(repr=False)
class ImageFeatures(OneLineRepr):
    """What is known of I pictures before a phrase is heard; the same for every phrase.

    Attributes:
        geometry: of the pictures' size.
        patches: (I, h * w, D) ViT tokens after the layers that see no text.
        pyramid: (I, L, D) beside them; without interactor (I, L, C), finished.
        detail: (I, C, H/4, W/4) part of the stride-4 features that comes from the picture alone.
        guide: (I, 3, H, W) the pictures, for a model whose masks follow their edges; None for others.
        asked_once: nobody asks about them again: their tokens may be dropped as soon as the first phrases have them.
    """

    geometry: PyramidGeometry = field(repr=False)
    patches: Tensor
    pyramid: Tensor
    detail: Tensor
    guide: Tensor | None = None
    asked_once: bool = False

    @property
    def num_images(self) -> int:
        """I."""
        return self.detail.shape[0]

    def take_tokens(self, num_phrases: int) -> tuple[Tensor, Tensor]:
        """Patches and pyramid, each repeated for its phrases."""
        patches, pyramid = (repeat_per_phrase(tokens, num_phrases) for tokens in (self.patches, self.pyramid))
        if self.asked_once and nothing_recorded():
            self.patches, self.pyramid = self.patches.new_empty(0), self.pyramid.new_empty(0)
        return patches, pyramid


class Interaction(nn.Module):
    """The adapter of one group of ViT layers; the last one has extra (extract, fuse) pairs."""

    def __init__(self, *, adapter: dict, fusion: dict, num_extra_fusions: int) -> None:
        super().__init__()
        self.injector = Injector(**adapter)
        self.extractor = Extractor(**adapter)
        self.fusion = Fusion(**fusion)
        self.extra_extractors = nn.ModuleList(Extractor(**adapter) for _ in range(num_extra_fusions))
        self.extra_fusions = nn.ModuleList(Fusion(**fusion) for _ in range(num_extra_fusions))


class MaskFeatures(nn.Module):
    """Stride-4 features that the dense prompt is matched against: the spatial prior's detail, the pyramid's meaning."""

    def __init__(self, *, prior_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(prior_channels, hidden_size, kernel_size=1, bias=False)
        self.lateral_norm = MapNorm(hidden_size)
        self.smooth = nn.Conv2d(hidden_size, hidden_size, kernel_size=3, padding=1, bias=False)
        self.smooth_norm = MapNorm(hidden_size)
        self.output = nn.Conv2d(hidden_size, hidden_size, kernel_size=1)

    def detail(self, prior: Tensor) -> Tensor:
        """(I, n, H/4, W/4) spatial prior -> (I, C, H/4, W/4)."""
        return self.lateral_norm(self.lateral(prior))

    def forward(self, detail: Tensor, level8: Tensor) -> Tensor:
        """(I, C, H/4, W/4) detail of I pictures and (B, C, H/8, W/8), B a multiple of I -> (B, C, H/4, W/4)."""
        # A copy, since tokens seen as a map have strides by which a single picture's layout is not recognised.
        level8 = level8.clone(memory_format=torch.channels_last)
        # One name for all steps: each map is large, and freed as soon as the next is there.
        features = F.interpolate(level8, size=detail.shape[2:], mode="bilinear", align_corners=False)
        features = self.smooth(features.add_(repeat_per_phrase(detail, level8.shape[0])))
        features = self.smooth_norm(features)
        features = F.gelu(features)
        return self.output(features)


def text_projection(text_size: int, prompt_size: int) -> nn.Sequential:
    """From the text's width to SAM's prompt width."""
    return nn.Sequential(
        nn.Linear(text_size, prompt_size),
        nn.GELU(),
        nn.Linear(prompt_size, prompt_size),
        nn.LayerNorm(prompt_size, eps=NORM_EPS),
    )


class Interactor(nn.Module):
    """See `ReferSamConfig` for the sizes.

    Its attribute `recompute` saves memory in training: layers are run again for the gradient instead of being stored.

    Args:
        hidden_size: ViT width D.
        text_size: text width Dt.
        prompt_size: SAM's prompt width C.
        layer_groups: first and last ViT layer of each group.
        prior_channels: width of the spatial prior at stride 4.
        adapter: keyword arguments of `Injector` and `Extractor`.
        fusion: keyword arguments of `Fusion`.
        num_extra_fusions: further (extract, fuse) pairs after the last group.
        num_context_tokens: learned tokens that travel with the text.
        drop_path: highest rate of skipped ViT layers in training.
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
    ) -> None:
        super().__init__()
        self.layer_groups = [(first, last) for first, last in layer_groups]
        self.drop_rates = layer_rates(self.layer_groups[-1][1] + 1, drop_path)
        self.recompute = False
        self.spatial_prior = SpatialPrior(channels=prior_channels, hidden_size=hidden_size)
        self.positions = PyramidPositions(hidden_size=hidden_size)
        self.context_tokens = nn.Parameter(torch.empty(num_context_tokens, text_size))
        last_group = len(self.layer_groups) - 1
        self.interactions = nn.ModuleList(
            Interaction(adapter=adapter, fusion=fusion, num_extra_fusions=num_extra_fusions * (index == last_group))
            for index in range(last_group + 1)
        )
        self.text_projection = text_projection(text_size, prompt_size)
        self.level_projections = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden_size, prompt_size), nn.LayerNorm(prompt_size, eps=NORM_EPS))
            for _ in range(3)
        )
        self.mask_features = MaskFeatures(prior_channels=prior_channels, hidden_size=prompt_size)

    def encode_image(self, sam: Sam, pixel_values: Tensor) -> ImageFeatures:
        """What does not depend on the phrase: the spatial prior, the first injection, layer group and extraction.

        Args:
            sam: SAM's parts.
            pixel_values: (I, 3, H, W) pictures.
        """
        height, width = pixel_values.shape[2:]
        geometry = PyramidGeometry.of_image(height, width, pixel_values.device)
        prior, pyramid = self.spatial_prior(pixel_values.contiguous(memory_format=torch.channels_last))
        patches = sam.embed_patches(pixel_values).flatten(1, 2)
        patches, pyramid = self._encode_group(0, sam, patches, pyramid, geometry)
        return ImageFeatures(geometry, patches, pyramid, self.mask_features.detail(prior))

    def forward(self, sam: Sam, image: ImageFeatures, text: Tensor, text_mask: Tensor) -> InteractorOutput:
        """Let pictures and text read each other, group by group of SAM's layers.

        Args:
            sam: SAM's parts.
            image: I pictures, as `encode_image` gives them.
            text: (B, S, Dt) token features; B is a multiple of I, the phrases of one picture follow one another.
            text_mask: (B, S) boolean.
        """
        num_phrases, num_text_tokens = text.shape[:2]
        geometry, positions = image.geometry, self.positions(image.geometry)
        tokens = torch.cat([text, self.context_tokens.expand(num_phrases, -1, -1)], dim=1)
        token_mask = F.pad(text_mask, (0, self.context_tokens.shape[0]), value=True)

        patches, pyramid = image.take_tokens(num_phrases)
        for group, module in enumerate(self.interactions):
            if group > 0:
                patches, pyramid = self._encode_group(group, sam, patches, pyramid, geometry)
            interaction = cast(Interaction, module)
            fuse = self._maybe_recomputed(interaction.fusion)
            tokens, pyramid = fuse(tokens, token_mask, pyramid, positions, geometry.level_lengths)
            # The loop is here, where no caller keeps the pyramid that an extraction replaces.
            for extractor, fusion in zip(interaction.extra_extractors, interaction.extra_fusions, strict=True):
                pyramid = self._maybe_recomputed(extractor)(pyramid, patches, geometry)
                fuse = self._maybe_recomputed(fusion)
                tokens, pyramid = fuse(tokens, token_mask, pyramid, positions, geometry.level_lengths)

        projected = [
            projection(level) for projection, level in zip(self.level_projections, geometry.split(pyramid), strict=True)
        ]
        del pyramid, positions  # the largest of all; the stride-4 features need the room
        level8, level16 = (tokens_to_map(projected[i], geometry.level_sizes[i]) for i in (0, 1))
        return InteractorOutput(
            text=self.text_projection(tokens[:, :num_text_tokens]),
            pyramid=torch.cat(projected, dim=1),
            mask_features=self.mask_features(image.detail, level8),
            image_embedding=sam.neck(patches.unflatten(1, geometry.grid_size)) + level16,
        )

    def _maybe_recomputed(self, module: nn.Module) -> Callable[..., Any]:
        """The module itself, or with `recompute` in training one that is run again for the gradient."""
        return partial(checkpoint, module, use_reentrant=False) if self.recompute and self.training else module

    def _encode_group(
        self, group: int, sam: Sam, patches: Tensor, pyramid: Tensor, geometry: PyramidGeometry
    ) -> tuple[Tensor, Tensor]:
        """Inject the pyramid, run a group of SAM's layers, extract into the pyramid."""
        interaction = cast(Interaction, self.interactions[group])
        rates = self.drop_rates if self.training else [0.0] * len(self.drop_rates)
        first, last = self.layer_groups[group]
        grid = interaction.injector(patches, pyramid, geometry).unflatten(1, geometry.grid_size)
        grid = run_layers(sam, grid, range(first, last + 1), rates, self.recompute and self.training)
        patches = grid.flatten(1, 2)
        return patches, interaction.extractor(pyramid, patches, geometry)


def repeat_per_phrase(features: Tensor, num_phrases: int) -> Tensor:
    """(I, ...) features of pictures -> (num_phrases, ...), each repeated for its phrases."""
    if torch.compiler.is_exporting():  # one graph for every number of pictures
        phrase = torch.arange(num_phrases, device=features.device)
        return features.index_select(0, phrase * features.shape[0] // num_phrases)
    if features.shape[0] == num_phrases:
        return features
    return features.repeat_interleave(num_phrases // features.shape[0], dim=0)
