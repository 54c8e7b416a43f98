"""SAM 3 (Meta, 2025): scores and masks of all instances that match a phrase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import BatchFeature, Sam3Model
from transformers.image_processing_utils import BaseImageProcessor

from refersam.inference.published.base import (
    TransformersConfig,
    TransformersModel,
    TransformersProcessor,
    check_size,
    instance_output,
    load_part,
    load_tokenizer,
)
from refersam.model.refersam import ReferSamOutput
from refersam.reprs import OneLineRepr

SCORE_THRESHOLD = 0.3
"""Default of transformers' `post_process_instance_segmentation`."""
TEXT_TOKENS = 32


class Sam3ImageProcessor(BaseImageProcessor):
    """Preprocessing of transformers' `Sam3ImageProcessor` without torchvision, with identical results.

    Args:
        size: {"height": ..., "width": ...} of the model input in pixels.
        image_mean: mean per channel, of pixels in [0, 1].
        image_std: standard deviation per channel, of pixels in [0, 1].
        rescale_factor: factor that scales pixels to [0, 1].
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 - transformers' own declaration

    def __init__(
        self,
        size: dict[str, int] | None = None,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        rescale_factor: float = 1 / 255,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.size = dict(size or {"height": 1008, "width": 1008})
        self.image_mean, self.image_std, self.rescale_factor = list(image_mean), list(image_std), rescale_factor

    def __call__(self, images: Sequence[Image.Image], **_kwargs: Any) -> BatchFeature:
        """Return (I, 3, H, W) float32 `pixel_values`."""
        return BatchFeature({"pixel_values": torch.stack([self._pixels(image) for image in images])})

    def _pixels(self, image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        size = (self.size["height"], self.size["width"])
        pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)[0].float()
        mean, std = (torch.tensor(each) * (1 / self.rescale_factor) for each in (self.image_mean, self.image_std))
        return (pixels - mean[:, None, None]) / std[:, None, None]


class Sam3Processor(TransformersProcessor):
    """Processor of SAM 3."""

    padding = "max_length"

    def mask_logits(self, output: ReferSamOutput, _image_size: tuple[int, int], size: tuple[int, int], /) -> Tensor:
        """Merge the instances of one phrase by the maximum of their resized probabilities."""
        best = output.mask_logits.new_zeros((1, 1, *size))
        for instance in output.mask_logits[0].sigmoid():
            best = best.maximum(F.interpolate(instance[None, None], size, mode="bilinear", align_corners=False))
        return best[0].logit()


@dataclass(frozen=True, eq=False, repr=False)
class VisionEmbeddings(OneLineRepr):
    """SAM 3's vision embeddings of I images.

    Attributes:
        images: I outputs of the image encoder.
    """

    images: list[Any]

    @property
    def num_images(self) -> int:
        """Number of images I."""
        return len(self.images)


class Sam3(TransformersModel):
    """SAM 3's detector; each phrase runs separately, which makes its answer independent of other phrases.

    Args:
        net: SAM 3 of transformers.
    """

    def __init__(self, net: Sam3Model) -> None:
        config = TransformersConfig(net.config.text_config, True, True, SCORE_THRESHOLD)
        super().__init__(config)
        self.net = net

    def encode_image(self, pixel_values: Tensor) -> VisionEmbeddings:
        """Encode (I, 3, H, W) images."""
        return VisionEmbeddings([self.net.get_vision_features(image[None]) for image in pixel_values])

    def answer(self, features: VisionEmbeddings, input_ids: Tensor, attention_mask: Tensor) -> ReferSamOutput:
        """Segment by phrases; see `TransformersModel.answer`."""
        masks, best = [], []
        phrases = input_ids.shape[0] // features.num_images
        for row, (ids, attention) in enumerate(zip(input_ids, attention_mask, strict=True)):
            output = self.net(
                vision_embeds=features.images[row // phrases],
                input_ids=ids[None],
                attention_mask=attention[None],
                return_dict=True,
            )
            scores = output.pred_logits[0].sigmoid()
            if output.presence_logits is not None:
                scores = scores * output.presence_logits[0].sigmoid()
            masks.append(output.pred_masks[0][scores > SCORE_THRESHOLD])
            best.append(scores.max())
        return instance_output(masks, best)


def load_sam3(folder: Path, *, dtype: torch.dtype) -> tuple[Sam3, Sam3Processor]:
    """Load SAM 3's detector from a directory; the published file, with detector and tracker, is accepted too."""
    settings, _ = Sam3ImageProcessor.get_image_processor_dict(folder, local_files_only=True)
    image_processor = check_size(Sam3ImageProcessor.from_dict(settings), folder)
    model = Sam3(load_part(Sam3Model, folder, dtype))
    return model, Sam3Processor(image_processor, load_tokenizer(folder), TEXT_TOKENS)
