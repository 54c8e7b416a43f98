"""RefCOCO-M: Parquet files with encoded images, masks and phrases. For evaluation only."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, count
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel

from refersam.data.findings import Finding, Severity
from refersam.data.index import DatasetIndex
from refersam.data.records import RecordType
from refersam.data.regions import clean_region
from refersam.data.sample import ImageRecord, ReferringSample
from refersam.errors import DataError, ImageError, one_line
from refersam.image import MAX_PIXELS, load_image
from refersam.optional import require
from refersam.phrases import is_phrase

NAME, TITLE = "refcoco-m", "RefCOCO-M"
COUNTS: dict[str, tuple[int | None, int | None, int | None]] = {"validation": (2080, 1190, 5598)}
"""Published number of targets, images and phrases."""
MAX_IMAGE_BYTES, MAX_GROUP_BYTES = 2**26, 2**30
"""Limits in bytes for an encoded image and for a row group (declared unpacked size). Published images have 0.5 MB."""
_ROWS = 8
"""Number of rows that are decoded together."""


class _Sample(BaseModel):
    """Target with its phrases; other fields, such as the box, follow from the mask and are ignored."""

    id: int
    sentences: list[str]
    mask: dict[str, Any]
    category: str | None = None


_SAMPLE = RecordType(_Sample)


@dataclass(frozen=True, slots=True)
class ParquetImage(ImageRecord):
    """Image in a row of the Parquet file `path`.

    Attributes:
        row: row index in the file, from 0.
    """

    row: int = 0

    def load(self) -> Image.Image:
        """Decode the image as 8-bit RGB; see `ImageRecord.load`."""
        where = f"{self.path}, row {self.row}"
        try:
            image = load_image(_open(self.path).image(self.row), apply_exif_rotation=False)
        except ImageError as error:
            raise type(error)(f"{where}: {error}") from error
        if image.size != (self.width, self.height):
            raise DataError(
                f"{where} has an image of {image.width} x {image.height} pixels, but masks of {self.width} x "
                f"{self.height}."
            )
        return image


def read_refcoco_m(root: Path, splits: Collection[str] | None = None) -> DatasetIndex:
    """Read splits of RefCOCO-M without decoding images; problems of single rows are collected, not raised.

    Args:
        root: data root with `refcoco-m/data/SPLIT-*.parquet` as published, or without `data/`.
        splits: full names of the splits; None for all.

    Raises:
        DataError: files are missing or unreadable.
        MissingExtraError: pyarrow is not installed.
    """
    require("pyarrow", "parquet", TITLE)
    files: dict[str, list[Path]] = {}
    for path in sorted((root / NAME).glob("*.parquet")) or sorted((root / NAME / "data").glob("*.parquet")):
        files.setdefault(path.stem.split("-")[0], []).append(path)
    unknown = sorted(set(splits or ()) - files.keys())
    if not files:
        place = root / NAME / "data" / "validation-*.parquet"
        raise DataError(f"{TITLE} is not in {root}: {place} is expected. See docs/datasets.md for the source.")
    if unknown:
        raise DataError(f"{TITLE}, which is for evaluation only, has no split {unknown[0]!r}: {', '.join(files)}.")
    index = DatasetIndex(NAME, samples={split: [] for split in files if splits is None or split in splits})
    ids: Counter[str] = Counter()
    for split in index.samples:
        index.refs[split] = 0
        for path in files[split]:
            for row, targets in enumerate(_open(path).targets()):
                try:
                    _add_row(index, split, path, row, targets, ids)
                except DataError as error:
                    where = f"{path}, row {row}: {str(error).removesuffix('.')}."
                    index.findings.append(Finding(Severity.ERROR, "bad rows", where))
    return index


def _add_row(index: DatasetIndex, split: str, path: Path, row: int, targets: object, ids: Counter[str]) -> None:
    """Add the samples of an image.

    Raises:
        DataError: a record has a wrong type, or a mask is invalid.
    """
    image: ParquetImage | None = None
    samples = []
    for number, record in enumerate(targets if isinstance(targets, list) else ()):
        target = _SAMPLE.read(record, f"samples, entry {number}")
        try:
            region, _ = clean_region(target.mask)
        except DataError as error:
            raise DataError(f"the mask of sample {target.id}: {error}") from error
        height, width = region["size"]  # type: ignore[index, call-overload]
        image = image or ParquetImage(f"{path.stem}:{row}", path, width, height, row=row)
        if (width, height) != (image.width, image.height) or width * height > MAX_PIXELS:
            raise DataError(
                f"the mask of sample {target.id} has {width} x {height} pixels; all masks of an image should have one "
                f"size, the first has {image.width} x {image.height}, and at most {MAX_PIXELS:,} pixels"
            )
        for sentence, phrase in enumerate(target.sentences):
            name = f"{target.id}_{sentence}"
            ids[name] += 1
            if ids[name] == 2:
                raise DataError(f"the id of sample {target.id} is that of another one, too")
            if is_phrase(phrase):
                samples.append(ReferringSample(name, phrase.strip(), image, (region,), category=target.category))
            else:
                what = f"{path}, row {row}: sentence {sentence} of sample {target.id} has no word; left out."
                index.findings.append(Finding(Severity.WARNING, "empty phrases", what))
    if image is None:
        raise DataError("it has no samples")
    index.refs[split] += len({sample.sample_id.split("_")[0] for sample in samples})
    index.samples[split] += samples


class _File:
    """Open Parquet file, read sequentially in batches: memory grows with its row groups, not with its size.

    Args:
        path: Parquet file.

    Raises:
        DataError: the file is not Parquet, lacks the columns, or has a row group above the limit.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        parquet, types = require("pyarrow.parquet", "parquet", TITLE), require("pyarrow.types", "parquet", TITLE)
        with _readable(path):
            # No threads, because worker processes are forked.
            self._file = parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
            schema, metadata = self._file.schema_arrow, self._file.metadata
            kinds = {name: schema.field(name).type for name in ("image", "samples") if name in schema.names}
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            largest = max((group.total_byte_size for group in groups), default=0)  # as declared in the file
        encoded = kinds.get("image")
        self._is_struct = encoded is not None and types.is_struct(encoded) and encoded.get_field_index("bytes") >= 0
        encoded = encoded.field("bytes").type if self._is_struct and encoded is not None else encoded
        is_image = encoded is not None and (types.is_binary(encoded) or types.is_large_binary(encoded))
        if not is_image or "samples" not in kinds or not types.is_list(kinds["samples"]):
            raise DataError(
                f"{path} should have a column image with the bytes of image files and a column samples with a list of "
                f"targets, but has {', '.join(f'{name}: {kind}' for name, kind in kinds.items()) or 'neither'}."
            )
        if largest > MAX_GROUP_BYTES:
            raise DataError(
                f"{path} has a row group of {largest:,} bytes: write it with row groups of at most {MAX_GROUP_BYTES:,}."
            )
        self._starts = [0, *accumulate(group.num_rows for group in groups)]
        self._rows: Iterator[tuple[int, Any]] = iter(())
        self._next = self._end = 0  # range of rows that `_rows` will yield
        self._recent: dict[int, bytes] = {}

    def targets(self) -> Iterator[object]:
        """Yield the value of `samples` of each row."""
        with _readable(self.path):
            for batch in self._file.iter_batches(_ROWS, columns=["samples"], use_threads=False):
                yield from batch.column(0).to_pylist()

    def image(self, row: int) -> bytes:
        """Return the encoded image of a row. Rows in ascending order are read once.

        Raises:
            DataError: the row or its image is missing, or the image is too large.
        """
        if row not in self._recent:
            with _readable(self.path):
                if not self._next <= row < self._end:
                    self._seek(row)
                value = next(value for number, value in self._rows if number == row)
                self._next = row + 1
                size = len(value.as_buffer()) if value.is_valid else 0
                if not 0 < size <= MAX_IMAGE_BYTES:
                    raise DataError(
                        f"{self.path}, row {row} has an image file of {size:,} bytes; expected are 1 to "
                        f"{MAX_IMAGE_BYTES:,}."
                    )
                self._recent[row] = value.as_py()
            while sum(map(len, self._recent.values())) > MAX_IMAGE_BYTES:
                self._recent.pop(next(iter(self._recent)))
        return self._recent[row]

    def _seek(self, row: int) -> None:
        """Move to the first row of the row group that contains `row`."""
        group = bisect_right(self._starts, row) - 1
        if group + 1 >= len(self._starts):
            raise DataError(f"{self.path} has {self._starts[-1]} rows, but row {row} was there before.")
        self._next, self._end = self._starts[group : group + 2]
        column = "image.bytes" if self._is_struct else "image"
        batches = self._file.iter_batches(_ROWS, row_groups=[group], columns=[column], use_threads=False)
        arrays = (batch.column(0).field("bytes") if self._is_struct else batch.column(0) for batch in batches)
        self._rows = zip(count(self._next), (value for array in arrays for value in array), strict=False)


def _open(path: Path) -> _File:
    """Return the file opened by this process; worker processes open their own."""
    with _readable(path):
        time = path.stat().st_mtime_ns
    return _cached(path, time, os.getpid())


@lru_cache(maxsize=4)
def _cached(path: Path, _time: int, _process: int) -> _File:
    return _File(path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Convert errors of pyarrow, which reads untrusted files, to DataError.

    Raises:
        DataError: pyarrow failed.
    """
    from pyarrow import ArrowException

    try:
        yield
    except (DataError, MemoryError):
        raise
    except (ArrowException, OSError, ValueError, StopIteration) as error:
        raise DataError(f"{path} is not a Parquet file that can be read: {one_line(error)}.") from error
