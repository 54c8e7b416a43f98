"""Segment images by phrases."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import torch
from PIL import Image

from refersam.checkpoints.folders import BUNDLED_CHECKPOINT, load_model
from refersam.domain import log_domain
from refersam.drawing import OVERLAY_COLOUR, OVERLAY_OPACITY, draw_overlay
from refersam.image import ImageSource, load_image
from refersam.inference.answers import Answer, check_thresholds, read_answers
from refersam.inference.components import MIN_COMPONENT_FRACTION
from refersam.inference.devices import resolve_device, resolve_dtype, warn_if_emulated
from refersam.inference.queries import Query, run_queries
from refersam.inference.runtimes import Features, Model
from refersam.processor import ReferSamProcessor
from refersam.reprs import OneLineRepr

logger = logging.getLogger(__name__)

ONNX_SUFFIX = ".onnx"

_NOTEBOOK_SIDE = 1024  # pixels, at most


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation(Answer):
    """The answer to one phrase about one image of H x W pixels, with the image.

    Attributes:
        image: the image as it was read, RGB.
    """

    image: Image.Image

    def overlay(self, colour: tuple[int, int, int] = OVERLAY_COLOUR, opacity: float = OVERLAY_OPACITY) -> Image.Image:
        """The image with the mask laid over it and outlined."""
        return draw_overlay(self.image, self.mask, colour, opacity)

    def _repr_png_(self) -> bytes:
        """The overlay, which a notebook shows; a large one is reduced."""
        image, file = self.overlay(), io.BytesIO()
        image.thumbnail((_NOTEBOOK_SIDE, _NOTEBOOK_SIDE))
        image.save(file, format="PNG")
        return file.getvalue()


@dataclass(frozen=True, eq=False, repr=False)
class EncodedImage(OneLineRepr):
    """An image that a predictor has looked at already, for `predict`: only the phrases are still to be read.

    Attributes:
        image: the image as it was read, RGB.
        features: what its model made of it.
        model: that made them.
    """

    image: Image.Image
    features: Features
    model: Model = field(repr=False)


class ReferSamPredictor:
    """Segments images by phrases; holds a model, its processor and where they run.

    Args:
        model: put into evaluation mode.
        processor: of the model.
    """

    def __init__(self, model: Model, processor: ReferSamProcessor) -> None:
        self.model: Model = model.eval()
        self.processor = processor

    def __repr__(self) -> str:
        model = self.model
        number_format = str(model.dtype).removeprefix("torch.")
        kind = type(model).__name__
        return f"{type(self).__name__}({kind}, {model.num_parameters():,} parameters, {model.device}, {number_format})"

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "float32",
    ) -> ReferSamPredictor:
        """Load a model and its processor.

        Where the model was trained on one kind of images only (`config.domain`), a warning is logged once.

        Args:
            model: a folder, a Hub id, or an exported model: a folder for OpenVINO or an .onnx file; None for the
                bundled model, which knows synthetic scenes, not photographs.
            device: 'cpu', 'cuda', 'cuda:1', 'mps'; None for the best there is.
            dtype: 'float32', 'bfloat16' or 'float16'.

        Raises:
            CheckpointError: no such model, no weights in it, or another kind of model.
            DeviceError: a device or dtype that is not there.
        """
        name = os.fspath(model) if model is not None else os.fspath(BUNDLED_CHECKPOINT)
        if (load := exported_loader(name)) is not None:
            predictor = cls(*load(Path(name), device, dtype))
            log_domain(predictor.domain, name)
            return predictor
        place, number_format = resolve_device(device), resolve_dtype(dtype)
        warn_if_emulated(place, number_format)
        loaded, processor = load_model(name)
        log_domain(loaded.config.domain, name)
        return cls(loaded.to(device=place, dtype=number_format), processor)

    @property
    def domain(self) -> str | None:
        """The only kind of images that the model was trained on; None for a model of general images."""
        return self.model.config.domain

    @torch.inference_mode()
    def set_image(self, image: ImageSource) -> EncodedImage:
        """Look at an image before any phrase is known: `predict` takes the result in place of the image.

        For interactive use, where phrases about one image come one after the other: what does not depend on the
        phrase is computed here, once. The answers are those about the image itself.

        Args:
            image: path, PIL image, array or the bytes of a file.

        Raises:
            ImageError: an image that cannot be read.
        """
        image = load_image(image)
        pixel_values = self.processor(images=image)["pixel_values"]
        features = self.model.encode_image(pixel_values.to(self.model.device, self.model.dtype))
        return EncodedImage(image, features, self.model)

    @overload  # a str is a Sequence[str] too, but the first declaration is the one that counts
    def predict(  # type: ignore[overload-overlap]
        self,
        image: ImageSource | EncodedImage,
        phrase: str,
        threshold: float = ...,
        no_target_threshold: float = ...,
        min_component_fraction: float = ...,
    ) -> Segmentation: ...

    @overload
    def predict(
        self,
        image: ImageSource | EncodedImage,
        phrase: Sequence[str],
        threshold: float = ...,
        no_target_threshold: float = ...,
        min_component_fraction: float = ...,
    ) -> list[Segmentation]: ...

    def predict(
        self,
        image: ImageSource | EncodedImage,
        phrase: str | Sequence[str],
        threshold: float = 0.5,
        no_target_threshold: float = 0.5,
        min_component_fraction: float = MIN_COMPONENT_FRACTION,
    ) -> Segmentation | list[Segmentation]:
        """Segment what a phrase means.

        Args:
            image: path, PIL image, array or the bytes of a file, or what `set_image` made of one.
            phrase: one phrase, or several about the same image, which run as one batch.
            threshold: a pixel belongs to the mask where its probability is at least this.
            no_target_threshold: nothing matches where the probability of a target is below this. Models without an
                object-score head always answer with a mask.
            min_component_fraction: a connected component of the mask with less than this fraction of the largest
                component's area is dropped; 0 keeps all.

        Returns:
            One result, or a list for a list of phrases.

        Raises:
            ImageError: an image that cannot be read.
            PhraseError: no phrase, or one without a word.
            ValueError: a threshold or fraction outside [0, 1], or an image that another predictor has looked at.
        """
        phrases = [phrase] if isinstance(phrase, str) else list(phrase)
        check_thresholds(threshold, no_target_threshold, min_component_fraction)
        if isinstance(image, EncodedImage):
            if image.model is not self.model:
                raise ValueError("Another predictor looked at this image: call set_image of the one that is asked.")
            image, features = image.image, image.features
        else:
            image, features = load_image(image), None
        query = Query.prepare(self.processor, image, phrases, features)
        (output,) = run_queries(self.model, [query])
        settings = (threshold, no_target_threshold, min_component_fraction)
        results = [
            Segmentation(**vars(answer), image=image)
            for answer in read_answers(self.model, self.processor, output, query, *settings)
        ]
        return results[0] if isinstance(phrase, str) else results


def exported_loader(name: str) -> Callable[..., tuple[Model, ReferSamProcessor]] | None:
    """Return the function that loads an exported model; None for any other model."""
    from refersam.inference import onnx_model, openvino_model

    if name.endswith(ONNX_SUFFIX):
        return onnx_model.load_onnx
    return openvino_model.load_openvino if openvino_model.is_openvino(Path(name)) else None
