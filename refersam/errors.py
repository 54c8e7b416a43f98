"""Errors whose message is meant for the user: one sentence saying what was expected, what came, what to do."""

from __future__ import annotations

import difflib
import re
import reprlib
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

_OF_PYDANTIC = re.compile(", (unable|got) .*| after validation.*| or (an )?instance of .*")
"""What its sentences say beyond what was expected."""

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80
_REPR.maxlevel = 3


class ReferSamError(Exception):
    """Base of the errors below; the command line prints the message and exits with `exit_code`.

    Attributes:
        exit_code: 2 if the arguments alone are wrong, whatever the files hold; else 1.
    """

    exit_code: ClassVar[int] = 1


class CheckpointError(ReferSamError, ValueError):
    """Weights that are missing, broken, unsafe or of another model."""


class ImageError(ReferSamError, ValueError):
    """An image that cannot be read, or is too large."""


class ImageSizeError(ImageError):
    """An image with more pixels than the limit."""


class ImageFormatError(ImageError):
    """A file that is no image, or of a format that is not read."""


class VideoError(ReferSamError, ValueError):
    """A video that cannot be read, or is too large."""


class PhraseError(ReferSamError, ValueError):
    """A phrase that cannot be used."""

    exit_code = 2


class PromptError(ReferSamError, ValueError):
    """Clicks or a box that cannot be used."""

    exit_code = 2


class DeviceError(ReferSamError, ValueError):
    """A device or dtype that is not available."""

    exit_code = 2


class DataError(ReferSamError, ValueError):
    """A data set or folder that is not what it should be."""


class UsageError(DataError):
    """Arguments that are not accepted: an unknown name, a missing or a contradictory argument."""

    exit_code = 2


class MissingExtraError(ReferSamError, ImportError):
    """A package that is needed is not installed; the message names the extra that brings it."""


_KNOWN_REASONS = (
    ("instantiate the backend tokenizer", "tokenizer.json is missing, or cannot be read"),
    ("ignore_mismatched_sizes", "some have another shape than its configuration says"),
)
"""Sentences of transformers that are about its own code, by a part of them, and what they mean for a user."""

_MOST_CHARACTERS = 300


def one_line(error: Exception) -> str:
    """Return what an error of another library says, all its lines in one, to end a sentence of ours."""
    line = " ".join(str(error).split())
    for part, meaning in _KNOWN_REASONS:
        if part in line:
            return meaning
    line = textwrap.shorten(line, _MOST_CHARACTERS, placeholder=" ...").rstrip(":. ")
    if isinstance(error, OSError | ValueError | RuntimeError) and line:
        return line
    return f"{type(error).__name__}: {line}"  # "KeyError: 'model'" says more than "'model'"


def field_problem(detail: Mapping[str, Any]) -> str:
    """Return the problem in one of the `errors()` of pydantic's ValidationError: "steps should be greater than or equal
    to 1, but is 0".
    """
    field, kind = ".".join(map(str, detail["loc"])), detail["type"]
    if kind == "missing":
        return f"{field} is missing"
    if kind == "extra_forbidden":
        return f"{field} is not a field of this format"
    if kind == "invalid_key":
        return f"a name should be text, but is {shown(detail['input'])}"
    if kind == "value_error":  # a sentence of ours
        return f"{field}{': ' if field else ''}{detail['msg'].removeprefix('Value error, ')}"
    _kind, should, wanted = _OF_PYDANTIC.sub("", detail["msg"]).partition(" should ")
    text = f"{field or 'it'}{should}{wanted}" if should else f"{field or 'it'}: {detail['msg']}"
    return f"{text}, but is {shown(detail['input'])}"


def shown(value: object, most: int = 80) -> str:
    """A value as a sentence quotes it, cut off; one that holds itself many times over is not written out to be cut."""
    return _REPR.repr(value)[:most]


def counted(count: int, noun: str) -> str:
    """ "1 image", "2 images"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def first_of(names: Sequence[str], most: int = 5) -> str:
    """ "a, b and 3 more"."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ ", did you mean colour?" to end a sentence about an unknown name; empty where none is near."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f", did you mean {nearest[0]}?" if nearest else ""


def why_unreadable(error: Exception) -> str:
    """Of a file of torch's: not in torch's words, which advise to run what is in it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "it is no file of PyTorch's, is cut off or damaged, or asks for code to be run"
