"""What can be asked: a phrase with something to read in it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from refersam.errors import PhraseError

_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character, as Python reads bytes that are no UTF-8; a tokenizer would fail on it."""


def is_phrase(text: str) -> bool:
    """Whether something can be read in a text, and all of it is valid Unicode."""
    if text.isprintable():  # the common case, and quick; surrogates are not printable
        return bool(text.strip())
    return any(map(str.isprintable, "".join(text.split()))) and not _SURROGATE.search(text)


def check_phrases(phrases: Iterable[str]) -> None:
    """Refuse what is none.

    Raises:
        PhraseError: a phrase without a word, or no valid Unicode.
    """
    for phrase in phrases:
        if isinstance(phrase, str) and _SURROGATE.search(phrase):
            raise PhraseError(f"A phrase is not valid Unicode text: {phrase!r}.")
        if not isinstance(phrase, str) or not is_phrase(phrase):
            raise PhraseError(f"A phrase must have at least one word, but got {phrase!r}.")
