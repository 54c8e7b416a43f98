"""A mask for a picture and a phrase."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from refersam.config import ReferSamConfig
from refersam.drawing import OVERLAY_COLOUR, draw_overlay
from refersam.errors import CheckpointError, DeviceError, PhraseError
from refersam.files import write_atomically
from refersam.image import ImageSource, load_image
from refersam.model.refersam import ReferSamModel, ReferSamOutput
from refersam.processor import ReferSamProcessor
from refersam.registration import register

MODEL_IN_THE_BOX = Path(__file__).parent / "assets" / "model"
"""The tiny model that comes with the package: it knows drawn scenes, not photographs."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The answer to one phrase about one picture of H x W pixels.

    Attributes:
        phrase: as it was asked.
        mask: (H, W) bool; all False where `no_target`.
        probability: (H, W) float32 in [0, 1], before the no-target decision.
        score: confidence in [0, 1]: the IoU that the model expects its mask to have with the truth.
        no_target: the model says that nothing matches the phrase.
        image: the picture as it was read, RGB.
    """

    phrase: str
    mask: np.ndarray
    probability: np.ndarray
    score: float
    no_target: bool
    image: Image.Image

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(np.count_nonzero(self.mask))

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """(left, top, right, bottom) in pixels, right and bottom exclusive; None for an empty mask."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        if rows.size == 0:
            return None
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    def overlay(self, colour: tuple[int, int, int] = OVERLAY_COLOUR, opacity: float = 0.5) -> Image.Image:
        """The picture with the mask laid over it and outlined."""
        return draw_overlay(self.image, self.mask, colour, opacity)

    def save(self, path: str | os.PathLike) -> Path:
        """Write the mask as a black and white PNG, at once or not at all."""
        target = Path(path)
        image = Image.fromarray(self.mask.astype(np.uint8) * 255)
        write_atomically(target, lambda file: image.save(file, format="PNG"))
        return target

    def to_rle(self) -> dict[str, Any]:
        """COCO run-length encoding: {"size": [H, W], "counts": str}."""
        from pycocotools import mask as coco_mask

        encoded = coco_mask.encode(np.asfortranarray(self.mask.astype(np.uint8)))
        return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


class ReferSamPredictor:
    """Segments pictures by phrases; holds a model, its processor and where they run.

    Args:
        model: put into evaluation mode.
        processor: of the model.
    """

    def __init__(self, model: ReferSamModel, processor: ReferSamProcessor) -> None:
        self.model = model.eval()
        self.processor = processor

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "float32",
    ) -> ReferSamPredictor:
        """Load a model and its processor.

        Args:
            model: a folder or Hub id; None for the model in the box, which knows drawn scenes, not photographs.
            device: 'cpu', 'cuda', 'cuda:1', 'mps'; None for the best there is.
            dtype: 'float32', 'bfloat16' or 'float16'.

        Raises:
            CheckpointError: no such model, no weights in it, or another kind of model.
            DeviceError: a device or number format that is not there.
        """
        place, number_format = resolve_device(device), resolve_dtype(dtype)
        name = os.fspath(model) if model is not None else os.fspath(MODEL_IN_THE_BOX)
        loaded, processor = load_model(name)
        return cls(loaded.to(device=place, dtype=number_format), processor)

    @overload  # a str is a Sequence[str] too, but the first declaration is the one that counts
    def predict(  # type: ignore[overload-overlap]
        self, image: ImageSource, phrase: str, threshold: float = ..., no_target_threshold: float = ...
    ) -> Segmentation: ...

    @overload
    def predict(
        self, image: ImageSource, phrase: Sequence[str], threshold: float = ..., no_target_threshold: float = ...
    ) -> list[Segmentation]: ...

    def predict(
        self,
        image: ImageSource,
        phrase: str | Sequence[str],
        threshold: float = 0.5,
        no_target_threshold: float = 0.5,
    ) -> Segmentation | list[Segmentation]:
        """Segment what a phrase means.

        Args:
            image: path, PIL image, array or the bytes of a file.
            phrase: one phrase, or several about the same picture, which run as one batch.
            threshold: a pixel belongs to the mask where its probability is at least this.
            no_target_threshold: nothing matches where the probability of a target is below this. Models without an
                object-score head always answer with a mask.

        Returns:
            One result, or a list for a list of phrases.

        Raises:
            ImageError: a picture that cannot be read.
            PhraseError: no phrase, or one without a word.
            ValueError: a threshold outside [0, 1].
        """
        for name, value in (("threshold", threshold), ("no_target_threshold", no_target_threshold)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], but is {value}.")
        phrases = [phrase] if isinstance(phrase, str) else list(phrase)
        if not phrases:
            raise PhraseError("At least one phrase is needed, but the list is empty.")
        picture = load_image(image)
        inputs = self.processor(images=picture, text=phrases)
        with torch.inference_mode():
            output = self.model(
                inputs["pixel_values"].to(self.model.device, self.model.dtype),
                inputs["input_ids"].to(self.model.device),
                inputs["attention_mask"].to(self.model.device),
            )
            results = self._results(output, picture, phrases, threshold, no_target_threshold)
        return results[0] if isinstance(phrase, str) else results

    def _results(
        self,
        output: ReferSamOutput,
        picture: Image.Image,
        phrases: list[str],
        threshold: float,
        no_target_threshold: float,
    ) -> list[Segmentation]:
        probabilities = self.processor.resize_logits(output.mask_logits, picture.height, picture.width).sigmoid()
        has_target = target_probability(output)
        scores = confidence(output, probabilities, self.model.config.supervise_iou)
        results = []
        for index, phrase in enumerate(phrases):
            probability = probabilities[index].cpu().numpy()
            no_target = bool(has_target[index] < no_target_threshold)
            mask = (probability >= threshold) & (not no_target)
            results.append(Segmentation(phrase, mask, probability, float(scores[index]), no_target, picture))
        return results


def target_probability(output: ReferSamOutput) -> Tensor:
    """(B,) probability that the phrase has a target; 1 for a model without an object-score head."""
    if output.object_score_logits is None:
        return torch.ones(output.mask_logits.shape[0], device=output.mask_logits.device)
    return output.object_score_logits.float().sigmoid()


def confidence(output: ReferSamOutput, probabilities: Tensor, iou_is_supervised: bool) -> Tensor:
    """(B,) the IoU that the mask is expected to have, in [0, 1].

    With a supervised IoU: the predicted IoU times the probability of a target. Without: the mean probability inside
    the mask, which is all that such a model knows of its certainty.

    Args:
        output: of the model.
        probabilities: (B, H, W).
        iou_is_supervised: `config.supervise_iou`.
    """
    if iou_is_supervised:
        expected = output.iou_scores.float().clamp(0, 1)
    else:
        inside = probabilities >= 0.5
        expected = (probabilities * inside).flatten(1).sum(1) / inside.flatten(1).sum(1).clamp(min=1)
    return expected * target_probability(output)


def load_model(name: str) -> tuple[ReferSamModel, ReferSamProcessor]:
    """Load a ReferSAM model and its processor in float32 on the CPU.

    Raises:
        CheckpointError: no such folder or Hub id, no weights in it, another kind of model, weights that do not fit.
    """
    from transformers import PreTrainedConfig

    register()  # transformers finds the image processor by its registration
    folder = Path(name)
    if folder.exists() and not (folder / "config.json").is_file():
        raise CheckpointError(f"{name} holds no ReferSAM model: a folder with config.json and weights is expected.")
    if not folder.exists() and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        raise CheckpointError(f"No such model: {name} is neither a folder nor a Hub id of the form owner/name.")
    place = {"local_files_only": folder.exists() or not _hub_answers()}
    try:
        kind = PreTrainedConfig.get_config_dict(name, **place)[0].get("model_type")
    except Exception as error:  # of any kind, here and below: a foreign folder may hold anything
        if not folder.exists() and place["local_files_only"]:
            raise CheckpointError(
                f"No such model: {name} is not a folder, was never downloaded, and the Hub cannot be reached."
            ) from error
        raise CheckpointError(f"No model could be read from {name}: {_first_line(error)}.") from error
    if kind != "refersam":
        raise CheckpointError(f"{name} is a model of type {kind!r}, not 'refersam'.")
    try:
        config = ReferSamConfig.from_pretrained(name, **place)
    except Exception as error:
        raise CheckpointError(f"The configuration of {name} is not ReferSAM's: {_first_line(error)}.") from error
    try:
        model, report = ReferSamModel.from_pretrained(
            name, config=config, dtype=torch.float32, output_loading_info=True, **place
        )
    except Exception as error:
        reason = _first_line(error)
        if "ignore_mismatched_sizes" in reason:  # transformers' advice, in words of ours
            reason = "some have another shape than its configuration says"
        raise CheckpointError(f"The weights of {name} could not be read: {reason}.") from error
    problems = [_some(key.removesuffix("_keys"), names) for key, names in report.items() if names]
    if problems:
        raise CheckpointError(f"The weights of {name} do not fit its configuration: {'; '.join(problems)}.")
    try:
        processor = ReferSamProcessor.from_pretrained(name, trust_remote_code=False, **place)
    except Exception as error:
        raise CheckpointError(
            f"{name} has no processor (tokenizer and image settings) that can be read: {_first_line(error)}."
        ) from error
    for what, needed, room in (
        ("entries", len(processor.tokenizer), config.text_config.vocab_size),
        ("tokens per phrase", processor.max_text_tokens, config.text_config.max_position_embeddings),
    ):
        if needed > room:
            raise CheckpointError(f"The tokenizer of {name} has {needed} {what}, but its model has room for {room}.")
    return model, processor


def _hub_answers() -> bool:
    """Asked once and briefly: transformers would try again for half a minute."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # no network: the kinds differ between versions
        return False
    return True


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


def _some(what: str, names: Iterable[object], most: int = 3) -> str:
    """How many, and the first of them: "2 missing (a, b)"."""
    listed = sorted(str(name[0] if isinstance(name, tuple) else name) for name in names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return f"{len(listed)} {what} ({', '.join(listed[:most])}{more})"


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [""])[0].rstrip(":. ")
    if isinstance(error, OSError | ValueError | RuntimeError) and line:
        return line
    return f"{type(error).__name__}: {line}"  # "KeyError: 'model'" says more than "'model'"
