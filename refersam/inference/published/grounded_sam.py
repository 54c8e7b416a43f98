"""Grounded SAM: Grounding DINO (ECCV 2024) detects boxes by a phrase, SAM segments each box."""

from __future__ import annotations

import math
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import BatchFeature, GroundingDinoForObjectDetection, SamModel
from transformers.image_transforms import center_to_corners_format

from refersam.inference.published.base import (
    TransformersConfig,
    TransformersModel,
    TransformersProcessor,
    instance_output,
    load_image_processor,
    load_part,
    load_tokenizer,
)
from refersam.model.refersam import ReferSamOutput
from refersam.reprs import OneLineRepr

BOX_THRESHOLD = 0.25
"""Default of transformers' `post_process_grounded_object_detection`."""


class GroundedSamProcessor(TransformersProcessor):
    """Processors of Grounding DINO and SAM for the same image.

    Args:
        image_processor: image processor of Grounding DINO.
        tokenizer: tokenizer of Grounding DINO.
        max_text_tokens: maximum number of tokens; longer phrases are truncated.
        sam: image processor of SAM.
    """

    def __init__(self, image_processor: Any, tokenizer: Any, max_text_tokens: int, sam: Any) -> None:
        super().__init__(image_processor, tokenizer, max_text_tokens)
        self.sam = sam

    def image_inputs(self, images: list[Image.Image]) -> BatchFeature:
        """Return the inputs of both models for one image; input sizes differ between images."""
        (image,) = images
        detector = self.image_processor(image, return_tensors="pt")
        return BatchFeature({**self.sam(image, return_tensors="pt"), "detector_pixels": detector["pixel_values"]})

    def wording(self, phrase: str) -> str:
        """Return the phrase in lower case with a full stop, the phrase separator of Grounding DINO."""
        return f"{phrase.strip().lower().rstrip('. ')}."

    def mask_logits(self, output: ReferSamOutput, image_size: tuple[int, int], size: tuple[int, int], /) -> Tensor:
        """Merge the masks of one phrase's boxes by the maximum logit, without SAM's padding."""
        scale = self.sam.size["longest_edge"] / max(image_size)
        unpadded = tuple(int(side * scale + 0.5) for side in image_size)
        best = output.mask_logits.new_full((1, *size), -math.inf)
        for instance in output.mask_logits[0]:
            (logits,) = self.sam.post_process_masks([instance[None, None]], [size], [unpadded], binarize=False)
            best = best.maximum(logits[0])
        return best


@dataclass(frozen=True, eq=False, repr=False)
class GroundedFeatures(OneLineRepr):
    """Features of both models for one image.

    Attributes:
        detector_pixels: (1, 3, H, W) input of the detector.
        detector_maps: output of the detector's backbone for `detector_pixels`.
        embeddings: (1, C, h, w) SAM's image embeddings.
        size: (height, width) of the image in pixels.
        unpadded: (height, width) of the image in SAM's input without padding, in pixels.
    """

    detector_pixels: Tensor
    detector_maps: tuple[list[Any], list[Tensor]]
    embeddings: Tensor
    size: tuple[int, int]
    unpadded: tuple[int, int]

    @property
    def num_images(self) -> int:
        """Number of images, always 1."""
        return 1


_maps: ContextVar[tuple[list[Any], list[Tensor]]] = ContextVar("maps")
"""Output of `EncodedBackbone` in the current context."""


class EncodedBackbone(nn.Module):
    """The detector's backbone with a precomputed, text-independent output.

    Args:
        backbone: backbone of Grounding DINO.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.position_embedding = backbone.position_embedding

    def forward(self, _pixel_values: Tensor, _pixel_mask: Tensor) -> tuple[list[Any], list[Tensor]]:
        """Return the feature maps and position embeddings of `_maps` as new lists, which the caller may extend."""
        features, positions = _maps.get()
        return list(features), list(positions)


class GroundedSam(TransformersModel):
    """Grounding DINO and SAM; each phrase runs separately, which makes its answer independent of other phrases.

    Args:
        detector: Grounding DINO of transformers.
        sam: SAM of transformers.
    """

    def __init__(self, detector: GroundingDinoForObjectDetection, sam: SamModel) -> None:
        text = SimpleNamespace(max_position_embeddings=detector.config.max_text_len)
        super().__init__(TransformersConfig(text, True, True, BOX_THRESHOLD))
        self.detector, self.sam = detector, sam
        self.detector.model.backbone = EncodedBackbone(detector.model.backbone)

    def encode_image(self, pixel_values: BatchFeature) -> GroundedFeatures:
        """Encode one image.

        Args:
            pixel_values: result of `GroundedSamProcessor.image_inputs`.
        """
        pixels = pixel_values["detector_pixels"]
        mask = torch.ones(pixels.shape[0], *pixels.shape[2:], dtype=torch.long, device=pixels.device)
        return GroundedFeatures(
            pixels,
            self.detector.model.backbone.backbone(pixels, mask),
            self.sam.get_image_embeddings(pixel_values["pixel_values"]),
            _pair(pixel_values["original_sizes"]),
            _pair(pixel_values["reshaped_input_sizes"]),
        )

    def answer(self, features: GroundedFeatures, input_ids: Tensor, attention_mask: Tensor) -> ReferSamOutput:
        """Segment by phrases; see `TransformersModel.answer`."""
        masks, best = [], []
        for ids, attention in zip(input_ids, attention_mask.bool(), strict=True):
            boxes, score = self._detect(features, ids[attention][None])
            masks.append(self._segment(features, boxes))
            best.append(score)
        return instance_output(masks, best)

    def _detect(self, features: GroundedFeatures, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return (K, 4) boxes (left, top, right, bottom) of a phrase in pixels of the image, and the best score."""
        token = _maps.set(features.detector_maps)
        try:
            output = self.detector(features.detector_pixels, input_ids, return_dict=True)
        finally:
            _maps.reset(token)
        scores = output.logits[0].sigmoid().amax(dim=-1)
        height, width = features.size
        boxes = center_to_corners_format(output.pred_boxes[0]) * output.pred_boxes.new_tensor([width, height] * 2)
        return boxes[scores > BOX_THRESHOLD], scores.max()

    def _segment(self, features: GroundedFeatures, boxes: Tensor) -> Tensor:
        """Return (K, h, w) mask logits for K boxes in pixels of the image."""
        if not len(boxes):
            side = features.embeddings.shape[-1] * 4
            return boxes.new_zeros((0, side, side))
        (height, width), (new_height, new_width) = features.size, features.unpadded
        scale = torch.tensor([new_width / width, new_height / height] * 2, dtype=torch.float64)
        scaled = (boxes.cpu().double() * scale)[None]
        if boxes.device.type == "mps":  # MPS does not support float64
            scaled = scaled.float()
        output = self.sam(
            image_embeddings=features.embeddings,
            input_boxes=scaled.to(boxes.device),
            multimask_output=False,
            return_dict=True,
        )
        return output.pred_masks[0, :, 0]


def _pair(sizes: Tensor) -> tuple[int, int]:
    height, width = sizes[0].tolist()
    return int(height), int(width)


def load_grounded_sam(detector: Path, sam: Path, *, dtype: torch.dtype) -> tuple[GroundedSam, GroundedSamProcessor]:
    """Load Grounding DINO and SAM from one directory each."""
    net = load_part(GroundingDinoForObjectDetection, detector, dtype)
    model = GroundedSam(net, load_part(SamModel, sam, dtype))
    processor = GroundedSamProcessor(
        load_image_processor(detector), load_tokenizer(detector), net.config.max_text_len, load_image_processor(sam)
    )
    return model, processor
