"""Safe reader for untrusted pickles of plain data.

A pickle is a program. All its instructions are checked against an allow list before unpickling. The allowed
instructions build containers, strings and numbers; none of them can name, import or call anything.
"""

from __future__ import annotations

import codecs
import io
import pickle
import re
from pathlib import Path
from typing import Any, NoReturn

from refersam.errors import DataError

MAX_BYTES = 2**28
"""Limit for a file in bytes. RefCOCO's largest has about 50 MB."""
MAX_CONTAINERS = 2**24
"""Limit for lists, dictionaries and tuples: each takes tens of bytes of memory, but one byte of the file."""
_CONTAINERS = (b"]", b"}", b"(", b")", b"\x85", b"\x86", b"\x87")

# Instructions of fixed length, and instructions that end with their line: marks, containers, None, booleans, numbers
# and the memo. The memo is an array as long as its largest index, so an index has at most 24 bits.
_PLAIN = re.compile(
    rb"(?:[(\]})eaustdl0N\x85-\x89\x94]"
    rb"|[Kqh].|\x80.|M..|[rj]...\x00|J....|\x95.{8}|G.{8}"
    rb"|[pg]\d{1,7}\n|[IL]-?\d{1,20}L?\n|F[-+.\deEinfa]{1,40}\n"
    rb"|S[^\n]*\n|V[^\n]*\n){1,1000}",
    re.DOTALL,
)
# Instructions followed by a length and by that many bytes of text or of a number; value: bytes of the length.
_WITH_LENGTH = {b"U": 1, b"C": 1, b"\x8c": 1, b"\x8a": 1, b"T": 4, b"X": 4, b"B": 4}
_STOP = b"."
_TEXT = "refersam_utf_8_or_latin_1"


def read_plain_pickle(path: Path) -> Any:
    """Read a pickle of lists, tuples, dictionaries, strings, numbers, booleans and None without executing code.

    Byte strings of Python 2 are decoded as UTF-8, or as Latin-1 if invalid. Raises DataError for a missing, too large
    or truncated file, or other content.
    """
    try:
        check_pickle_size(path.stat().st_size, str(path))
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    return plain_pickle_from_bytes(data, str(path))


def plain_pickle_from_bytes(data: bytes, name: str) -> Any:
    """Read a pickle from bytes like `read_plain_pickle`; `name` begins the error message."""
    check_pickle_size(len(data), name)
    _refuse_programs(data, name)
    if sum(map(data.count, _CONTAINERS)) > MAX_CONTAINERS:  # upper bound: text contains these bytes, too
        raise DataError(
            f"{name} holds more than {MAX_CONTAINERS:,} lists and dictionaries: an index of phrases has fewer."
        )
    try:
        return _PlainUnpickler(io.BytesIO(data), encoding=_TEXT).load()
    except MemoryError:
        raise
    except Exception as error:  # the unpickler raises many types for broken files
        reason = str(error) or type(error).__name__
        raise DataError(f"{name} is not a pickle that can be read: {reason}.") from error


def check_pickle_size(size: int, name: str) -> None:
    """Raise DataError for a pickle of more than `MAX_BYTES` before reading it."""
    if size > MAX_BYTES:
        raise DataError(f"{name} has more than {MAX_BYTES >> 20} MB: an index of phrases is smaller.")


def _decode_text(data: Any, _errors: str = "strict") -> tuple[str, int]:
    """Decode a complete string; `data` supports the buffer protocol."""
    raw = bytes(data)
    try:
        return raw.decode("utf-8"), len(raw)
    except UnicodeDecodeError:
        return raw.decode("latin-1"), len(raw)


def _find_codec(name: str) -> codecs.CodecInfo | None:
    return codecs.CodecInfo(codecs.utf_8_encode, _decode_text, name=_TEXT) if name == _TEXT else None


codecs.register(_find_codec)  # the unpickler accepts only the name of an encoding


class _PlainUnpickler(pickle.Unpickler):
    """Unpickler that rejects all classes, as a second line of defence."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it requires {module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"it requires {pid!r}")


def _refuse_programs(data: bytes, name: str) -> None:
    position = 0
    while True:
        match = _PLAIN.match(data, position)
        if match:
            position = match.end()
            continue
        instruction = data[position : position + 1]
        if instruction == _STOP:
            return
        width = _WITH_LENGTH.get(instruction)
        if not instruction or (width and position + width >= len(data)):
            raise DataError(f"{name} is not a pickle, or is cut off after {len(data)} bytes: download it again.")
        if width is None:
            raise DataError(
                f"{name} is refused: byte {position} of it is an instruction ({instruction!r}) that does not make "
                "plain lists, dictionaries, strings or numbers, and could run a program. Download it from its official "
                "source."
            )
        length = int.from_bytes(data[position + 1 : position + 1 + width], "little")
        position += 1 + width + length
