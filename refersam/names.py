"""Short, readable and unique file names of results."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

_STEM_BYTES, _PHRASE_BYTES = 80, 60  # file systems allow 255 in all
_DIGITS = 8


def answer_name(source: Path, phrases: Sequence[str]) -> str:
    """Return the base name of result files for phrases about an image or video: SOURCE_PHRASES_DIGITS.

    The digits are a hash of the absolute path and the phrases. The same input overwrites its own files. Different
    inputs have different names, even if only a directory, a suffix, an upper-case letter or a late word differs.
    """
    digits = key_of(str(source.resolve()), *phrases).hex()[:_DIGITS]
    return f"{_cut(source.stem, _STEM_BYTES)}_{slug(', '.join(phrases))}_{digits}"


def slug(phrase: str) -> str:
    """Return the lower-case words of a phrase joined by hyphens, at most 60 bytes; not unique."""
    return _cut(re.sub(r"[^\w]+", "-", phrase.lower()).strip("-"), _PHRASE_BYTES).strip("-") or "phrase"


def key_of(*texts: str) -> bytes:
    """Return a 16-byte hash of an ordered sequence of texts."""
    return hashlib.blake2b(json.dumps(texts).encode(), digest_size=16).digest()


def _cut(name: str, most: int) -> str:
    """Truncate a name to at most `most` bytes of UTF-8."""
    return name.encode(errors="ignore")[:most].decode(errors="ignore")
