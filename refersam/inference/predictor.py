"""Segment images by phrases."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

import torch
from PIL import Image
from torch import Tensor

from refersam.checkpoints.folders import BUNDLED_CHECKPOINT, load_model, recognise_published
from refersam.domain import log_domain
from refersam.drawing import OVERLAY_COLOUR, OVERLAY_OPACITY, draw_overlay
from refersam.errors import PromptError
from refersam.image import ImageSource, load_image
from refersam.inference.answers import Answer, check_thresholds, read_answers
from refersam.inference.devices import resolve_device, resolve_dtype, warn_if_emulated
from refersam.inference.prompts import NO_PROMPTS, Box, Point, Prompts
from refersam.inference.queries import Query, encode_queries, input_size, run_queries
from refersam.inference.runtimes import Features, Model, Processor
from refersam.reprs import OneLineRepr

logger = logging.getLogger(__name__)

ONNX_SUFFIX = ".onnx"

_NOTEBOOK_SIDE = 1024  # maximum side of an image in a notebook, in pixels


@dataclass(frozen=True, eq=False)
class _State:
    """State of an answer for `ReferSamPredictor.refine`.

    Attributes:
        query: query of one phrase, with its features.
        mask_logits: (1, H/4, W/4) mask logits of the answer.
        model: the model that produced `mask_logits`.
    """

    query: Query
    mask_logits: Tensor | None
    model: Model


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation(Answer):
    """The answer to one phrase about one image of H x W pixels, with the image.

    The state for `ReferSamPredictor.refine` takes about 1 MB with the base model at 448 x 448 pixels.

    Attributes:
        image: the RGB input image.
        prompts: all clicks and the box used for this answer.
    """

    image: Image.Image
    prompts: Prompts = field(default=NO_PROMPTS, kw_only=True)
    _state: _State | None = field(default=None, kw_only=True)

    def overlay(self, colour: tuple[int, int, int] = OVERLAY_COLOUR, opacity: float = OVERLAY_OPACITY) -> Image.Image:
        """Return the image with the mask overlaid and outlined."""
        return draw_overlay(self.image, self.mask, colour, opacity)

    def _repr_png_(self) -> bytes:
        """Return the overlay as PNG for notebooks, downscaled if large."""
        image, file = self.overlay(), io.BytesIO()
        image.thumbnail((_NOTEBOOK_SIDE, _NOTEBOOK_SIDE))
        image.save(file, format="PNG")
        return file.getvalue()


@dataclass(frozen=True, eq=False, repr=False)
class EncodedImage(OneLineRepr):
    """An image with its text-independent features, as input of `predict`.

    Attributes:
        image: the RGB input image.
        features: text-independent features of the image.
        model: the model that produced `features`.
    """

    image: Image.Image
    features: Features
    model: Model = field(repr=False)


class ReferSamPredictor:
    """Segmentation of images by phrases, with a model and its processor.

    Args:
        model: the model; it is switched to evaluation mode.
        processor: the processor of the model.
    """

    def __init__(self, model: Model, processor: Processor) -> None:
        self.model: Model = model.eval()
        self.processor: Processor = processor

    def __repr__(self) -> str:
        model = self.model
        precision = str(model.dtype).removeprefix("torch.")
        kind = type(model).__name__
        return f"{type(self).__name__}({kind}, {model.num_parameters():,} parameters, {model.device}, {precision})"

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "float32",
    ) -> ReferSamPredictor:
        """Load a model and its processor.

        A warning is logged once if the model was trained on one image domain only (`config.domain`).

        Args:
            model: directory, Hub id or export (OpenVINO folder, .onnx file); 'clipseg', 'grounded-sam' or 'sam3' for a
                published model (docs/photographs.md), or a directory or Hub id of such a model; None for the bundled
                model, which was trained on synthetic scenes, not photographs.
            device: 'cpu', 'cuda', 'cuda:1' or 'mps'; None for the fastest available device.
            dtype: 'float32', 'bfloat16' or 'float16'.

        Raises:
            CheckpointError: the model does not exist, has no weights, or is of another kind.
            DeviceError: the device or dtype is not available.
        """
        name = os.fspath(model) if model is not None else os.fspath(BUNDLED_CHECKPOINT)
        if (load := exported_loader(name)) is not None:
            predictor = cls(*load(Path(name), device, dtype))
            log_domain(predictor.domain, name)
            return predictor
        place, precision = resolve_device(device), resolve_dtype(dtype)
        warn_if_emulated(place, precision)
        if (published := recognise_published(name)) is not None:
            from refersam.inference.published import load_published

            return cls(*load_published(published, place, precision))
        loaded, processor = load_model(name)
        log_domain(loaded.config.domain, name)
        return cls(loaded.to(device=place, dtype=precision), processor)

    @property
    def domain(self) -> str | None:
        """The only image domain of the training data; None for a model of general images."""
        return self.model.config.domain

    @torch.inference_mode()
    def set_image(self, image: ImageSource) -> EncodedImage:
        """Encode the text-independent features of an image once; pass the result to `predict` in place of the image.

        Use it for several phrases about one image, one after the other. The results equal those of `predict` with the
        image.

        Args:
            image: path, PIL image, array or file bytes.

        Raises:
            ImageError: the image cannot be read.
        """
        rgb = load_image(image)
        pixel_values = self.processor(images=rgb)["pixel_values"]
        features = self.model.encode_image(pixel_values.to(self.model.device, self.model.dtype))
        return EncodedImage(rgb, features, self.model)

    @overload  # str is also a Sequence[str]; the first overload takes precedence
    def predict(  # type: ignore[overload-overlap]
        self,
        image: ImageSource | EncodedImage,
        phrase: str,
        threshold: float = ...,
        no_target_threshold: float | None = ...,
        min_component_fraction: float | None = ...,
        *,
        points: Sequence[Point] | None = ...,
        point_labels: Sequence[int] | None = ...,
        box: Box | None = ...,
    ) -> Segmentation: ...

    @overload
    def predict(
        self,
        image: ImageSource | EncodedImage,
        phrase: Sequence[str],
        threshold: float = ...,
        no_target_threshold: float | None = ...,
        min_component_fraction: float | None = ...,
        *,
        points: Sequence[Point] | None = ...,
        point_labels: Sequence[int] | None = ...,
        box: Box | None = ...,
    ) -> list[Segmentation]: ...

    def predict(
        self,
        image: ImageSource | EncodedImage,
        phrase: str | Sequence[str],
        threshold: float = 0.5,
        no_target_threshold: float | None = None,
        min_component_fraction: float | None = None,
        *,
        points: Sequence[Point] | None = None,
        point_labels: Sequence[int] | None = None,
        box: Box | None = None,
    ) -> Segmentation | list[Segmentation]:
        """Segment the object that a phrase, and optional clicks or a box, describe; see `refine` for further clicks.

        Args:
            image: path, PIL image, array, file bytes, or a result of `set_image`.
            phrase: one phrase, or several about the same image, which run as one batch.
            threshold: minimum probability of a mask pixel.
            no_target_threshold: minimum target probability; below it, no object matches. Models without an
                object-score head always return a mask. None for the model's default: 0.5, or the value of a published
                model.
            min_component_fraction: minimum area of a connected component, as a fraction of the largest component's
                area; smaller ones are removed. 0 keeps all. None for the model's default: 0.01, or 0 for a published
                model.
            points: clicks (x, y) in pixels of the image, for one phrase only; None for no clicks.
            point_labels: per point 1 (foreground) or 0 (background); None for all 1.
            box: (left, top, right, bottom) around the object in pixels of the image; None for no box.

        Returns:
            One result, or a list for a list of phrases.

        Raises:
            ImageError: the image cannot be read.
            PhraseError: there is no phrase, or a phrase has no word.
            PromptError: a point is outside the image, the numbers of points and labels differ, the box has no area,
                clicks are given for several phrases, or the model was exported without clicks.
            ValueError: a threshold or fraction is outside [0, 1], or another predictor encoded the image.
        """
        phrases = [phrase] if isinstance(phrase, str) else list(phrase)
        check_thresholds(threshold, no_target_threshold, min_component_fraction)
        if isinstance(image, EncodedImage):
            if image.model is not self.model:
                raise ValueError("Another predictor looked at this image: call set_image of this predictor.")
            rgb, features = image.image, image.features
        else:
            rgb, features = load_image(image), None
        prompts = Prompts.build(points, point_labels, box, rgb.width, rgb.height)
        query = Query.prepare(self.processor, rgb, phrases, features, prompts)
        (query,) = encode_queries(self.model, [query])
        results = self._results(query, rgb, (threshold, no_target_threshold, min_component_fraction))
        return results[0] if isinstance(phrase, str) else results

    def refine(
        self,
        result: Segmentation,
        *,
        points: Sequence[Point] | None = None,
        point_labels: Sequence[int] | None = None,
        box: Box | None = None,
        threshold: float = 0.5,
        no_target_threshold: float | None = None,
        min_component_fraction: float | None = None,
    ) -> Segmentation:
        """Refine a result with further clicks or a box; only SAM's decoder runs.

        Inputs of the decoder are the phrase, all clicks and the previous mask. `result` is not modified: to undo a
        click, refine the previous result.

        Args:
            result: a result of this predictor's `predict` or `refine`.
            points: additional clicks, as in `predict`.
            point_labels: labels of `points`, as in `predict`.
            box: box that replaces the previous one, as in `predict`.
            threshold: as in `predict`.
            no_target_threshold: as in `predict`.
            min_component_fraction: as in `predict`.

        Raises:
            PromptError: as in `predict`, or neither a point nor a box is given.
            ValueError: a threshold or fraction is outside [0, 1], or `result` is of another predictor.
        """
        check_thresholds(threshold, no_target_threshold, min_component_fraction)
        state = result._state
        if state is None or state.model is not self.model:
            raise ValueError("This result is of another predictor: refine it with that predictor.")
        added = Prompts.build(points, point_labels, box, result.image.width, result.image.height)
        if not added:
            raise PromptError("A click or a box is needed to refine a result, but none is given.")
        mask = state.mask_logits
        query = state.query.with_prompts(result.prompts.add(added), input_size(self.processor), mask)
        return self._results(query, result.image, (threshold, no_target_threshold, min_component_fraction))[0]

    def _results(
        self, query: Query, image: Image.Image, thresholds: tuple[float, float | None, float | None]
    ) -> list[Segmentation]:
        (output,) = run_queries(self.model, [query])
        count, masks, features = len(query.phrases), output.low_res_mask_logits, query.phrase_features
        parts = [None] * count if features is None else features.split(count)
        results = []
        for index, answer in enumerate(read_answers(self.model, self.processor, output, query, *thresholds)):
            one = replace(query.part(index, index + 1), phrase_features=parts[index])
            state = _State(one, None if masks is None else masks[index : index + 1], self.model)
            results.append(Segmentation(**vars(answer), image=image, prompts=query.prompts, _state=state))
        return results


def load_predictor(
    name: str | os.PathLike | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "float32",
) -> ReferSamPredictor:
    """Load a predictor by the name of its model; see `ReferSamPredictor.from_pretrained`."""
    return ReferSamPredictor.from_pretrained(name, device=device, dtype=dtype)


def exported_loader(name: str) -> Callable[..., tuple[Model, Processor]] | None:
    """Return the function that loads an exported model; None for any other model."""
    from refersam.inference import onnx_model, openvino_model

    if name.endswith(ONNX_SUFFIX):
        return onnx_model.load_onnx
    return openvino_model.load_openvino if openvino_model.is_openvino(Path(name)) else None
