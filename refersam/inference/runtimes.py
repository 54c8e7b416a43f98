"""What inference needs of a model, whatever runs it: PyTorch, ONNX Runtime and others."""

from __future__ import annotations

from typing import Any, Protocol, Self

import torch
from torch import Tensor

from refersam.config import ReferSamConfig
from refersam.model.refersam import PhraseFeatures, ReferSamOutput


class Features(Protocol):
    """Result of `Model.encode_image` for I images."""

    @property
    def num_images(self) -> int:
        """I."""


class Model(Protocol):
    """A model in evaluation mode, called like `ReferSamModel`."""

    config: ReferSamConfig

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

    def encode_image(self, pixel_values: Tensor) -> Any:
        """Encode the text-independent features of (I, 3, H, W) images once, for `image_features` of later calls."""

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
        pixel_values: Tensor | None,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        image_features: Any = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        mask_prompt: Tensor | None = None,
    ) -> ReferSamOutput:
        """Segment; see `ReferSamModel.forward`. `image_features` are those of the same model's `encode_image`."""
