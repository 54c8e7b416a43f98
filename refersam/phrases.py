"""Validation and normalization of phrases."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from refersam.errors import PhraseError, shown

_SURROGATE = re.compile("[\ud800-\udfff]")
"""Surrogate code points, from bytes that are not valid UTF-8; tokenizers fail on them."""

_SAME_IN_ASCII = str.maketrans("‘’‚‛“”„‟‐‑‒–—―−", "'" * 4 + '"' * 4 + "-" * 7)
_SYMBOLS = ("P", "S", "Me", "Co", "Cn")
"""Unicode categories or their prefixes: punctuation, symbols including emoji, enclosing marks, private use, unassigned.

New emoji are unassigned in older Python versions. Letters, digits and accents are parts of words."""


def is_phrase(text: str) -> bool:
    """Return whether a text has a visible character and is valid Unicode."""
    if text.isprintable():  # fast path for the common case; surrogates are not printable
        return bool(text.strip())
    return any(map(str.isprintable, "".join(text.split()))) and not _SURROGATE.search(text)


def check_phrases(phrases: Iterable[str]) -> None:
    """Raise PhraseError for a phrase without a word or with invalid Unicode."""
    for phrase in phrases:
        if isinstance(phrase, str) and _SURROGATE.search(phrase):
            raise PhraseError(f"A phrase is not valid Unicode text: {shown(phrase)}.")
        if not isinstance(phrase, str) or not is_phrase(phrase):
            raise PhraseError(f"A phrase must have at least one word, but got {shown(phrase)}.")


def replace_symbols(text: str) -> str:
    """Replace non-ASCII symbols: typographic quotes and dashes by ASCII, all others by a space.

    The text length does not change. Invisible characters (joiners, variation selectors) stay: tokenizers delete them,
    and a space would split a word.
    """

    def replacement(character: str) -> str:
        is_symbol = not character.isascii() and unicodedata.category(character).startswith(_SYMBOLS)
        return " " if is_symbol else character

    return "".join(map(replacement, text.translate(_SAME_IN_ASCII)))
