"""Streaming reader for JSON files of hundreds of megabytes, with the memory of one record."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from refersam.errors import DataError

_CHUNK = 1 << 20
_MAX_RECORD = 1 << 27
"""Limit in characters."""
_DECODER = json.JSONDecoder()
_AFTER_VALUE = tuple(",]}: \t\r\n")
_SPACE = re.compile(r"[ \t\r\n]*")


def iterate_json(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the records of a JSON file that holds an object or a list, with the memory of one record.

    An object yields ("name", record) for each record of its lists, and ("name", value) for other values. A list yields
    ("", record). Raises DataError for a missing file, invalid UTF-8 or invalid JSON.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _Reader(file).top()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a JSON file: it is not UTF-8 text.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a JSON file, or is cut off: {error}.") from error


class _Reader:
    """Sliding window over the text: parsed text is dropped, and further text is read on demand."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.text, self.position, self.dropped = file, "", 0, 0

    def top(self) -> Iterator[tuple[str, Any]]:
        if self._peek() == "[":
            yield from (("", record) for record in self._items("]"))
        elif self._peek() == "{":
            for name in self._items("}"):
                if not isinstance(name, str):
                    raise self._unexpected("a name in quotes")
                self._take(":")
                if self._peek() == "[":
                    yield from ((name, record) for record in self._items("]"))
                else:
                    yield name, self._value()
        else:
            raise self._unexpected("{ or [")
        if self._peek():
            raise self._unexpected("the end")

    def _items(self, end: str) -> Iterator[Any]:
        """Yield the values up to the closing bracket; for an object only names: the caller reads ":" and the value."""
        self.position += 1
        if self._peek() == end:
            self.position += 1
            return
        while True:
            yield self._value()
            if self._peek() == end:
                self.position += 1
                return
            self._take(",")

    def _value(self) -> Any:
        self._peek()
        size = _CHUNK
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.position)
                if self.text[end : end + 1] in _AFTER_VALUE:  # 12 may be the beginning of 123 or of 12.5
                    self.position = end
                    return value
            except json.JSONDecodeError as error:
                if len(self.text) > _MAX_RECORD:  # more text would not help
                    raise self._unexpected("JSON", error.pos) from error
            if not self._read(size):
                break
            size *= 2
        try:
            value, self.position = _DECODER.raw_decode(self.text, self.position)
        except json.JSONDecodeError as error:
            raise self._unexpected("JSON", error.pos) from error
        return value

    def _peek(self) -> str:
        while True:
            match = _SPACE.match(self.text, self.position)
            self.position = match.end() if match else self.position
            if self.position < len(self.text) or not self._read(_CHUNK):
                return self.text[self.position : self.position + 1]

    def _take(self, character: str) -> None:
        if self._peek() != character:
            raise self._unexpected(character)
        self.position += 1

    def _read(self, size: int) -> bool:
        more = self.file.read(size)
        self.dropped += self.position
        self.text, self.position = self.text[self.position :] + more, 0
        return bool(more)

    def _unexpected(self, what: str, position: int | None = None) -> ValueError:
        place = self.position if position is None else position
        found = repr(self.text[place : place + 20]) if self.text[place:] else "the end of the file"
        return ValueError(f"at character {self.dropped + place} {what} was expected, but there is {found}")
