"""Base classes and loaders of the published models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoTokenizer, BatchFeature, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from refersam.errors import CheckpointError, first_of
from refersam.image import ImageSource, load_image
from refersam.inference.runtimes import Features
from refersam.model.refersam import ReferSamOutput
from refersam.phrases import check_phrases
from refersam.processor import MAX_SIDE, ReferSamProcessor

_NOTHING = -1e4
"""Logit of an empty mask."""


@dataclass(frozen=True)
class TransformersConfig:
    """Model properties that inference depends on; see `runtimes.Config`."""

    text_config: Any
    object_score_head: bool
    supervise_iou: bool
    no_target_threshold: float
    min_component_fraction: float = 0.0
    domain: str | None = None
    supports_clicks: bool = False


class TransformersModel(nn.Module):
    """Base of the published models, called like `ReferSamModel`.

    Args:
        config: properties of the model.
    """

    def __init__(self, config: TransformersConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return next(self.parameters()).dtype

    def num_parameters(self) -> int:
        """Return the number of parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    def encode_image(self, pixel_values: Any) -> Features:
        """Encode the text-independent features of images."""
        raise NotImplementedError

    def answer(self, features: Any, input_ids: Tensor, attention_mask: Tensor) -> ReferSamOutput:
        """Segment B phrases about I encoded images, B / I consecutive phrases per image.

        Args:
            features: result of `encode_image` for I images.
            input_ids: (B, S) token ids; B is a multiple of I.
            attention_mask: (B, S) mask, 1 for tokens and 0 for padding.
        """
        raise NotImplementedError

    def forward(
        self,
        pixel_values: Any,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        image_features: Any = None,
    ) -> ReferSamOutput:
        """Segment; see `runtimes.Model`."""
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        features = self.encode_image(pixel_values) if image_features is None else image_features
        return self.answer(features, input_ids, attention_mask)


class TransformersProcessor(ReferSamProcessor):
    """Image processor and tokenizer of a published model.

    Args:
        image_processor: image processor of transformers.
        tokenizer: tokenizer of transformers.
        max_text_tokens: maximum number of tokens; longer phrases are truncated.
    """

    padding: ClassVar[bool | str] = True
    """Padding of phrases: True (to the longest) or "max_length"."""

    def __call__(
        self, images: ImageSource | Sequence[ImageSource] | None = None, text: Any = None, **_kwargs: Any
    ) -> BatchFeature:
        """Return the model inputs for images of one size, and for phrases."""
        data: dict[str, Any] = {}
        if images is not None:
            several: Sequence[Any] = images if isinstance(images, list | tuple) else [images]
            data["pixel_values"] = self.image_inputs([load_image(image) for image in several])
        if text is not None:
            data.update(self.encode_phrases([text] if isinstance(text, str) else list(text)))
        return BatchFeature(data)

    def image_inputs(self, images: list[Image.Image]) -> Any:
        """Return (I, 3, H, W) pixels."""
        return self.image_processor(images, return_tensors="pt")["pixel_values"]

    def wording(self, phrase: str) -> str:
        """Return a phrase in the text format of the model's training data."""
        return phrase

    def encode_phrases(self, phrases: Sequence[str]) -> dict[str, Tensor]:
        """Tokenize phrases to `input_ids` and `attention_mask` (B, S).

        Raises:
            PhraseError: a phrase has no word.
        """
        check_phrases(phrases)
        encoded = self.tokenizer(
            [self.wording(phrase) for phrase in phrases],
            padding=self.padding,
            truncation=True,
            max_length=self.max_text_tokens,
            return_tensors="pt",
        )
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def _without_unknown_symbols(self, phrase: str) -> str:
        return phrase  # unchanged, as in the published code


def load_part(kind: type[PreTrainedModel], folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Load a model of transformers from a directory; all weights must match its configuration.

    Raises:
        CheckpointError: there is no safetensors file, or weights are missing or of another shape.
    """
    if not list(folder.glob("*.safetensors")):
        raise CheckpointError(f"{folder} has no weights: model.safetensors is expected (pickled weights are not read).")
    model, report = kind.from_pretrained(
        folder,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    wrong = sorted({str(name) for key in ("missing_keys", "mismatched_keys") for name in report[key]})
    if wrong:
        raise CheckpointError(f"The weights in {folder} do not fit their configuration: {first_of(wrong, 3)}.")
    return model


def load_image_processor(folder: Path) -> BaseImageProcessor:
    """Load an image processor of transformers with Pillow backend: the same pixels with and without torchvision."""
    options = {"local_files_only": True, "trust_remote_code": False}
    return check_size(AutoImageProcessor.from_pretrained(folder, backend="pil", **options), folder)


def check_size(image_processor: BaseImageProcessor, folder: Path) -> BaseImageProcessor:
    """Validate the input size, which limits memory and time.

    Raises:
        CheckpointError: a side is invalid, or longer than `MAX_SIDE`.
    """
    sizes = {**dict(image_processor.size), **dict(getattr(image_processor, "pad_size", None) or {})}
    for name, side in sizes.items():
        if side is not None and not (isinstance(side, int) and 0 < side <= MAX_SIDE):
            raise CheckpointError(
                f"The image settings in {folder} are broken: {name} must be 1 to {MAX_SIDE}, is {side}."
            )
    return image_processor


def load_tokenizer(folder: Path) -> Any:
    """Load a tokenizer from a directory."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def instance_output(masks: Sequence[Tensor], scores: Sequence[Tensor]) -> ReferSamOutput:
    """Stack the instances of B phrases into one output.

    Args:
        masks: B tensors (K, h, w), the mask logits of K >= 0 instances.
        scores: B scalar tensors in [0, 1], the best score of any candidate, used as target probability.

    Returns:
        Output with `mask_logits` (B, K, h, w), K being the largest number of instances and at least 1.
    """
    most = max(1, *(mask.shape[0] for mask in masks))
    stacked = masks[0].new_full((len(masks), most, *masks[0].shape[1:]), _NOTHING, dtype=torch.float32)
    for row, mask in zip(stacked, masks, strict=True):
        row[: mask.shape[0]] = mask
    best = torch.stack(list(scores)).float()
    return ReferSamOutput(
        mask_logits=stacked,
        iou_scores=torch.ones_like(best),
        object_score_logits=best.logit(eps=1e-6),
    )
