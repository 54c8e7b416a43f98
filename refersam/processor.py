"""Preprocessing of images and phrases to tensors, and resizing of mask logits to the image size."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, BatchFeature, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

from refersam.config import SIZE_MULTIPLE, ReferSamConfig
from refersam.errors import CheckpointError, PhraseError, one_line, shown
from refersam.hub import hub_options, raise_if_not_downloaded
from refersam.image import ImageSource, load_image, resize_to_array
from refersam.model.refersam import ReferSamOutput
from refersam.phrases import check_phrases, replace_symbols

MAX_SIDE = 4096
"""Maximum side of the model input in pixels; it limits memory use with untrusted settings files."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ReferSamImageProcessor(BaseImageProcessor):
    """Image processor that resizes without keeping the aspect ratio, as the published code, and normalises.

    Args:
        size: {"height": ..., "width": ...} of the model input in pixels, multiples of 32.
        image_mean: mean per channel, of pixels in [0, 1].
        image_std: standard deviation per channel, of pixels in [0, 1].
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 - transformers' own declaration

    def __init__(
        self,
        size: dict[str, int] | None = None,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.size = dict(size or {"height": 448, "width": 448})
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        for side in ("height", "width"):
            value = self.size.get(side)
            if not isinstance(value, int) or not 0 < value <= MAX_SIDE or value % SIZE_MULTIPLE:
                raise ValueError(
                    f"size[{side!r}] must be a positive multiple of {SIZE_MULTIPLE} up to {MAX_SIDE}, but is {value!r}."
                )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size}, image_mean={self.image_mean}, image_std={self.image_std})"

    def __call__(self, images: ImageSource | Sequence[ImageSource], **kwargs: Any) -> BatchFeature:
        """Preprocess images; see `preprocess`."""
        return self.preprocess(images, **kwargs)

    def preprocess(self, images: ImageSource | Sequence[ImageSource], **_kwargs: Any) -> BatchFeature:
        """Convert one or several images (types of `load_image`) to (I, 3, H, W) float32 `pixel_values`."""
        several: Sequence[Any] = images if isinstance(images, list | tuple) else [images]
        pixels = [
            self.normalise(resize_to_array(load_image(image), self.size["height"], self.size["width"]))
            for image in several
        ]
        return BatchFeature({"pixel_values": torch.stack(pixels)})

    def normalise(self, pixels: np.ndarray) -> Tensor:
        """Normalise an (H, W, 3) uint8 RGB image to a (3, H, W) float32 tensor."""
        tensor = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.image_mean, self.image_std))
        return (tensor - mean) / std


class ReferSamProcessor(ProcessorMixin):
    """Image processor and tokenizer.

    Args:
        image_processor: `ReferSamImageProcessor` for the images.
        tokenizer: fast tokenizer of transformers.
        max_text_tokens: maximum number of tokens per phrase, including special tokens. Longer phrases are truncated;
            the end token is kept.
    """

    valid_kwargs = ["max_text_tokens"]  # noqa: RUF012 - transformers' own declaration

    def __init__(self, image_processor: Any, tokenizer: Any, max_text_tokens: int = 20, **_kwargs: Any) -> None:
        super().__init__(image_processor, tokenizer)
        if max_text_tokens < 3:
            raise ValueError(f"max_text_tokens must be at least 3 (two are special), but is {max_text_tokens}.")
        self.max_text_tokens = max_text_tokens

    def __repr__(self) -> str:
        tokenizer = f"{type(self.tokenizer).__name__} of {len(self.tokenizer):,} entries"
        return f"{type(self).__name__}({self.image_processor!r}, {tokenizer}, max_text_tokens={self.max_text_tokens})"

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> ReferSamProcessor:
        """Load a processor from a directory or Hub id; unlike the method of transformers, it does not need torchvision.

        Raises:
            CheckpointError: tokenizer.json is missing or unreadable.
            DownloadError: the Hub id is not in the cache, and the Hub cannot be reached.
        """
        name = os.fspath(pretrained_model_name_or_path)
        if "local_files_only" not in kwargs:
            kwargs.update(hub_options(name))
        try:
            settings, _ = cls.get_processor_dict(name, **kwargs)
            image_processor = ReferSamImageProcessor.from_pretrained(name, **kwargs)
            tokenizer = AutoTokenizer.from_pretrained(name, **kwargs)
        except Exception as error:
            raise_if_not_downloaded(name, error, local_files_only=kwargs["local_files_only"])
            if isinstance(error, KeyError | TypeError | ValueError):  # transformers' messages do not name the file
                raise CheckpointError("tokenizer.json is missing, or cannot be read") from error
            raise
        own = {key: settings[key] for key in cls.valid_kwargs if key in settings}
        return cls(image_processor, tokenizer, **own)

    @classmethod
    def from_text_encoder(cls, text: str | os.PathLike, image_size: int = 448) -> ReferSamProcessor:
        """Create the processor for a model of `model_from_backbones`, with the text encoder's tokenizer.

        Args:
            text: Hub id or directory of the text encoder.
            image_size: side of the square model input in pixels, a multiple of 32.

        Raises:
            CheckpointError: the tokenizer is missing, or cannot be downloaded.
        """
        name = os.fspath(text)
        options = hub_options(name)
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)
        except (OSError, ValueError) as error:
            raise_if_not_downloaded(name, error, **options)
            raise CheckpointError(f"No tokenizer could be read from {text}: {one_line(error)}.") from error
        return cls(ReferSamImageProcessor(size={"height": image_size, "width": image_size}), tokenizer)

    def __call__(
        self,
        images: ImageSource | Sequence[ImageSource] | None = None,
        text: str | Sequence[str] | None = None,
        **_kwargs: Any,
    ) -> BatchFeature:
        """Convert images and phrases to model inputs.

        Args:
            images: one image or several, of the types of `load_image`.
            text: one phrase or several, B / I consecutive phrases per image.

        Returns:
            `pixel_values` (I, 3, H, W), `input_ids` and `attention_mask` (B, S), padded to the longest phrase.

        Raises:
            ImageError: an image cannot be read.
            PhraseError: a phrase has no word.
        """
        data: dict[str, Tensor] = {}
        if images is not None:
            data.update(self.image_processor(images))
        if text is not None:
            data.update(self.encode_phrases([text] if isinstance(text, str) else list(text)))
        return BatchFeature(data)

    @property
    def image_size(self) -> dict[str, int]:
        """Size of the model input in pixels: {"height": ..., "width": ...}."""
        return dict(self.image_processor.size)

    def encode_phrases(self, phrases: Sequence[str]) -> dict[str, Tensor]:
        """Tokenize phrases to `input_ids` and `attention_mask` (B, S), padded to the longest phrase.

        Symbols outside the tokenizer's vocabulary, such as emoji, are removed; see `unknown_parts`.

        Raises:
            PhraseError: a phrase has no word.
        """
        check_phrases(phrases)
        encoded = self.tokenizer(
            [self._without_unknown_symbols(phrase) for phrase in phrases],
            padding=True,
            truncation=True,
            max_length=self.max_text_tokens,
            return_tensors="pt",
        )
        special = self.tokenizer.num_special_tokens_to_add()
        for phrase, length in zip(phrases, encoded["attention_mask"].sum(dim=1).tolist(), strict=True):
            if length <= special:  # invisible characters only
                raise PhraseError(f"A phrase must have at least one word, but nothing can be read in {shown(phrase)}.")
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}

    def cut_off(self, phrase: str) -> str:
        """Return the end of a phrase beyond `max_text_tokens`, as in the input; empty if nothing is truncated.

        Raises:
            PhraseError: the phrase has no word.
        """
        check_phrases([phrase])
        tokens = self._tokens(self._without_unknown_symbols(phrase))
        return phrase[tokens[self._room][1] :] if len(tokens) > self._room else ""

    def unknown_parts(self, phrase: str) -> tuple[str, ...]:
        """Return the parts of a phrase outside the tokenizer's vocabulary, within `max_text_tokens`.

        Symbols are removed before tokenization; words are mapped to [UNK]. A byte-level tokenizer such as CLIP's covers
        every text.

        Returns:
            Parts without duplicates, as in the input.

        Raises:
            PhraseError: the phrase has no word.
        """
        check_phrases([phrase])
        text = self._without_unknown_symbols(phrase)
        tokens = self._tokens(text)
        is_unknown = [old != new == " " for old, new in zip(phrase, text, strict=True)]
        for token, start, end in tokens[: self._room]:
            if token == self.tokenizer.unk_token_id:
                is_unknown[start:end] = [True] * (end - start)
        for place in range(1, len(phrase)):  # variation selectors and joiners of emoji
            is_unknown[place] |= is_unknown[place - 1] and unicodedata.category(phrase[place]) in ("Cf", "Mn")
        end = tokens[self._room][1] if len(tokens) > self._room else len(phrase)
        runs = groupby(zip(is_unknown[:end], phrase[:end], strict=True), key=itemgetter(0))
        parts = ("".join(character for _, character in run) for unknown, run in runs if unknown)
        return tuple(dict.fromkeys(parts))

    def _without_unknown_symbols(self, phrase: str) -> str:
        """Return the phrase with symbols replaced inside [UNK] tokens; its length, and so all offsets, stay the same.

        A phrase of known tokens is unchanged, as is a phrase that would lose all its tokens.
        """
        if phrase.isascii():
            return phrase
        characters = list(phrase)
        for token, start, end in self._tokens(phrase):
            if token == self.tokenizer.unk_token_id:
                characters[start:end] = replace_symbols(phrase[start:end])
        text = "".join(characters)
        return text if text == phrase or self._tokens(text) else phrase

    def _tokens(self, text: str) -> list[tuple[int, int, int]]:
        """Return (id, start, end) of each token, without special tokens; start and end are offsets in the text."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return [(token, *place) for token, place in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)]

    @property
    def _room(self) -> int:
        """Maximum number of tokens per phrase, without special tokens."""
        return int(self.max_text_tokens - self.tokenizer.num_special_tokens_to_add())

    def resize_logits(self, mask_logits: Tensor, height: int, width: int) -> Tensor:
        """Resize (B, H, W) logits to (B, height, width) float32, bilinear; apply the mask threshold afterwards."""
        logits = mask_logits.float().unsqueeze(1)
        if logits.shape[2:] != (height, width):
            logits = F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
        return logits.squeeze(1)

    def mask_logits(self, output: ReferSamOutput, _image_size: tuple[int, int], size: tuple[int, int], /) -> Tensor:
        """Resize the mask logits of one phrase to `size`; see `resize_logits`."""
        return self.resize_logits(output.mask_logits, *size)


def check_room(processor: ReferSamProcessor, config: ReferSamConfig, name: str) -> None:
    """Validate that the model has an embedding for every token and position of the processor.

    Args:
        processor: the processor of the model.
        config: the configuration of the model.
        name: name of the model for the error message.

    Raises:
        CheckpointError: the vocabulary or the number of positions of the model is too small.
    """
    for what, needed, room in (
        ("entries", len(processor.tokenizer), config.text_config.vocab_size),
        ("tokens per phrase", processor.max_text_tokens, config.text_config.max_position_embeddings),
    ):
        if needed > room:
            raise CheckpointError(f"The tokenizer of {name} has {needed} {what}, but its model has room for {room}.")
