"""What can be asked: a phrase with something to read in it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from refersam.errors import PhraseError, shown

_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character, as Python reads bytes that are no UTF-8; a tokenizer would fail on it."""

_SAME_IN_ASCII = str.maketrans("‘’‚‛“”„‟‐‑‒–—―−", "'" * 4 + '"' * 4 + "-" * 7)
_SYMBOLS = ("P", "S", "Me", "Co", "Cn")
"""Unicode categories, or how they begin: punctuation, symbols with emoji, enclosing marks, private use, and code points
that are unassigned, as a new emoji is to an older Python. Letters, digits and accents are parts of words."""


def is_phrase(text: str) -> bool:
    """Whether something can be read in a text, and all of it is valid Unicode."""
    if text.isprintable():  # the common case, and quick; surrogates are not printable
        return bool(text.strip())
    return any(map(str.isprintable, "".join(text.split()))) and not _SURROGATE.search(text)


def check_phrases(phrases: Iterable[str]) -> None:
    """Raise PhraseError for a phrase without a word, or with invalid Unicode."""
    for phrase in phrases:
        if isinstance(phrase, str) and _SURROGATE.search(phrase):
            raise PhraseError(f"A phrase is not valid Unicode text: {shown(phrase)}.")
        if not isinstance(phrase, str) or not is_phrase(phrase):
            raise PhraseError(f"A phrase must have at least one word, but got {shown(phrase)}.")


def replace_symbols(text: str) -> str:
    """Replace each non-ASCII symbol: typographic quotes and dashes by those of ASCII, all others by a space.

    The text keeps its length. Invisible characters (joiners, variation selectors) stay: tokenizers delete them, and a
    space would split a word.
    """

    def replacement(character: str) -> str:
        is_symbol = not character.isascii() and unicodedata.category(character).startswith(_SYMBOLS)
        return " " if is_symbol else character

    return "".join(map(replacement, text.translate(_SAME_IN_ASCII)))
