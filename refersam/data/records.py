"""Records of JSON and pickle files, checked for their types; errors name the file, the record and the field."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from refersam.errors import DataError, field_problem

T = TypeVar("T")


def as_list(value: object) -> object:
    """One as a list of one, for fields that hold one or several."""
    return value if isinstance(value, list) else [value]


def as_text(value: object) -> object:
    """A number as text, for names that may be numbers."""
    return str(value) if type(value) is int else value


class RecordType(Generic[T]):
    """A kind of record.

    Args:
        kind: a dataclass or pydantic model.
    """

    def __init__(self, kind: type[T]) -> None:
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)

    def read(self, record: object, where: str) -> T:
        """The record with the types it should have.

        Args:
            record: as it was read.
            where: begins the error's sentence: "instances.json, annotations, record 3".

        Raises:
            DataError: a field is missing or of another type.
        """
        try:
            return self._adapter.validate_python(record)
        except ValidationError as error:
            raise DataError(f"{where}: {field_problem(error.errors()[0])}.") from error


def csv_rows(reader: csv.DictReader, path: Path) -> Iterator[dict[Any, Any]]:
    """The rows of a CSV file with a head line.

    Raises:
        DataError: what is no CSV, or a row with more cells than the head line.
    """
    try:
        for row in reader:
            if None in row:
                raise DataError(
                    f"{path}, line {reader.line_num} has more cells than the head line: a phrase with a comma goes "
                    'between quotes ("the big, red star").'
                )
            yield row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num} is not a CSV file: {error}.") from error
