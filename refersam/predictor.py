"""A mask for a picture and a phrase."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import torch
from PIL import Image

from refersam.components import MIN_COMPONENT_FRACTION
from refersam.config import ReferSamConfig, check_spelling
from refersam.domain import log_domain
from refersam.drawing import OVERLAY_COLOUR, OVERLAY_OPACITY, draw_overlay
from refersam.errors import CheckpointError, DeviceError, first_of, one_line
from refersam.hub import DownloadError, hub_options, raise_if_not_downloaded
from refersam.image import ImageSource, load_image
from refersam.inference import Answer, Features, Model, Query, check_thresholds, read_answers, run_queries
from refersam.model.refersam import ReferSamModel
from refersam.processor import ReferSamProcessor, check_room
from refersam.registration import register
from refersam.reprs import OneLineRepr

logger = logging.getLogger(__name__)

MODEL_IN_THE_BOX = Path(__file__).parent / "assets" / "model"
"""The tiny model that comes with the package: it knows drawn scenes, not photographs."""

ONNX_SUFFIX = ".onnx"

_NOTEBOOK_SIDE = 1024  # pixels, at most

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation(Answer):
    """The answer to one phrase about one picture of H x W pixels, with the picture.

    Attributes:
        image: the picture as it was read, RGB.
    """

    image: Image.Image

    def overlay(self, colour: tuple[int, int, int] = OVERLAY_COLOUR, opacity: float = OVERLAY_OPACITY) -> Image.Image:
        """The picture with the mask laid over it and outlined."""
        return draw_overlay(self.image, self.mask, colour, opacity)

    def _repr_png_(self) -> bytes:
        """The overlay, which a notebook shows; a large one is reduced."""
        picture, file = self.overlay(), io.BytesIO()
        picture.thumbnail((_NOTEBOOK_SIDE, _NOTEBOOK_SIDE))
        picture.save(file, format="PNG")
        return file.getvalue()


@dataclass(frozen=True, eq=False, repr=False)
class EncodedImage(OneLineRepr):
    """A picture that a predictor has looked at already, for `predict`: only the phrases are still to be read.

    Attributes:
        image: the picture as it was read, RGB.
        features: what its model made of it.
        model: that made them.
    """

    image: Image.Image
    features: Features
    model: Model = field(repr=False)


class ReferSamPredictor:
    """Segments pictures by phrases; holds a model, its processor and where they run.

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
            model: a folder, a Hub id or an exported .onnx file; None for the model in the box, which knows drawn
                scenes, not photographs.
            device: 'cpu', 'cuda', 'cuda:1', 'mps'; None for the best there is.
            dtype: 'float32', 'bfloat16' or 'float16'.

        Raises:
            CheckpointError: no such model, no weights in it, or another kind of model.
            DeviceError: a device or number format that is not there.
        """
        name = os.fspath(model) if model is not None else os.fspath(MODEL_IN_THE_BOX)
        if name.endswith(ONNX_SUFFIX):
            from refersam.onnx_model import load_onnx

            predictor = cls(*load_onnx(Path(name), device, dtype))
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
        """Look at a picture before any phrase is known: `predict` takes the result in place of the picture.

        For interactive use, where phrases about one picture come one after the other: what does not depend on the
        phrase is computed here, once. The answers are those about the picture itself.

        Args:
            image: path, PIL image, array or the bytes of a file.

        Raises:
            ImageError: a picture that cannot be read.
        """
        picture = load_image(image)
        pixel_values = self.processor(images=picture)["pixel_values"]
        features = self.model.encode_image(pixel_values.to(self.model.device, self.model.dtype))
        return EncodedImage(picture, features, self.model)

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
            phrase: one phrase, or several about the same picture, which run as one batch.
            threshold: a pixel belongs to the mask where its probability is at least this.
            no_target_threshold: nothing matches where the probability of a target is below this. Models without an
                object-score head always answer with a mask.
            min_component_fraction: a connected component of the mask with less than this fraction of the largest
                component's area is dropped; 0 keeps all.

        Returns:
            One result, or a list for a list of phrases.

        Raises:
            ImageError: a picture that cannot be read.
            PhraseError: no phrase, or one without a word.
            ValueError: a threshold or fraction outside [0, 1], or a picture that another predictor has looked at.
        """
        phrases = [phrase] if isinstance(phrase, str) else list(phrase)
        check_thresholds(threshold, no_target_threshold, min_component_fraction)
        if isinstance(image, EncodedImage):
            if image.model is not self.model:
                raise ValueError("Another predictor looked at this picture: call set_image of the one that is asked.")
            picture, features = image.image, image.features
        else:
            picture, features = load_image(image), None
        query = Query.prepare(self.processor, picture, phrases, features)
        (output,) = run_queries(self.model, [query])
        settings = (threshold, no_target_threshold, min_component_fraction)
        results = [
            Segmentation(**vars(answer), image=picture)
            for answer in read_answers(self.model, self.processor, output, query, *settings)
        ]
        return results[0] if isinstance(phrase, str) else results


def load_model(name: str, changes: Mapping[str, Any] | None = None) -> tuple[ReferSamModel, ReferSamProcessor]:
    """Load a ReferSAM model and its processor in float32 on the CPU.

    Args:
        name: a folder or Hub id.
        changes: fields of its configuration that get another value.

    Raises:
        CheckpointError: no such folder or Hub id, no weights in it, another kind of model, weights that do not fit.
        ValueError: a changed configuration that is none.
    """
    register()  # transformers finds the image processor by its registration
    config, place = load_config(name)
    if changes:
        config = ReferSamConfig(**{**config.to_dict(), **changes})
    model = load_weights(name, config=config, **place)
    try:
        processor = ReferSamProcessor.from_pretrained(name, trust_remote_code=False, **place)
    except Exception as error:
        raise_if_not_downloaded(name, error, **place)
        raise CheckpointError(
            f"{name} has no processor (tokenizer and image settings) that can be read: {one_line(error)}."
        ) from error
    check_room(processor, config, name)
    return model, processor


def load_config(name: str) -> tuple[ReferSamConfig, dict[str, bool]]:
    """The configuration of a model, and transformers' options that say whether the Hub may be asked for the rest.

    Raises:
        CheckpointError: no such folder or Hub id, or another kind of model.
    """
    from transformers import PreTrainedConfig

    folder = Path(name)
    if folder.exists() and not (folder / "config.json").is_file():
        raise CheckpointError(f"{name} holds no ReferSAM model: a folder with config.json and weights is expected.")
    if not folder.exists() and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        raise CheckpointError(f"No such model: {name} is neither a folder nor a Hub id of the form owner/name.")
    place = hub_options(name)
    try:
        fields = PreTrainedConfig.get_config_dict(name, **place)[0]
        kind = fields.get("model_type")
    except Exception as error:  # of any kind, here and below: a foreign folder may hold anything
        raise_if_not_downloaded(name, error, **place)
        raise CheckpointError(f"No model could be read from {name}: {one_line(error)}.") from error
    if kind != "refersam":
        raise CheckpointError(f"{name} is a model of type {kind!r}, not 'refersam'.")
    try:
        check_spelling(fields)
        config = ReferSamConfig.from_pretrained(name, **place)
    except Exception as error:
        raise CheckpointError(f"The configuration of {name} is not ReferSAM's: {one_line(error)}.") from error
    return config, place


def load_weights(name: str, **options: Any) -> ReferSamModel:
    """`ReferSamModel.from_pretrained` in float32, strictly: nothing missing, left over or of another shape.

    Raises:
        CheckpointError: weights that cannot be read or do not fit.
    """
    try:
        model, report = ReferSamModel.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
        )
    except DownloadError:
        raise
    except Exception as error:  # of any kind: a foreign folder may hold anything
        raise CheckpointError(f"The weights of {name} could not be read: {one_line(error)}.") from error
    problems = [_some(key.removesuffix("_keys"), names) for key, names in report.items() if names]
    if problems:
        raise CheckpointError(f"The weights of {name} do not fit its configuration: {'; '.join(problems)}.")
    return model


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or the best there is.

    Raises:
        DeviceError: unknown or not there.
    """
    available = ["cpu"]
    if torch.cuda.is_available():
        available += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        available.append("mps")
    if device is None or device == "auto":
        return torch.device(next((name for name in ("cuda:0", "mps") if name in available), "cpu"))
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"Unknown device {device!r}: this machine has {', '.join(available)}.") from error
    full_name = f"cuda:{wanted.index or 0}" if wanted.type == "cuda" else wanted.type
    if full_name not in available:
        raise DeviceError(f"Device {str(device)!r} is not there: this machine has {', '.join(available)}.")
    return wanted


def resolve_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The number format asked for.

    Raises:
        DeviceError: unknown.
    """
    wanted = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if wanted is None or wanted not in DTYPES.values():
        raise DeviceError(f"Unknown number format {dtype!r}: choose one of {', '.join(DTYPES)}.")
    return wanted


def is_emulated(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this machine's CPU has no instructions for a number format, and makes up for them in software."""
    if device.type != "cpu" or dtype == torch.float32 or not torch.backends.mkldnn.is_available():
        return False
    operators = torch.ops.mkldnn
    has = {torch.bfloat16: operators._is_mkldnn_bf16_supported, torch.float16: operators._is_mkldnn_fp16_supported}
    return not has[dtype]()


def warn_if_emulated(device: torch.device, dtype: torch.dtype) -> None:
    """Say that a number format is slow here, where it is."""
    if is_emulated(device, dtype):
        name = str(dtype).removeprefix("torch.")
        logger.warning("This CPU has no instructions for %s, which is much slower here than float32.", name)


def _some(what: str, names: Iterable[object]) -> str:
    """How many, and the first of them: "2 missing (a, b)"."""
    listed = sorted(str(name[0] if isinstance(name, tuple) else name) for name in names)
    return f"{len(listed)} {what} ({first_of(listed, 3)})"
