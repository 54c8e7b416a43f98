"""Conversion of images and phrases to tensors and back; the tiny preset's tokenizer."""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, PreTrainedTokenizerFast
from transformers.image_processing_base import ImageProcessingMixin

from refersam import ReferSamImageProcessor, ReferSamProcessor, register
from refersam.errors import CheckpointError, ImageError, PhraseError
from refersam.tokenizer import train_tokenizer

PHRASES = ["the red circle on the left", "the large blue square", "the red star"] * 2


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Tokenizer with the words of `PHRASES`, and characters for all others."""
    return train_tokenizer(PHRASES, vocab_size=256)


@pytest.fixture
def processor(tokenizer: PreTrainedTokenizerFast) -> ReferSamProcessor:
    """Processor of 32 x 64 pixels and 8 tokens."""
    return ReferSamProcessor(ReferSamImageProcessor(size={"height": 32, "width": 64}), tokenizer, max_text_tokens=8)


def noise(height: int, width: int) -> np.ndarray:
    """Return an image of random pixels."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


# ------------------------------------------------------------------------------------------------------------ images


def test_pixel_values_by_hand() -> None:
    """One colour: (value / 255 - mean) / std, per channel, in RGB order."""
    image_processor = ReferSamImageProcessor(
        size={"height": 32, "width": 32}, image_mean=(0.5, 0.25, 0.0), image_std=(0.5, 0.25, 1.0)
    )
    pixels = image_processor(Image.new("RGB", (5, 7), (255, 0, 51)))["pixel_values"]
    assert (pixels.shape, pixels.dtype) == ((1, 3, 32, 32), torch.float32)
    # (1 - 0.5) / 0.5 = 1;  (0 - 0.25) / 0.25 = -1;  (0.2 - 0) / 1 = 0.2
    torch.testing.assert_close(pixels[0].flatten(1), torch.tensor([[1.0], [-1.0], [0.2]]).expand(3, 32 * 32))


def test_imagenet_normalisation_is_the_default() -> None:
    """That of the published backbones: mid gray is 128."""
    pixels = ReferSamImageProcessor(size={"height": 32, "width": 32})(np.full((32, 32), 128, np.uint8))["pixel_values"]
    expected = [(128 / 255 - mean) / std for mean, std in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    torch.testing.assert_close(pixels[0, :, 3, 5], torch.tensor(expected))


def test_resize_equals_pillows(processor: ReferSamProcessor) -> None:
    """Not square, of an odd size, against a float implementation of the normalisation."""
    image = noise(45, 71)
    resized = np.asarray(Image.fromarray(image).resize((64, 32), Image.Resampling.BILINEAR), dtype=np.float64)
    expected = (resized / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    pixels = processor(images=image)["pixel_values"][0].permute(1, 2, 0).double()
    torch.testing.assert_close(pixels, torch.from_numpy(expected), atol=1e-6, rtol=0)


def test_several_images_of_several_sizes(processor: ReferSamProcessor, tmp_path: Path) -> None:
    """A list gives a batch in order, equal to single images."""
    path = tmp_path / "a.png"
    Image.fromarray(noise(9, 100)).save(path)
    images = [noise(33, 20), path, Image.new("L", (1, 1), 9)]
    batch = processor(images=images)["pixel_values"]
    assert batch.shape == (3, 3, 32, 64)
    for one, image in zip(batch, images, strict=True):
        torch.testing.assert_close(one, processor(images=image)["pixel_values"][0], atol=0, rtol=0)


def test_a_bad_image_in_a_list_is_an_image_error(processor: ReferSamProcessor) -> None:
    """The reader's error message is kept."""
    with pytest.raises(ImageError, match="No such file: nowhere"):
        processor(images=[noise(4, 4), "nowhere"], text="red")


@pytest.mark.parametrize("value", [0, -32, 33, 48.0, None, "32", 32 * 1000])
def test_sizes_that_do_not_fit(value: object) -> None:
    """Multiples of 32, and limited, so that untrusted settings cannot exhaust the machine."""
    with pytest.raises(ValueError, match=r"size\['width'\] must be a positive multiple of 32 up to 4096, but is"):
        ReferSamImageProcessor(size={"height": 32, "width": value})  # type: ignore[dict-item]


def test_a_size_without_one_side() -> None:
    """The error names the missing side."""
    with pytest.raises(ValueError, match=r"size\['width'\].*None"):
        ReferSamImageProcessor(size={"height": 32})


# ------------------------------------------------------------------------------------------------------------ logits


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 1000), (1000, 3), (37, 53)])
def test_logits_come_back_at_odd_sizes(processor: ReferSamProcessor, height: int, width: int) -> None:
    """(B, H, W) -> (B, height, width), float32; constant maps stay constant."""
    logits = torch.full((2, 32, 64), -1.5, dtype=torch.bfloat16)
    resized = processor.resize_logits(logits, height, width)
    assert (resized.shape, resized.dtype) == ((2, height, width), torch.float32)
    torch.testing.assert_close(resized, torch.full((2, height, width), -1.5))


def test_resize_logits_by_hand(processor: ReferSamProcessor) -> None:
    """Pixel centres at (i + 0.5): [0, 4] at twice the width is 0, 1, 3, 4. The same size returns its input."""
    logits = torch.tensor([[[0.0, 4.0]]])
    torch.testing.assert_close(processor.resize_logits(logits, 1, 4), torch.tensor([[[0.0, 1.0, 3.0, 4.0]]]))
    torch.testing.assert_close(processor.resize_logits(logits, 1, 2), logits, atol=0, rtol=0)


# ----------------------------------------------------------------------------------------------------------- phrases


def test_padding_to_the_longest(processor: ReferSamProcessor) -> None:
    """[CLS] the red star [SEP] has 5 tokens; [CLS] red [SEP] has 3 and two of padding."""
    encoded = processor(text=["the red star", "red"])
    assert set(encoded) == {"input_ids", "attention_mask"}
    assert encoded["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert encoded["input_ids"][1, 3:].tolist() == [processor.tokenizer.pad_token_id] * 2
    assert encoded["input_ids"][1, [0, 2]].tolist() == [
        processor.tokenizer.cls_token_id,
        processor.tokenizer.sep_token_id,
    ]


def test_a_long_phrase_is_cut_and_keeps_its_end_token(processor: ReferSamProcessor) -> None:
    """8 tokens: [CLS], six words, [SEP]; the truncated rest is reported as written."""
    phrase = "the red circle on the left  RIGHT, the blue Square!"
    ids = processor(text=phrase)["input_ids"][0].tolist()
    assert len(ids) == 8
    assert ids[-1] == processor.tokenizer.sep_token_id
    assert processor.tokenizer.convert_ids_to_tokens(ids[1:-1]) == ["the", "red", "circle", "on", "the", "left"]
    assert processor.cut_off(phrase) == "RIGHT, the blue Square!"


def test_cut_off_says_nothing_where_all_fits(processor: ReferSamProcessor) -> None:
    """Six words fit, a seventh does not."""
    assert processor.cut_off("the red circle on the left") == ""
    assert processor.cut_off("the red circle on the left star") == "star"
    assert processor.cut_off("red") == ""


SYMBOLS = [
    ("the red star \U0001f31f", "the red star", ("\U0001f31f",)),
    ("\U0001f31fstar\u2b50\ufe0f", "star", ("\U0001f31f", "\u2b50\ufe0f")),
    (
        "\U0001f469\u200d\U0001f692 star \U0001f44d\U0001f3fd",
        "star",
        ("\U0001f469\u200d\U0001f692", "\U0001f44d\U0001f3fd"),
    ),
    ("red\u00b7star\u2122", "red star", ("\u00b7", "\u2122")),
    ("st\u200bar\u2b50 \ufe0f", "star", ("\u2b50",)),
    ("\u201cthe star\u201d \u2013 the dog\u2019s", '"the star" - the dog\'s', ()),
    ("the star \u2b50 \u2b50", "the star", ("\u2b50",)),
]


@pytest.mark.parametrize(("phrase", "same", "parts"), SYMBOLS)
def test_symbols_that_the_tokenizer_does_not_know(
    processor: ReferSamProcessor, phrase: str, same: str, parts: tuple[str, ...]
) -> None:
    """They change no token, in evaluation and training, and are reported as written."""
    (ids,) = processor.encode_phrases([phrase])["input_ids"].tolist()
    assert ids == processor.tokenizer(same)["input_ids"][:7] + ([3] if len(ids) == 8 else [])
    assert processor.tokenizer.unk_token_id not in ids
    assert processor.unknown_parts(phrase) == parts


def test_words_that_the_tokenizer_does_not_know(processor: ReferSamProcessor) -> None:
    """They become [UNK], and are reported as written, up to the truncation."""
    assert processor.unknown_parts("the \u8d64\u3044 star \u00bd \ufb01sh") == ("\u8d64\u3044", "\u00bd", "\ufb01sh")
    assert processor.encode_phrases(["\u8d64 star"])["input_ids"].tolist()[0][1] == processor.tokenizer.unk_token_id
    assert processor.unknown_parts("a" * 101) == ("a" * 101,)
    assert processor.unknown_parts("the red star") == processor.unknown_parts("a zebra, na\u00efve") == ()
    assert processor.unknown_parts("red red red \u2b50 red red \u00bd \u8d64 \u2b50") == ("\u2b50", "\u00bd")
    assert processor.cut_off("red red red \u2b50 red red \u00bd \u8d64 \u2b50") == "\u8d64 \u2b50"


def test_a_phrase_of_known_tokens_is_never_changed() -> None:
    """Symbols in the vocabulary keep their tokens, also beside unknown ones."""
    tokenizer = train_tokenizer(["20 \u00b0 star \u2b50 \u2019"] * 2, vocab_size=256)
    processor = ReferSamProcessor(ReferSamImageProcessor(), tokenizer)
    rng = np.random.default_rng(0)
    ascii_words = ["".join(rng.choice(list(string.printable[:94]), rng.integers(1, 30))) for _ in range(100)]
    for phrase in ["the star \u2b50 20 \u00b0", "dog\u2019s", "x\u0301 na\u00efve", *ascii_words]:
        expected = tokenizer(phrase, truncation=True, max_length=20)["input_ids"]
        assert tokenizer.unk_token_id not in expected
        assert processor.encode_phrases([phrase])["input_ids"].tolist() == [expected]
        assert processor.unknown_parts(phrase) == ()
    mixed = "20 \u00b0 \u2b50 \U0001f31f"
    assert tokenizer.tokenize("20 \u00b0 \u2b50") == tokenizer.convert_ids_to_tokens(
        processor.encode_phrases([mixed])["input_ids"][0][1:-1]
    )


def test_a_phrase_of_symbols_alone(processor: ReferSamProcessor) -> None:
    """It is not emptied: training uses [UNK]; `Query.prepare` rejects it."""
    for phrase in ("\u2b50", "\u2764\ufe0f", "\u20e3"):
        assert processor.encode_phrases([phrase])["input_ids"].tolist() == [[2, processor.tokenizer.unk_token_id, 3]]
        assert processor.unknown_parts(phrase) == (phrase,)


def test_a_huge_phrase_is_cut(processor: ReferSamProcessor) -> None:
    """A hundred thousand words."""
    phrase = "red " * 100_000
    assert processor(text=phrase)["input_ids"].shape == (1, 8)
    assert processor.cut_off(phrase) == phrase[4 * 6 :]


@pytest.mark.parametrize("phrase", ["", "   ", "\n\t", "\u200b", "\x00\x01", "\u0301"])
def test_phrases_without_a_word(processor: ReferSamProcessor, phrase: str) -> None:
    """Empty, blank, invisible: the error shows the phrase."""
    with pytest.raises(PhraseError, match="at least one word"):
        processor(text=["the red star", phrase])


@pytest.mark.parametrize("phrase", [None, 3, b"red"])
def test_phrases_that_are_no_text(processor: ReferSamProcessor, phrase: object) -> None:
    """Not a str."""
    with pytest.raises(PhraseError, match="at least one word"):
        processor.encode_phrases([phrase])  # type: ignore[list-item]


def test_max_text_tokens_too_small(tokenizer: PreTrainedTokenizerFast) -> None:
    """Two tokens are special, so that three is the minimum."""
    with pytest.raises(ValueError, match="max_text_tokens must be at least 3"):
        ReferSamProcessor(ReferSamImageProcessor(), tokenizer, max_text_tokens=2)
    assert ReferSamProcessor(ReferSamImageProcessor(), tokenizer, max_text_tokens=3).cut_off("the red") == "red"


# -------------------------------------------------------------------------------------------------- saved and loaded


@pytest.mark.parametrize("auto", [False, True])
def test_saved_and_loaded(processor: ReferSamProcessor, tmp_path: Path, auto: bool) -> None:
    """All settings are kept, and the tensors are equal."""
    processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    processor.save_pretrained(tmp_path)
    register()
    loaded = (AutoProcessor if auto else ReferSamProcessor).from_pretrained(tmp_path)
    assert isinstance(loaded, ReferSamProcessor)
    assert loaded.max_text_tokens == 8
    assert loaded.image_processor.size == {"height": 32, "width": 64}
    inputs = {"images": noise(21, 34), "text": ["the red circle on the left of Zoë", "x"]}
    expected, got = processor(**inputs), loaded(**inputs)
    assert set(got) == {"pixel_values", "input_ids", "attention_mask"}
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, atol=0, rtol=0)


def test_auto_image_processor(tiny_model_folder: Path) -> None:
    """The image processor alone, with transformers' Auto class."""
    register()
    loaded: ImageProcessingMixin = AutoImageProcessor.from_pretrained(tiny_model_folder)
    assert isinstance(loaded, ReferSamImageProcessor)
    assert loaded.size == {"height": 64, "width": 64}


def test_from_text_encoder(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """A text encoder's folder gives its tokenizer; an empty folder one error."""
    tokenizer.save_pretrained(tmp_path / "text")
    processor = ReferSamProcessor.from_text_encoder(tmp_path / "text", image_size=96)
    assert processor.image_processor.size == {"height": 96, "width": 96}
    assert processor(text="the red star")["input_ids"].tolist() == [tokenizer("the red star")["input_ids"]]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="No tokenizer could be read from"):
        ReferSamProcessor.from_text_encoder(tmp_path / "empty")


# --------------------------------------------------------------------------------------------------------- tokenizer


def test_any_ascii_word_is_read(tokenizer: PreTrainedTokenizerFast) -> None:
    """Unknown words are split into letters, never [UNK]."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list(string.printable[:94]), rng.integers(1, 60))) for _ in range(300)]
    for word in [*words, string.printable, "a" * 100]:
        assert tokenizer.unk_token_id not in tokenizer(word)["input_ids"], word


def test_unknown_words_are_spelled_and_known_ones_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    """Lower case, one token per known word."""
    assert tokenizer.tokenize("the RED zebra") == ["the", "red", "z", "##e", "##b", "##r", "##a"]
    assert tokenizer.tokenize("red, star") == ["red", ",", "star"]


def test_accents_are_dropped(tokenizer: PreTrainedTokenizerFast) -> None:
    """As in BERT's uncased models."""
    assert tokenizer("the réd stâr")["input_ids"] == tokenizer("the red star")["input_ids"]


def test_round_trip(tokenizer: PreTrainedTokenizerFast) -> None:
    """Decoding joins the letters."""
    ids = tokenizer("the red zebra2 on the left")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the red zebra2 on the left"


def test_special_tokens_stand_first(tokenizer: PreTrainedTokenizerFast) -> None:
    """Padding is 0, as in the tiny text encoder's configuration."""
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]"]) == [0, 1, 2, 3]
    assert (tokenizer.pad_token_id, tokenizer.sep_token_id) == (0, 3)


def test_rare_words_and_the_limit() -> None:
    """min_count excludes rare words; the vocabulary prefers frequent words."""
    least = 4 + 2 * (26 + 10 + 32)  # special tokens; letters, digits, punctuation, each also as a continuation
    texts = ["red red red star star once"]
    assert "once" not in train_tokenizer(texts, 500).get_vocab()
    assert len(train_tokenizer(texts, 500)) == least + 2
    small = train_tokenizer(texts, least + 1)
    assert len(small) == least + 1
    assert "red" in small.get_vocab()
    assert "star" not in small.get_vocab()
    with pytest.raises(ValueError, match=f"at least {least} to hold every character, but is {least - 1}"):
        train_tokenizer(texts, least - 1)


def test_the_same_phrases_give_the_same_vocabulary() -> None:
    """For any order: ties are broken alphabetically."""
    assert train_tokenizer(PHRASES, 256).get_vocab() == train_tokenizer(PHRASES[::-1], 256).get_vocab()
