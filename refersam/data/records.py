"""Type validation for records of JSON and pickle files; errors name the file, the record and the field."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

from pydantic import AfterValidator, BaseModel, TypeAdapter, ValidationError

from refersam.errors import DataError, did_you_mean, field_problem

T = TypeVar("T")


def as_list(value: object) -> object:
    """Wrap a single value in a list, for fields that hold one or several values."""
    return value if isinstance(value, list) else [value]


def as_text(value: object) -> object:
    """Convert an integer to text, for names that may be numbers."""
    return str(value) if type(value) is int else value


def with_slashes(name: str) -> str:
    """Replace the backslashes of Windows paths by slashes, which every system accepts."""
    return name.replace("\\", "/")


FileName: TypeAlias = Annotated[str, AfterValidator(with_slashes)]
"""Path of a file in a record."""


class RecordType(Generic[T]):
    """Record type: a dataclass or pydantic model; null counts as absent for a field with a default."""

    def __init__(self, kind: type[T]) -> None:
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)
        if issubclass(kind, BaseModel):
            self._fields = {name: field.is_required() for name, field in kind.model_fields.items()}
        else:
            defaults = ("default", "default_factory")
            self._fields = {
                field.name: all(getattr(field, name) is MISSING for name in defaults)
                for field in fields(kind)  # type: ignore[arg-type]
            }

    def read(self, record: object, where: str) -> T:
        """Return the record with its declared types.

        Raises DataError for a missing field or a wrong type; the message begins with `where` ("instances.json,
        annotations, record 3").
        """
        if isinstance(record, Mapping):
            record = {
                name: value for name, value in record.items() if value is not None or self._fields.get(name, True)
            }
        try:
            return self._adapter.validate_python(record)
        except ValidationError as error:
            raise DataError(f"{where}: {self._problem(error)}") from error

    def _problem(self, error: ValidationError) -> str:
        """Describe the problem of the first field; for a missing field also name an unknown one that may replace it."""
        first, *others = error.errors()
        text = field_problem(first)
        unknown = [detail for detail in (first, *others) if detail["type"] == "extra_forbidden"]
        if first["type"] == "missing" and unknown:
            text += f", and {field_problem(unknown[0])}"
        if not unknown or first["type"] not in ("missing", "extra_forbidden"):
            return f"{text}."
        return text + (
            did_you_mean(str(unknown[0]["loc"][-1]), self._fields) or f", which has {', '.join(self._fields)}."
        )


def csv_rows(reader: csv.DictReader, path: Path) -> Iterator[dict[Any, Any]]:
    """Yield the rows of a CSV file with a header; raise DataError for invalid CSV or a row longer than the header."""
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
