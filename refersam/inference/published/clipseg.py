"""CLIPSeg (Lüddecke and Ecker, CVPR 2022): mask decoder on CLIP image features, conditioned on the phrase embedding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPSegForImageSegmentation

from refersam.inference.published.base import (
    TransformersConfig,
    TransformersModel,
    TransformersProcessor,
    load_image_processor,
    load_part,
    load_tokenizer,
)
from refersam.model.refersam import ReferSamOutput
from refersam.reprs import OneLineRepr


@dataclass(frozen=True, eq=False, repr=False)
class Activations(OneLineRepr):
    """Activations of CLIP's image encoder for I images.

    Attributes:
        layers: (I, T, C) activations per layer used by the decoder.
    """

    layers: tuple[Tensor, ...]

    @property
    def num_images(self) -> int:
        """Number of images I."""
        return self.layers[0].shape[0]


class ClipSeg(TransformersModel):
    """CLIPSeg with the interface of `ReferSamModel`.

    Args:
        net: CLIPSeg of transformers.
    """

    def __init__(self, net: CLIPSegForImageSegmentation) -> None:
        super().__init__(
            TransformersConfig(
                net.config.text_config, object_score_head=False, supervise_iou=False, no_target_threshold=0.5
            )
        )
        self.net = net

    def encode_image(self, pixel_values: Tensor) -> Activations:
        """Encode (I, 3, H, W) images."""
        output = self.net.clip.vision_model(
            pixel_values, interpolate_pos_encoding=True, output_hidden_states=True, return_dict=True
        )
        return Activations(tuple(output.hidden_states[layer + 1] for layer in self.net.extract_layers))

    def answer(self, features: Activations, input_ids: Tensor, attention_mask: Tensor) -> ReferSamOutput:
        """Segment by phrases; see `TransformersModel.answer`."""
        rows = input_ids.shape[0]
        phrases = rows // features.num_images
        layers = [layer.repeat_interleave(phrases, dim=0) for layer in features.layers]
        embeddings = self.net.get_conditional_embeddings(rows, input_ids, attention_mask)
        logits = self.net.decoder(layers, embeddings, return_dict=True).logits
        logits = logits.reshape(rows, *logits.shape[-2:])
        return ReferSamOutput(mask_logits=logits, iou_scores=torch.zeros_like(logits[:, 0, 0]))


def load_clipseg(folder: Path, *, dtype: torch.dtype) -> tuple[ClipSeg, TransformersProcessor]:
    """Load CLIPSeg from a directory."""
    model = ClipSeg(load_part(CLIPSegForImageSegmentation, folder, dtype))
    length = model.config.text_config.max_position_embeddings
    return model, TransformersProcessor(load_image_processor(folder), load_tokenizer(folder), length)
