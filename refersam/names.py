"""File names of answers: short, readable, and of one image and phrase alone."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

_STEM_BYTES, _PHRASE_BYTES = 80, 60  # file systems allow 255 in all
_DIGITS = 8


def answer_name(source: Path, phrases: Sequence[str]) -> str:
    """Name the files of the answers to phrases about an image or video: SOURCE_PHRASES_DIGITS.

    The digits are a hash of the absolute path and the phrases: the same source and phrases replace their own files, and
    others never share a name, also if only a directory, a suffix, an upper-case letter or a late word differs.
    """
    digits = key_of(str(source.resolve()), *phrases).hex()[:_DIGITS]
    return f"{_cut(source.stem, _STEM_BYTES)}_{slug(', '.join(phrases))}_{digits}"


def slug(phrase: str) -> str:
    """Lower-case words of a phrase with hyphens between them, at most 60 bytes; several phrases may share one."""
    return _cut(re.sub(r"[^\w]+", "-", phrase.lower()).strip("-"), _PHRASE_BYTES).strip("-") or "phrase"


def key_of(*texts: str) -> bytes:
    """16 bytes that identify texts in their order."""
    return hashlib.blake2b(json.dumps(texts).encode(), digest_size=16).digest()


def _cut(name: str, most: int) -> str:
    """At most so many bytes of UTF-8."""
    return name.encode(errors="ignore")[:most].decode(errors="ignore")
