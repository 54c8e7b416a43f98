"""SAM's parts, from transformers' implementation. Only this file and `vit` use transformers' names of its modules."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.models.sam.configuration_sam import SamConfig
from transformers.models.sam.modeling_sam import SamFeedForward, SamMaskDecoder, SamPromptEncoder

from refersam.model.fast import maps
from refersam.model.pyramid import cell_centres, map_to_tokens
from refersam.model.vit import VisionEncoder


class Sam(nn.Module):
    """SAM as separate steps: patch embedding, groups of ViT layers, neck, prompt encoder, mask decoder.

    Args:
        vision_config: sizes of the image encoder (`SamVisionConfig`).
        prompt_encoder_config: sizes of the prompt encoder (`SamPromptEncoderConfig`).
        mask_decoder_config: sizes of the mask decoder (`SamMaskDecoderConfig`).
        object_score_head: add a head on the IoU token that predicts whether the phrase has a target.
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
        # Copies, since SamConfig resets the attention implementation of its parts.
        whole = SamConfig(
            vision_config=copy.deepcopy(vision_config), prompt_encoder_config=copy.deepcopy(prompt_encoder_config)
        )
        mask_decoder_config = copy.deepcopy(mask_decoder_config)
        mask_decoder_config._attn_implementation = "sdpa"
        self.vision_encoder = VisionEncoder(vision_config)
        self.prompt_encoder = SamPromptEncoder(whole)
        self.mask_decoder = SamMaskDecoder(mask_decoder_config)
        self.object_score_head = SamFeedForward(width, width, 1, 3) if object_score_head else None

    def reset_parameters(self) -> None:
        """Initialise SAM's heads as PyTorch does, and the positions as published."""
        for part in (self.mask_decoder, self.object_score_head):
            for layer in part.modules() if part is not None else ():
                if isinstance(layer, nn.Linear):
                    init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
        init.normal_(self.prompt_encoder.shared_embedding.positional_embedding, std=1.0)
        init.normal_(self.vision_encoder.pos_embed, std=0.02)

    def freeze_fixed_parameters(self) -> None:
        """Freeze SAM's random Fourier matrix, which is constant, but a parameter in transformers."""
        self.prompt_encoder.shared_embedding.positional_embedding.requires_grad_(False)

    def embed_patches(self, pixel_values: Tensor) -> Tensor:
        """Embed (B, 3, H, W) images: (B, h, w, D) patches with absolute positions, resized to the grid."""
        patches = self.vision_encoder.patch_embed.projection(pixel_values).permute(0, 2, 3, 1)
        positions = self.vision_encoder.pos_embed.permute(0, 3, 1, 2)
        return patches + maps.resize(positions, patches.shape[1:3], mode="bilinear").permute(0, 2, 3, 1)

    def run_layers(self, patches: Tensor, first: int, last: int) -> Tensor:
        """Run ViT layers first to last, both included, on (B, h, w, D) patches."""
        for layer in self.vision_encoder.layers[first : last + 1]:
            patches = layer(patches)
        return patches

    def neck(self, patches: Tensor) -> Tensor:
        """Compute the (B, C, h, w) image embedding of (B, h, w, D) patches."""
        return self.vision_encoder.neck(patches)

    def embed_mask(self, mask_logits: Tensor) -> Tensor:
        """Compute the (B, C, h, w) dense prompt embedding of a (B, 1, 4h, 4w) mask prompt."""
        return self.prompt_encoder.mask_embed(mask_logits)

    def image_positions(self, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Return the (1, 1, h * w, C) Fourier positions of the grid's cells, computed in float32."""
        centres = cell_centres(size, self.prompt_encoder.shared_embedding.positional_embedding.device)
        return self._fourier_positions(centres)[None, None].to(dtype)

    def _fourier_positions(self, points: Tensor) -> Tensor:
        """Encode (..., 2) points (x, y) in (0, 1) as (..., C), in float32."""
        matrix = self.prompt_encoder.shared_embedding.positional_embedding.float()
        angle = 2 * math.pi * (2 * points - 1) @ matrix
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    def embed_prompts(
        self, points: Tensor | None, labels: Tensor | None, boxes: Tensor | None, size: tuple[int, int]
    ) -> Tensor:
        """Embed clicks and boxes, as `SamPromptEncoder.forward` does.

        Args:
            points: (B, P, 2) pixels (x, y) of the model's input; None for no points.
            labels: (B, P) 1 foreground, 0 background, -1 padding; None with points = None.
            boxes: (B, 4) left, top, right, bottom, NaN for a padding box; None for no boxes, and then a padding point
                follows the points.
            size: (H, W) of the model's input.

        Returns:
            (B, n, C) sparse prompts: P points, then 2 corners of the box or the padding point.
        """
        encoder = self.prompt_encoder
        given = [] if points is None or labels is None else [(points.float(), labels)]
        if boxes is None:
            first = given[0][0]
            given.append((first.new_zeros(first.shape[0], 1, 2), torch.full_like(given[0][1][:, :1], -1)))
        else:
            corners = boxes.float().unflatten(1, (2, 2))
            kinds = torch.where(corners.isnan().any(dim=2), -1, torch.tensor([2, 3], device=boxes.device))
            given.append((corners.nan_to_num(), kinds))
        points, labels = (torch.cat(parts, dim=1) for parts in zip(*given, strict=True))
        kind_embeddings = torch.cat([encoder.not_a_point_embed.weight, *(kind.weight for kind in encoder.point_embed)])
        extent = torch.tensor([size[1], size[0]], device=points.device)
        positions = self._fourier_positions((points + 0.5) / extent)  # (B, n, C), at centres of pixels
        positions = positions * (labels >= 0).unsqueeze(2)
        return positions.to(kind_embeddings.dtype) + kind_embeddings[labels + 1]

    def decode_mask(
        self, image_embedding: Tensor, dense_prompt: Tensor | None, sparse_prompts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run SAM's mask decoder with single-mask output.

        Args:
            image_embedding: (B, C, h, w).
            dense_prompt: (B, C, h, w), or None for SAM's "no mask" embedding.
            sparse_prompts: (B, n, C); n may be 0.

        Returns:
            (B, 4h, 4w) low-resolution mask logits, (B,) predicted IoU, and (B,) object score logits or None.
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
        # Only the first of SAM's four masks is used, so only its kernel is computed.
        kernel = decoder.output_hypernetworks_mlps[0](mask_token)  # (B, C / 8)
        logits = (map_to_tokens(features) @ kernel.unsqueeze(2)).squeeze(2).unflatten(1, features.shape[2:])
        iou = decoder.iou_prediction_head(iou_token)[:, 0]
        score = None if self.object_score_head is None else self.object_score_head(iou_token)[:, 0]
        return logits, iou, score
