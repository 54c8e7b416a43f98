"""Conversion of COCO annotations and a list of phrases to the custom data format."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from refersam.data.coco import read_instances
from refersam.data.findings import Finding, Severity, raise_errors
from refersam.data.records import FileName, RecordType, as_text, csv_rows
from refersam.errors import DataError, shown
from refersam.files import write_atomically
from refersam.phrases import is_phrase


class _PhraseRow(BaseModel):
    """A row of the list of phrases; accepts numbers and names as spreadsheets export them."""

    model_config = ConfigDict(extra="forbid")

    phrase: str
    ann_id: int | None = None
    ann_ids: list[int] = []
    image: FileName | None = None
    id: Annotated[str, BeforeValidator(as_text)] | None = None
    tags: list[str] = []

    def annotations(self) -> list[int]:
        return [*([] if self.ann_id is None else [self.ann_id]), *self.ann_ids]


_ROW = RecordType(_PhraseRow)
_INDEX_COLUMNS = {"", "Unnamed: 0"}
"""Row index columns that pandas writes to CSV files; ignored."""
_LISTS = ("ann_ids", "tags")
"""CSV columns with several values, separated by spaces or semicolons."""


def convert_coco(instances: Path, phrases: Path, images: Path, out: Path) -> int:
    """Write a JSON Lines file of custom data that refers to annotations of an `instances.json`.

    Args:
        instances: COCO annotations.
        phrases: JSON Lines, or CSV with a header. Fields: `phrase`; `ann_id` or `ann_ids`, or for a phrase without
            target `image` (a file name in `instances`); optionally `id` and `tags`.
        images: image folder.
        out: output file.

    Returns:
        Number of phrases.

    Raises:
        DataError: a file is unreadable, or lines are invalid; the message counts all of them.
    """
    rows, findings = [], []
    for number, record in _records(phrases):
        where = f"{phrases}, line {number}"
        try:
            row = _ROW.read(record, where)
            if not is_phrase(row.phrase):
                raise DataError(f"{where}: the phrase is empty.")
            rows.append((where, row))
        except DataError as error:
            findings.append(Finding(Severity.ERROR, "lines", str(error)))
    coco = read_instances(instances, {number for _, row in rows for number in row.annotations()})
    names = {image.file_name for image in coco.images.values()}
    lines: list[dict[str, Any]] = [
        {name: os.path.relpath(path, out.parent) for name, path in (("instances", instances), ("images", images))}
    ]
    for where, row in rows:
        try:
            annotations = [coco.annotations[number] for number in row.annotations()]
        except KeyError as error:
            findings.append(Finding(Severity.ERROR, "lines", f"{where}: annotation {error} is not in {instances}."))
            continue
        image = row.image
        if annotations:
            entries = [coco.images.get(number) for number in {annotation.image_id for annotation in annotations}]
            image = entries[0].file_name if len(entries) == 1 and entries[0] is not None else None
        if image not in names or any(annotation.region is None for annotation in annotations):
            message = f"{where}: expected are annotations with a mask, all of one image of {instances}, or its name."
            findings.append(Finding(Severity.ERROR, "lines", message))
            continue
        line: dict[str, Any] = {"image": image, "phrase": row.phrase.strip()}
        line |= {"ann_ids": row.annotations()} if annotations else {"no_target": True}
        line |= {name: value for name, value in (("id", row.id), ("tags", row.tags)) if value not in (None, [])}
        lines.append(line)
    raise_errors(findings, str(phrases), "Nothing was written.", most=10)
    if len(lines) == 1:
        raise DataError(f"{phrases} has no phrase.")
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    write_atomically(out, lambda file: file.write(content))
    return len(lines) - 1


def _records(path: Path) -> Iterator[tuple[int, object]]:
    """Yield the number and content of each line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text.") from error
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
        for row in csv_rows(reader, path):
            values: dict[Any, Any] = {name: value for name, value in row.items() if value not in (None, "")}
            for name in _INDEX_COLUMNS & values.keys():
                if values[name].isdigit():
                    del values[name]
            if "" in values:
                place = list(row).index("") + 1
                raise DataError(
                    f"{path}, line {reader.line_num}: column {place} holds {shown(values[''])}, but has no name in the "
                    "head line: name or remove it."
                )
            for name in _LISTS:
                if name in values:
                    values[name] = values[name].replace(";", " ").split()
            yield reader.line_num, values
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {number} is not JSON: {error}.") from error
