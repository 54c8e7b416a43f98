"""SAM's parts as ReferSAM uses them. With `vit`, the only file that knows transformers' names for them."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.models.sam.configuration_sam import SamConfig
from transformers.models.sam.modeling_sam import (
    SamFeedForward,
    SamMaskDecoder,
    SamPromptEncoder,
    SamVisionEncoder,
    SamVisionLayer,
)

from refersam.model.pyramid import cell_centres, map_to_tokens
from refersam.model.vit import run_layer


class VisionLayer(SamVisionLayer):
    """SAM's ViT layer with `run_layer` for its forward, so that whatever hooks into modules sees it run."""

    def forward(self, patches: Tensor) -> Tensor:
        """(B, h, w, D) -> the same."""
        return run_layer(self, patches)


class Sam(nn.Module):
    """SAM taken apart: patch embedding, groups of ViT layers, neck, mask prompt, mask decoder.

    Args:
        vision_config: the image encoder (`SamVisionConfig`).
        prompt_encoder_config: the prompt encoder (`SamPromptEncoderConfig`).
        mask_decoder_config: the mask decoder (`SamMaskDecoderConfig`).
        object_score_head: adds a head on the IoU token that scores whether there is a target.
    """

    def __init__(
        self,
        *,
        vision_config: PreTrainedConfig,
        prompt_encoder_config: PreTrainedConfig,
        mask_decoder_config: PreTrainedConfig,
        object_score_head: bool,
    ) -> None:
        super().__init__()
        width = mask_decoder_config.hidden_size
        # Composing SamConfig resets the attention choice of its parts, so it gets copies.
        whole = SamConfig(
            vision_config=copy.deepcopy(vision_config), prompt_encoder_config=copy.deepcopy(prompt_encoder_config)
        )
        mask_decoder_config = copy.deepcopy(mask_decoder_config)
        mask_decoder_config._attn_implementation = "sdpa"
        self.vision_encoder = SamVisionEncoder(vision_config)
        for layer in self.vision_encoder.layers:
            layer.__class__ = VisionLayer  # the same weights under the same names
        self.prompt_encoder = SamPromptEncoder(whole)
        self.mask_decoder = SamMaskDecoder(mask_decoder_config)
        self.object_score_head = SamFeedForward(width, width, 1, 3) if object_score_head else None

    def freeze_fixed_parameters(self) -> None:
        """SAM's random Fourier matrix is fixed, though transformers holds it as a parameter."""
        self.prompt_encoder.shared_embedding.positional_embedding.requires_grad_(False)

    def embed_patches(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, h, w, D) patch embeddings with absolute positions resized to the grid."""
        patches = self.vision_encoder.patch_embed.projection(pixel_values).permute(0, 2, 3, 1)
        positions = self.vision_encoder.pos_embed
        if torch.compiler.is_exporting() or positions.shape[1:3] != patches.shape[1:3]:
            resized = F.interpolate(
                positions.permute(0, 3, 1, 2), size=patches.shape[1:3], mode="bilinear", align_corners=False
            )
            positions = resized.permute(0, 2, 3, 1)
        return patches + positions

    def run_layers(self, patches: Tensor, first: int, last: int) -> Tensor:
        """(B, h, w, D) through ViT layers first to last, both included."""
        for layer in self.vision_encoder.layers[first : last + 1]:
            patches = layer(patches)
        return patches

    def neck(self, patches: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, C, h, w) image embedding."""
        return self.vision_encoder.neck(patches)

    def embed_mask(self, mask_logits: Tensor) -> Tensor:
        """(B, 1, 4h, 4w) mask prompt -> (B, C, h, w) dense prompt embedding."""
        return self.prompt_encoder.mask_embed(mask_logits)

    def image_positions(self, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """(1, 1, h * w, C) Fourier positions of the grid's cells, computed in float32."""
        matrix = self.prompt_encoder.shared_embedding.positional_embedding.float()
        angle = 2 * math.pi * (2 * cell_centres(size, matrix.device) - 1) @ matrix
        return torch.cat([angle.sin(), angle.cos()], dim=-1)[None, None].to(dtype)

    def decode_mask(
        self, image_embedding: Tensor, dense_prompt: Tensor | None, sparse_prompts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """SAM's mask decoder with single-mask output.

        Args:
            image_embedding: (B, C, h, w).
            dense_prompt: (B, C, h, w), or None for SAM's "no mask" embedding.
            sparse_prompts: (B, n, C), n may be 0.

        Returns:
            Low-resolution logits (B, 4h, 4w), predicted IoU (B,), object score logits (B,) or None without that head.
        """
        decoder = self.mask_decoder
        batch, _, height, width = image_embedding.shape
        if dense_prompt is None:
            dense_prompt = self.prompt_encoder.no_mask_embed.weight[:, :, None, None]
        own_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([own_tokens.expand(batch, -1, -1), sparse_prompts], dim=1).unsqueeze(1)  # (B, 1, 5 + n, C)
        positions = self.image_positions((height, width), image_embedding.dtype)
        positions = positions[0].transpose(1, 2).unflatten(2, (height, width)).expand(batch, -1, -1, -1)
        tokens, keys = decoder.transformer(
            point_embeddings=tokens,
            image_embeddings=image_embedding + dense_prompt,
            image_positional_embeddings=positions,
            attention_similarity=None,
        )
        features = keys.squeeze(1).transpose(1, 2).unflatten(2, (height, width))  # (B, C, h, w)
        features = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(features)))
        features = decoder.activation(decoder.upscale_conv2(features))  # (B, C / 8, 4h, 4w)
        iou_token, mask_token = tokens[:, 0, 0], tokens[:, 0, 1]
        # Only the first of SAM's four masks is used, so only its weights are computed.
        kernel = decoder.output_hypernetworks_mlps[0](mask_token)  # (B, C / 8)
        logits = (map_to_tokens(features) @ kernel.unsqueeze(2)).squeeze(2).unflatten(1, features.shape[2:])
        iou = decoder.iou_prediction_head(iou_token)[:, 0]
        score = None if self.object_score_head is None else self.object_score_head(iou_token)[:, 0]
        return logits, iou, score
