"""Interfaces of models and processors for inference: PyTorch, ONNX Runtime, published models of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from refersam.model.refersam import PhraseFeatures, ReferSamOutput


class Features(Protocol):
    """Result of `Model.encode_image` for I images."""

    @property
    def num_images(self) -> int:
        """Number of images I."""


class Config(Protocol):
    """Model properties that inference depends on."""

    @property
    def text_config(self) -> Any:
        """Configuration of the text encoder; `max_position_embeddings` limits the tokens per phrase."""

    @property
    def domain(self) -> str | None:
        """The only image domain of the training data; None for a model of general images."""

    @property
    def supports_clicks(self) -> bool:
        """Whether the model was trained with clicks and boxes."""

    @property
    def supervise_iou(self) -> bool:
        """Whether `iou_scores` are the confidence. Otherwise the mean probability inside the mask is."""

    @property
    def object_score_head(self) -> bool:
        """Whether the model predicts the probability of a target."""

    @property
    def no_target_threshold(self) -> float:
        """Default minimum of the target probability; below it, no object matches."""

    @property
    def min_component_fraction(self) -> float:
        """Default minimum area of a component in `drop_specks`."""


class Model(Protocol):
    """A model in evaluation mode, called like `ReferSamModel`."""

    @property
    def config(self) -> Config:
        """Properties of the model."""

    @property
    def device(self) -> torch.device:
        """Device of inputs and outputs."""

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of `pixel_values`."""

    def eval(self) -> Self:
        """Switch the model to evaluation mode."""

    def num_parameters(self) -> int:
        """Return the number of parameters."""

    def encode_image(self, pixel_values: Any) -> Any:
        """Encode the text-independent features of I images; pass them as `image_features` to later calls."""

    def __call__(
        self,
        pixel_values: Any,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        image_features: Any = None,
    ) -> ReferSamOutput:
        """Segment; see `ReferSamModel.forward`. `image_features` come from `encode_image` of the same model."""


@runtime_checkable
class ClickableModel(Model, Protocol):
    """Model with a separate decoder, which takes clicks, boxes and mask prompts."""

    def encode_phrases(
        self,
        pixel_values: Tensor | None,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        image_features: Any = None,
    ) -> PhraseFeatures:
        """Compute the inputs of `decode`; see `ReferSamModel.encode_phrases`."""

    def decode(self, features: PhraseFeatures, **prompts: Tensor) -> ReferSamOutput:
        """Run the decoder on features of `encode_phrases`; see `ReferSamModel.decode` for the prompts."""


class Processor(Protocol):
    """Preprocessing of images and phrases, and postprocessing of masks."""

    tokenizer: Any
    max_text_tokens: int

    @property
    def image_size(self) -> dict[str, int]:
        """Size of the model input in pixels: {"height": ..., "width": ...}."""

    def __call__(self, images: Any = None, text: Any = None) -> Any:
        """Return `pixel_values` of images: (I, 3, H, W), or several tensors in a container with `to`."""

    def encode_phrases(self, phrases: Sequence[str]) -> dict[str, Tensor]:
        """Return `input_ids` and `attention_mask` (B, S), padded to the longest phrase."""

    def cut_off(self, phrase: str) -> str:
        """Return the end of a phrase that exceeds the token limit; empty if nothing is truncated."""

    def unknown_parts(self, phrase: str) -> tuple[str, ...]:
        """Return the parts of a phrase outside the tokenizer's vocabulary."""

    def mask_logits(self, output: ReferSamOutput, image_size: tuple[int, int], size: tuple[int, int], /) -> Tensor:
        """Resize the mask logits of one phrase.

        Args:
            output: model output with B = 1.
            image_size: (height, width) of the phrase's image in pixels.
            size: (height, width) of the result in pixels.

        Returns:
            (1, height, width) mask logits in float32.
        """
