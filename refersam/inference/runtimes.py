"""What inference needs of a model and its processor: PyTorch, ONNX Runtime, published models of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from refersam.model.refersam import PhraseFeatures, ReferSamOutput


class Features(Protocol):
    """Result of `Model.encode_image` for I images."""

    @property
    def num_images(self) -> int:
        """I."""


class Config(Protocol):
    """Facts about a model that its answers depend on."""

    @property
    def text_config(self) -> Any:
        """Of the text encoder; its `max_position_embeddings` limits the tokens of a phrase."""

    @property
    def domain(self) -> str | None:
        """The only kind of images that the model was trained on; None for a model of general images."""

    @property
    def supports_clicks(self) -> bool:
        """Whether the model was trained with clicks and boxes."""

    @property
    def supervise_iou(self) -> bool:
        """Whether `iou_scores` are the confidence; otherwise it is the mean probability inside the mask."""

    @property
    def object_score_head(self) -> bool:
        """Whether the model decides that nothing matches."""

    @property
    def no_target_threshold(self) -> float:
        """Default: nothing matches where the probability of a target is below this."""

    @property
    def min_component_fraction(self) -> float:
        """Default of `drop_specks`."""


class Model(Protocol):
    """A model in evaluation mode, called like `ReferSamModel`."""

    @property
    def config(self) -> Config:
        """Facts about the model."""

    @property
    def device(self) -> torch.device:
        """Device of inputs and outputs."""

    @property
    def dtype(self) -> torch.dtype:
        """Precision of `pixel_values`."""

    def eval(self) -> Self:
        """Put the model into evaluation mode."""

    def num_parameters(self) -> int:
        """Return the number of parameters."""

    def encode_image(self, pixel_values: Any) -> Any:
        """Encode the text-independent features of I images once, for `image_features` of later calls."""

    def encode_phrases(
        self,
        pixel_values: Tensor | None,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        image_features: Any = None,
    ) -> PhraseFeatures | None:
        """Compute everything before the decoder, for `decode`; None for a model that runs in one piece."""

    def decode(
        self,
        features: PhraseFeatures,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        mask_prompt: Tensor | None = None,
    ) -> ReferSamOutput:
        """Segment what `encode_phrases` computed; see `ReferSamModel.decode`."""

    def __call__(
        self,
        pixel_values: Any,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        image_features: Any = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        mask_prompt: Tensor | None = None,
    ) -> ReferSamOutput:
        """Segment; see `ReferSamModel.forward`. `image_features` are those of the same model's `encode_image`."""


class Processor(Protocol):
    """Images and phrases to a model's inputs, and its outputs to masks."""

    tokenizer: Any
    max_text_tokens: int

    @property
    def image_size(self) -> dict[str, int]:
        """Size of the model's input in pixels, by side."""

    def __call__(self, images: Any = None, text: Any = None) -> Any:
        """Return `pixel_values` of images: (I, 3, H, W), or several tensors that move together by `to`."""

    def encode_phrases(self, phrases: Sequence[str]) -> dict[str, Tensor]:
        """Return `input_ids` and `attention_mask` (B, S), padded to the longest phrase."""

    def cut_off(self, phrase: str) -> str:
        """Return the end of a phrase that is longer than the model reads; empty where all of it is read."""

    def unknown_parts(self, phrase: str) -> tuple[str, ...]:
        """Return the parts of a phrase that the tokenizer does not know."""

    def mask_logits(self, output: ReferSamOutput, image_size: tuple[int, int], size: tuple[int, int], /) -> Tensor:
        """Resize the mask of one phrase.

        Args:
            output: with B = 1.
            image_size: (height, width) of the phrase's image in pixels.
            size: (height, width) of the result.

        Returns:
            (1, height, width) mask logits in float32.
        """
