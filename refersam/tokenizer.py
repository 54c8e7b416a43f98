"""WordPiece tokenizer of the tiny preset: a small vocabulary of whole words, and characters for other words."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
ALPHABET = string.ascii_lowercase + string.digits + string.punctuation


def train_tokenizer(phrases: Iterable[str], vocab_size: int, min_count: int = 2) -> PreTrainedTokenizerFast:
    """Build the tokenizer from example phrases.

    The vocabulary has at most `vocab_size` entries: special tokens, then all Latin letters, digits and punctuation
    marks (also as word continuations), then the words with at least `min_count` occurrences by frequency. Accents are
    removed. Raises ValueError if `vocab_size` is too small for the characters.
    """
    normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for phrase in phrases:
        counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(phrase)))
    entries = [*SPECIAL_TOKENS.values(), *ALPHABET, *("##" + character for character in ALPHABET)]
    if vocab_size < len(entries):
        raise ValueError(f"vocab_size must be at least {len(entries)} to hold every character, but is {vocab_size}.")
    words = sorted(word for word, count in counts.items() if count >= min_count and word not in entries)
    words.sort(key=lambda word: -counts[word])
    vocabulary = {entry: index for index, entry in enumerate([*entries, *words][:vocab_size])}

    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)
