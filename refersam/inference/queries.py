"""Queries: images and phrases, prepared for a model, and their forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from refersam.errors import PhraseError, ReferSamError
from refersam.inference.runtimes import Features, Model, Processor
from refersam.model.refersam import ReferSamOutput
from refersam.reprs import OneLineRepr

_ONE_TOKENIZER = Lock()
"""A fast tokenizer fails where two threads set its padding at once."""


@dataclass(frozen=True, eq=False, repr=False)
class Query(OneLineRepr):
    """A picture of height x width pixels and P phrases about it, ready for the model; small, whatever the picture.

    Attributes:
        phrases: P, as they were asked.
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        pixel_values: (1, 3, H, W), the model's input, or several tensors; None where there are image features.
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
    pixel_values: Any
    input_ids: Tensor
    attention_mask: Tensor
    pad_token: int
    left_out: tuple[str, ...]
    unknown: tuple[tuple[str, ...], ...]
    image_features: Features | None = None

    @classmethod
    def prepare(
        cls,
        processor: Processor,
        picture: Image.Image,
        phrases: Sequence[str],
        image_features: Features | None = None,
        *,
        allow_unknown: bool = False,
    ) -> Query:
        """Resize and tokenise; from any thread.

        Args:
            processor: of the model.
            picture: as `load_image` gives it.
            phrases: at least one.
            image_features: what the model made of the picture before, which then is not resized again.
            allow_unknown: accept phrases of which the tokenizer knows nothing, as a benchmark may have.

        Raises:
            PhraseError: no phrase, one without a word, or one of signs that the tokenizer does not know.
        """
        if not phrases:
            raise PhraseError("At least one phrase is needed, but the list is empty.")
        with _ONE_TOKENIZER:
            text = processor.encode_phrases(phrases)
            special = set(processor.tokenizer.all_special_ids)
            for phrase, row in zip(phrases, text["input_ids"].tolist(), strict=True):
                if not allow_unknown and special.issuperset(row):
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


@torch.inference_mode()
def run_queries(model: Model, queries: Sequence[Query]) -> list[ReferSamOutput]:
    """The model's outputs for I pictures with P phrases each, as one batch, or one by one if the inputs differ in size.

    Args:
        model: in evaluation mode.
        queries: I, all with the same number of phrases; only one alone may have image features.

    Returns:
        I outputs, each of P rows, on the model's device.

    Raises:
        ReferSamError: the device has not enough memory for so many.
    """
    inputs = [query.pixel_values for query in queries]
    if len(queries) > 1 and len({getattr(pixels, "shape", place) for place, pixels in enumerate(inputs)}) > 1:
        return [output for query in queries for output in run_queries(model, [query])]
    longest = max(query.input_ids.shape[1] for query in queries)
    ids = [F.pad(q.input_ids, (0, longest - q.input_ids.shape[1]), value=q.pad_token) for q in queries]
    attention = [F.pad(query.attention_mask, (0, longest - query.attention_mask.shape[1])) for query in queries]
    text = (torch.cat(ids).to(model.device), torch.cat(attention).to(model.device))
    rows, features = len(queries[0].phrases), queries[0].image_features
    try:
        if features is not None:
            output = model(None, *text, image_features=features)
        else:
            pixels = torch.cat(inputs) if len(queries) > 1 else inputs[0]
            output = model(pixels.to(model.device, model.dtype), *text)
    except torch.OutOfMemoryError as error:
        raise ReferSamError(
            f"{model.device} has not enough memory for {rows * len(queries)} phrases at once: ask fewer at a time."
        ) from error
    return [
        ReferSamOutput(**{name: value[start : start + rows] for name, value in output.items()})
        for start in range(0, rows * len(queries), rows)
    ]
