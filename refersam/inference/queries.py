"""Queries: preprocessed images and phrases, and their forward passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from refersam.errors import PhraseError, PromptError, ReferSamError
from refersam.inference.prompts import NO_PROMPTS, Prompts, warn_untrained
from refersam.inference.runtimes import ClickableModel, Features, Model, Processor
from refersam.model.refersam import PhraseFeatures, ReferSamOutput
from refersam.reprs import OneLineRepr

_ONE_TOKENIZER = Lock()
"""Lock for fast tokenizers, which fail if two threads set the padding concurrently."""


@dataclass(frozen=True, eq=False, repr=False)
class Query(OneLineRepr):
    """Preprocessed image and P phrases; its memory does not depend on the image size.

    Attributes:
        phrases: P input phrases.
        height: height of the image in pixels.
        width: width of the image in pixels.
        pixel_values: (1, 3, H, W) model input, or several tensors; None if image features are given.
        input_ids: (P, S) token ids.
        attention_mask: (P, S) mask, 1 for tokens and 0 for padding.
        pad_token: id of the padding token.
        left_out: P strings, the truncated end of each phrase that exceeds the token limit.
        unknown: P tuples, the parts of each phrase outside the tokenizer's vocabulary.
        image_features: features of `Model.encode_image`; None to compute them.
        prompts: clicks and a box for a single phrase; empty without prompts.
        prompt_tensors: `prompts` as model arguments for B = 1.
        phrase_features: features of `encode_queries` for image and phrases; None to compute them.
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
    prompts: Prompts = NO_PROMPTS
    prompt_tensors: dict[str, Tensor] = field(default_factory=dict)
    phrase_features: PhraseFeatures | None = None

    @classmethod
    def prepare(
        cls,
        processor: Processor,
        image: Image.Image,
        phrases: Sequence[str],
        image_features: Features | None = None,
        prompts: Prompts = NO_PROMPTS,
        *,
        allow_unknown: bool = False,
    ) -> Query:
        """Resize the image and tokenize the phrases; thread-safe.

        Args:
            processor: the processor of the model.
            image: RGB image from `load_image`.
            phrases: one or more phrases.
            image_features: features of the image from `Model.encode_image`; the image is then not resized.
            allow_unknown: accept phrases whose tokens are all [UNK], as benchmarks may contain.
            prompts: clicks and a box, for one phrase only.

        Raises:
            PhraseError: there is no phrase, or a phrase has no word or no known token.
            PromptError: prompts are given for several phrases.
        """
        if not phrases:
            raise PhraseError("At least one phrase is needed, but the list is empty.")
        with _ONE_TOKENIZER:
            text = processor.encode_phrases(phrases)
            special = set(processor.tokenizer.all_special_ids)
            for phrase, row in zip(phrases, text["input_ids"].tolist(), strict=True):
                if not allow_unknown and special.issuperset(row):
                    raise PhraseError(
                        f"The tokenizer maps every token of the phrase {phrase[:40]!r} to [UNK]: use other words."
                    )
            lengths = zip(phrases, text["attention_mask"].sum(dim=1).tolist(), strict=True)
            most = processor.max_text_tokens
            left_out = tuple(processor.cut_off(phrase) if length >= most else "" for phrase, length in lengths)
            unknown = tuple(map(processor.unknown_parts, phrases))
        query = cls(
            phrases=tuple(phrases),
            height=image.height,
            width=image.width,
            pixel_values=processor(images=image)["pixel_values"] if image_features is None else None,
            pad_token=processor.tokenizer.pad_token_id or 0,
            image_features=image_features,
            left_out=left_out,
            unknown=unknown,
            input_ids=text["input_ids"],
            attention_mask=text["attention_mask"],
        )
        return query.with_prompts(prompts, input_size(processor)) if prompts else query

    def with_prompts(self, prompts: Prompts, input_size: tuple[int, int], mask_prompt: Tensor | None = None) -> Query:
        """Return the query with other prompts.

        Args:
            prompts: all clicks and the box, which replace the present ones.
            input_size: (H, W) of the model input in pixels.
            mask_prompt: (1, H/4, W/4) `low_res_mask_logits` of an earlier output; None for no mask prompt.

        Raises:
            PromptError: the query has several phrases.
        """
        if len(self.phrases) != 1:
            raise PromptError(f"Clicks and boxes need one phrase, but there are {len(self.phrases)}: pass one phrase.")
        tensors = prompts.tensors((self.height, self.width), input_size)
        if mask_prompt is not None:
            tensors["mask_prompt"] = mask_prompt
        return replace(self, prompts=prompts, prompt_tensors=tensors)

    def part(self, start: int, stop: int) -> Query:
        """Return the query for phrases `start` to `stop` (exclusive)."""
        rows = slice(start, stop)
        return replace(
            self,
            phrases=self.phrases[rows],
            input_ids=self.input_ids[rows],
            attention_mask=self.attention_mask[rows],
            left_out=self.left_out[rows],
            unknown=self.unknown[rows],
        )

    @property
    def batch_key(self) -> tuple[Any, ...]:
        """Batching key: queries with equal keys can run as one batch, with the same answers as alone."""
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in sorted(self.prompt_tensors.items()))
        encoded = self.phrase_features is not None
        return (len(self.phrases), shapes, encoded, None if encoded or self.image_features is None else id(self))


def input_size(processor: Processor) -> tuple[int, int]:
    """Return (height, width) of the model input in pixels."""
    return processor.image_size["height"], processor.image_size["width"]


@torch.inference_mode()
def run_queries(model: Model, queries: Sequence[Query]) -> list[ReferSamOutput]:
    """Run the model on I queries with P phrases each: as one batch, or one by one if input sizes differ.

    Args:
        model: the model in evaluation mode.
        queries: I queries with the same `batch_key`.

    Returns:
        I outputs of P rows each, on the model's device.

    Raises:
        ReferSamError: the device runs out of memory.
        PromptError: clicks are given for a model that takes none.
    """
    inputs = [getattr(query.pixel_values, "shape", place) for place, query in enumerate(queries)]
    if len(set(inputs)) > 1 and queries[0].phrase_features is None:
        return [output for query in queries for output in run_queries(model, [query])]
    first, rows = queries[0], len(queries[0].phrases)
    prompts = {
        name: torch.cat([query.prompt_tensors[name] for query in queries]).to(model.device)
        for name in first.prompt_tensors
    }
    if prompts and first.phrase_features is None:
        return run_queries(model, encode_queries(clickable(model), queries))
    if prompts and not model.config.supports_clicks:
        warn_untrained(str(getattr(model, "name_or_path", "")))
    with _errors_of_memory(model, rows * len(queries)):
        if first.phrase_features is None:
            output = model(**_inputs(model, queries))
        else:
            features = [query.phrase_features for query in queries if query.phrase_features is not None]
            output = clickable(model).decode(PhraseFeatures.concatenate(features), **prompts)
    return [
        ReferSamOutput(**{name: value[start : start + rows] for name, value in output.items()})
        for start in range(0, rows * len(queries), rows)
    ]


@torch.inference_mode()
def encode_queries(model: Model, queries: Sequence[Query]) -> list[Query]:
    """Compute the decoder inputs as one batch; `run_queries` then runs only the decoder.

    Args:
        model: the model in evaluation mode.
        queries: I queries with the same `batch_key`, without `phrase_features`.

    Returns:
        I queries with `phrase_features` in place of `pixel_values` and `image_features`. A model without a separate
        decoder leaves the queries unchanged.

    Raises:
        ReferSamError: the device runs out of memory.
    """
    if not isinstance(model, ClickableModel):
        return list(queries)
    with _errors_of_memory(model, sum(len(query.phrases) for query in queries)):
        features = model.encode_phrases(**_inputs(model, queries))
    return [
        replace(query, pixel_values=None, image_features=None, phrase_features=part)
        for query, part in zip(queries, features.split(len(queries)), strict=True)
    ]


def clickable(model: Model) -> ClickableModel:
    """Return a model that takes clicks.

    Raises:
        PromptError: the model takes none.
    """
    if isinstance(model, ClickableModel):
        return model
    own = getattr(model, "without_clicks", None)
    raise PromptError(own or "This model takes no clicks or boxes: use a ReferSAM model, such as the bundled one.")


def _inputs(model: Model, queries: Sequence[Query]) -> dict[str, Any]:
    """Return the model arguments: images or their features, and tokenized text."""
    longest = max(query.input_ids.shape[1] for query in queries)
    ids = [F.pad(q.input_ids, (0, longest - q.input_ids.shape[1]), value=q.pad_token) for q in queries]
    attention = [F.pad(query.attention_mask, (0, longest - query.attention_mask.shape[1])) for query in queries]
    features = queries[0].image_features
    pixels = None
    if features is None:
        several = [query.pixel_values for query in queries]
        pixels = (torch.cat(several) if len(several) > 1 else several[0]).to(model.device, model.dtype)
    return {
        "pixel_values": pixels,
        "input_ids": torch.cat(ids).to(model.device),
        "attention_mask": torch.cat(attention).to(model.device),
        "image_features": features,
    }


@contextmanager
def _errors_of_memory(model: Model, phrases: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ReferSamError(
            f"{model.device} has not enough memory for {phrases} phrases at once: pass fewer at a time."
        ) from error
