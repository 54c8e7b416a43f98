"""Phrases: validation and symbols."""

from __future__ import annotations

import pytest

from refersam.errors import PhraseError
from refersam.phrases import check_phrases, replace_symbols


@pytest.mark.parametrize(
    ("text", "replaced"),
    [
        ("star \U0001f31f", "star  "),
        ("red\u00b7star\u2122", "red star "),
        ("\u201cthe dog\u2019s\u201d \u2013 left", '"the dog\'s" - left'),
        ("1\ufe0f\u20e3", "1\ufe0f "),
        ("\ue000 \U0001fae8 \u20ac", "     "),
        ("caf\u00e9 cafe\u0301 \u8d64 \u00bd \u0663", "caf\u00e9 cafe\u0301 \u8d64 \u00bd \u0663"),
        ("st\u200bar \u200d\ufe0f", "st\u200bar \u200d\ufe0f"),
        ("a+b $5 ^_^ `x` {~}", "a+b $5 ^_^ `x` {~}"),
    ],
)
def test_replace_symbols(text: str, replaced: str) -> None:
    """Emoji and signs are replaced; letters, marks and ASCII are kept, and so is the length."""
    assert replace_symbols(text) == replaced
    assert len(replaced) == len(text)


@pytest.mark.parametrize("phrase", ["\u200b" * 5000, "star \udce9 " * 5000])
def test_errors_show_the_beginning_of_a_phrase(phrase: str) -> None:
    """Only the start of a long phrase is shown."""
    with pytest.raises(PhraseError) as error:
        check_phrases([phrase])
    assert len(str(error.value)) < 200
