"""From pictures and phrases to answers, in steps that batches, threads and processes can share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from refersam.checks import check_number
from refersam.components import MIN_COMPONENT_FRACTION, drop_specks
from refersam.drawing import mask_picture
from refersam.errors import PhraseError, ReferSamError, shown
from refersam.files import save_png
from refersam.model.interactor import ImageFeatures
from refersam.model.refersam import ReferSamModel, ReferSamOutput
from refersam.onnx_model import OnnxModel, Pictures
from refersam.processor import ReferSamProcessor
from refersam.reprs import OneLineRepr

Model = ReferSamModel | OnnxModel
"""Whatever is called as `ReferSamModel` is."""

Features = ImageFeatures | Pictures
"""What a model's `encode_image` gives."""

_ONE_TOKENIZER = Lock()
"""A fast tokenizer fails where two threads set its padding at once."""


@dataclass(frozen=True, eq=False, repr=False)
class Answer:
    """The answer to one phrase about one picture of H x W pixels.

    Attributes:
        phrase: as it was asked.
        mask: (H, W) bool, without specks; all False where `no_target`.
        probability: (H, W) float32 in [0, 1], before the no-target decision.
        score: confidence in [0, 1]: the IoU that the model expects its mask to have with the truth.
        no_target: the model says that nothing matches the phrase.
        left_out: the end of a phrase that is longer than the model reads; empty where all of it was read.
        unknown: parts of the phrase that the tokenizer does not know: symbols, which are left out, and words, which
            are read as [UNK].
    """

    phrase: str
    mask: np.ndarray
    probability: np.ndarray
    score: float
    no_target: bool
    left_out: str = field(default="", kw_only=True)
    unknown: tuple[str, ...] = field(default=(), kw_only=True)

    def __repr__(self) -> str:
        height, width = self.mask.shape
        found = "nothing matches" if self.no_target else f"box={self.box}, area={self.area}"
        name = type(self).__name__
        return f"{name}({shown(self.phrase)}, score={self.score:.2f}, {found}, of {width} x {height} pixels)"

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

    def save(self, path: str | os.PathLike) -> Path:
        """Write the mask as a black and white PNG, at once or not at all; a file of that name is replaced."""
        target = Path(path)
        save_png(mask_picture(self.mask), target)
        return target

    def to_rle(self) -> dict[str, Any]:
        """COCO run-length encoding: {"size": [H, W], "counts": str}."""
        from refersam.metrics.masks import encode_mask

        return encode_mask(self.mask)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: phrase, score (4 digits), no_target, box, area and rle; left_out and unknown where not empty."""
        return {
            "phrase": self.phrase,
            **({"left_out": self.left_out} if self.left_out else {}),
            **({"unknown": list(self.unknown)} if self.unknown else {}),
            "score": round(self.score, 4),
            "no_target": self.no_target,
            "box": self.box,
            "area": self.area,
            "rle": self.to_rle(),
        }


@dataclass(frozen=True, eq=False, repr=False)
class Query(OneLineRepr):
    """A picture of height x width pixels and P phrases about it, ready for the model; small, whatever the picture.

    Attributes:
        phrases: P, as they were asked.
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        pixel_values: (1, 3, H, W), the model's input; None where there are image features.
        input_ids: (P, S).
        attention_mask: (P, S).
        pad_token: id that fills a shorter phrase up.
        left_out: P, the end of each phrase that is longer than the model reads.
        unknown: P, the parts of each phrase that the tokenizer does not know.
        image_features: what the model made of `pixel_values` before; None to compute it.
    """

    phrases: tuple[str, ...]
    height: int
    width: int
    pixel_values: Tensor | None
    input_ids: Tensor
    attention_mask: Tensor
    pad_token: int
    left_out: tuple[str, ...]
    unknown: tuple[tuple[str, ...], ...]
    image_features: Features | None = None

    @classmethod
    def prepare(
        cls,
        processor: ReferSamProcessor,
        picture: Image.Image,
        phrases: Sequence[str],
        image_features: Features | None = None,
    ) -> Query:
        """Resize and tokenise; from any thread.

        Args:
            processor: of the model.
            picture: as `load_image` gives it.
            phrases: at least one.
            image_features: what the model made of the picture before, which then is not resized again.

        Raises:
            PhraseError: no phrase, one without a word, or one of signs that the tokenizer does not know.
        """
        if not phrases:
            raise PhraseError("At least one phrase is needed, but the list is empty.")
        with _ONE_TOKENIZER:
            text = processor.encode_phrases(phrases)
            special = set(processor.tokenizer.all_special_ids)
            for phrase, row in zip(phrases, text["input_ids"].tolist(), strict=True):
                if special.issuperset(row):
                    raise PhraseError(f"The model knows no sign of the phrase {phrase[:40]!r}: say it in other words.")
            lengths = zip(phrases, text["attention_mask"].sum(dim=1).tolist(), strict=True)
            most = processor.max_text_tokens
            left_out = tuple(processor.cut_off(phrase) if length >= most else "" for phrase, length in lengths)
            unknown = tuple(map(processor.unknown_parts, phrases))
        return cls(
            phrases=tuple(phrases),
            height=picture.height,
            width=picture.width,
            pixel_values=processor(images=picture)["pixel_values"] if image_features is None else None,
            pad_token=processor.tokenizer.pad_token_id or 0,
            image_features=image_features,
            left_out=left_out,
            unknown=unknown,
            **text,
        )


def check_thresholds(
    threshold: float = 0.5, no_target_threshold: float = 0.5, min_component_fraction: float = MIN_COMPONENT_FRACTION
) -> None:
    """Validate the settings of `read_answers`, which are probabilities or fractions.

    Raises:
        ValueError: one is no number from 0 to 1.
    """
    for name, value in (
        ("threshold", threshold),
        ("no_target_threshold", no_target_threshold),
        ("min_component_fraction", min_component_fraction),
    ):
        check_number(name, value, 0, 1)


@torch.inference_mode()
def run_queries(model: Model, queries: Sequence[Query]) -> list[ReferSamOutput]:
    """The model's outputs for I pictures with P phrases each, as one batch.

    Args:
        model: in evaluation mode.
        queries: I, all with the same number of phrases; only one alone may have image features.

    Returns:
        I outputs, each of P rows, on the model's device.

    Raises:
        ReferSamError: the device has not enough memory for so many.
    """
    longest = max(query.input_ids.shape[1] for query in queries)
    ids = [F.pad(q.input_ids, (0, longest - q.input_ids.shape[1]), value=q.pad_token) for q in queries]
    attention = [F.pad(query.attention_mask, (0, longest - query.attention_mask.shape[1])) for query in queries]
    text = (torch.cat(ids).to(model.device), torch.cat(attention).to(model.device))
    rows, features = len(queries[0].phrases), queries[0].image_features
    try:
        if features is not None:
            output = model(None, *text, image_features=features)  # type: ignore[arg-type]  # they are its own
        else:
            pixels = torch.cat([query.pixel_values for query in queries if query.pixel_values is not None])
            output = model(pixels.to(model.device, model.dtype), *text)
    except torch.OutOfMemoryError as error:
        raise ReferSamError(
            f"{model.device} has not enough memory for {rows * len(queries)} phrases at once: ask fewer at a time."
        ) from error
    return [
        ReferSamOutput(**{name: value[start : start + rows] for name, value in output.items()})
        for start in range(0, rows * len(queries), rows)
    ]


@torch.inference_mode()
def read_answers(
    model: Model,
    processor: ReferSamProcessor,
    output: ReferSamOutput,
    query: Query,
    threshold: float = 0.5,
    no_target_threshold: float = 0.5,
    min_component_fraction: float = MIN_COMPONENT_FRACTION,
) -> Iterator[Answer]:
    """One answer for each phrase of a query, made as it is asked for: only one is at the picture's full size at a time.

    Args:
        model: that made the output.
        processor: of the model.
        output: of `run_queries`.
        query: that it answers.
        threshold: a pixel belongs to the mask where its probability is at least this.
        no_target_threshold: nothing matches where the probability of a target is below this.
        min_component_fraction: a connected component of a mask with less than this fraction of the largest
            component's area is dropped, as in `drop_specks`; 0 keeps all.

    Raises:
        ReferSamError: the output holds values that are not numbers.
    """
    has_target = target_probability(output)
    if not (torch.isfinite(output.mask_logits).all() and torch.isfinite(has_target).all()):
        raise ReferSamError(
            "The model's output holds values that are not numbers: use the number format float32; if it was, its "
            "weights or the image processor's mean and deviation are broken."
        )
    for index, phrase in enumerate(query.phrases):
        row = ReferSamOutput(**{name: value[index : index + 1] for name, value in output.items()})
        probabilities = processor.resize_logits(row.mask_logits, query.height, query.width).sigmoid()
        no_target = bool(has_target[index] < no_target_threshold)
        probability = probabilities[0].cpu().numpy()
        mask = drop_specks(probability >= threshold, min_component_fraction)
        inside = torch.from_numpy(mask)[None].to(probabilities.device)
        score = float(confidence(row, probabilities, model.config.supervise_iou, inside))
        mask &= not no_target
        left_out, unknown = query.left_out[index], query.unknown[index]
        yield Answer(phrase, mask, probability, score, no_target, left_out=left_out, unknown=unknown)


def target_probability(output: ReferSamOutput) -> Tensor:
    """(B,) probability that the phrase has a target; 1 for a model without an object-score head."""
    if output.object_score_logits is None:
        return torch.ones(output.mask_logits.shape[0], device=output.mask_logits.device)
    return output.object_score_logits.float().sigmoid()


def confidence(
    output: ReferSamOutput, probabilities: Tensor, iou_is_supervised: bool, inside: Tensor | None = None
) -> Tensor:
    """(B,) the IoU that the mask is expected to have, in [0, 1].

    With a supervised IoU: the predicted IoU times the probability of a target. Without: the mean probability inside
    the mask, which is all that such a model knows of its certainty.

    Args:
        output: of the model.
        probabilities: (B, H, W).
        iou_is_supervised: `config.supervise_iou`.
        inside: (B, H, W) bool, the masks; None for all pixels with a probability of at least 0.5.
    """
    if iou_is_supervised:
        expected = output.iou_scores.float().clamp(0, 1)
    else:
        inside = probabilities >= 0.5 if inside is None else inside
        expected = (probabilities * inside).flatten(1).sum(1) / inside.flatten(1).sum(1).clamp(min=1)
    return expected * target_probability(output)
