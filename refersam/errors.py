"""Errors with a message for the user: what was expected, what was found, what to do."""

from __future__ import annotations

import difflib
import re
import reprlib
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

_OF_PYDANTIC = re.compile(", (unable|got) .*| after validation.*| or (an )?instance of .*")
"""Parts of pydantic messages beyond the expected type."""

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80
_REPR.maxlevel = 3


class ReferSamError(Exception):
    """Base class of the errors below; the command line prints the message and exits with `exit_code`.

    Attributes:
        exit_code: 2 if the arguments are invalid regardless of file contents; else 1.
    """

    exit_code: ClassVar[int] = 1


class CheckpointError(ReferSamError, ValueError):
    """Weights are missing, broken, unsafe or from another model."""


class ImageError(ReferSamError, ValueError):
    """Image is unreadable or too large."""


class ImageSizeError(ImageError):
    """Image has more pixels than the limit."""


class ImageFormatError(ImageError):
    """File is not an image, or its format is unsupported."""


class VideoError(ReferSamError, ValueError):
    """Video is unreadable or too large."""


class PhraseError(ReferSamError, ValueError):
    """Phrase is invalid."""

    exit_code = 2


class PromptError(ReferSamError, ValueError):
    """Click or box is invalid."""

    exit_code = 2


class DeviceError(ReferSamError, ValueError):
    """Device or dtype is not available."""

    exit_code = 2


class DataError(ReferSamError, ValueError):
    """Data set or folder is invalid."""


class UsageError(DataError):
    """Arguments are invalid: an unknown name, or a missing or contradictory argument."""

    exit_code = 2


class MissingExtraError(ReferSamError, ImportError):
    """Required package is not installed; the message names the extra to install."""


_KNOWN_REASONS = (
    ("instantiate the backend tokenizer", "tokenizer.json is missing, or cannot be read"),
    ("ignore_mismatched_sizes", "some have another shape than its configuration says"),
)
"""(part of a message of transformers about its own code, meaning for the user) pairs."""

_MOST_CHARACTERS = 300


def one_line(error: Exception) -> str:
    """Return the message of an external error on one line, as the end of a sentence."""
    line = " ".join(str(error).split())
    for part, meaning in _KNOWN_REASONS:
        if part in line:
            return meaning
    line = textwrap.shorten(line, _MOST_CHARACTERS, placeholder=" ...").rstrip(":. ")
    if isinstance(error, OSError | ValueError | RuntimeError) and line:
        return line
    return f"{type(error).__name__}: {line}"  # "KeyError: 'model'" is clearer than "'model'"


def field_problem(detail: Mapping[str, Any]) -> str:
    """Describe one of the `errors()` of pydantic's ValidationError.

    Example: "steps should be greater than or equal to 1, but is 0".
    """
    field, kind = ".".join(map(str, detail["loc"])), detail["type"]
    if kind == "missing":
        return f"{field} is missing"
    if kind == "extra_forbidden":
        return f"{field} is not a field of this format"
    if kind == "invalid_key":
        return f"a name should be text, but is {shown(detail['input'])}"
    if kind == "value_error":  # a message of this package
        return f"{field}{': ' if field else ''}{detail['msg'].removeprefix('Value error, ')}"
    _kind, should, wanted = _OF_PYDANTIC.sub("", detail["msg"]).partition(" should ")
    text = f"{field or 'it'}{should}{wanted}" if should else f"{field or 'it'}: {detail['msg']}"
    return f"{text}, but is {shown(detail['input'])}"


def shown(value: object, most: int = 80) -> str:
    """Return a shortened repr of a value for a message; deep or recursive values are abbreviated early."""
    return _REPR.repr(value)[:most]


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: "1 image", "2 images"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def first_of(names: Sequence[str], most: int = 5) -> str:
    """Join the first names and count the others: "a, b and 3 more"."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ", did you mean colour?" to end a sentence about an unknown name; "" without a similar name."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f", did you mean {nearest[0]}?" if nearest else ""


def why_unreadable(error: Exception) -> str:
    """Return why torch could not read a file; torch's own message recommends unsafe loading."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "it is not a PyTorch file, is truncated or damaged, or would execute code"
