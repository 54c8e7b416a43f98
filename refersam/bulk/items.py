"""Work items, images with phrases, from folders, patterns, CSV, JSON lines and COCO files."""

from __future__ import annotations

import csv
import glob
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from refersam.data.json_stream import iterate_json
from refersam.data.records import FileName, RecordType, as_list, csv_rows, with_slashes
from refersam.errors import DataError, UsageError, counted, first_of
from refersam.image import image_suffixes
from refersam.names import key_of
from refersam.phrases import is_phrase

IMAGE_SUFFIXES = image_suffixes()
"""What is taken from a folder; a pattern or a list may name any file."""
MASKS = "masks"
"""Folder of the mask files, in that of the results."""
LIST_SUFFIXES = (".txt", ".csv", ".jsonl", ".json")


@dataclass(frozen=True, slots=True)
class Item:
    """Image and its phrases.

    Attributes:
        image: name in the results.
        path: file.
        phrases: phrases, at least one.
    """

    image: str
    path: str
    phrases: tuple[str, ...]

    @property
    def key(self) -> bytes:
        """16 bytes that identify image and phrases."""
        return item_key(self.image, self.phrases)


def item_key(image: str, phrases: Sequence[str]) -> bytes:
    """Return 16 bytes that identify an image's name and its phrases."""
    return key_of(image, *phrases)


@dataclass(slots=True)
class Skipped:
    """Files and folders that a search skipped, except hidden ones.

    Attributes:
        files: number of files of other types, by suffix.
        folders: folders that cannot be read.
    """

    files: Counter[str] = field(default_factory=Counter)
    folders: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """ "3 files of other types (.txt: 2, .mp4: 1)"; empty where nothing was skipped."""
        parts = []
        if self.files:
            most_first = sorted(self.files.items(), key=lambda pair: (-pair[1], pair[0] == "", pair[0]))
            kinds = [f"{suffix or 'no suffix'}: {count:,}" for suffix, count in most_first]
            parts.append(f"{counted(self.files.total(), 'file')} of other types ({first_of(kinds)})")
        if self.folders:
            parts.append(f"{counted(len(self.folders), 'folder')} that cannot be read ({first_of(self.folders)})")
        return " and ".join(parts)


class Source:
    """Callable that lists the items again, in the same order and in little memory.

    Args:
        items: function that lists the items, and fills in what is skipped.
        root: directory that the names of the images start from.

    Attributes:
        skipped: files and folders that the last complete listing skipped.
    """

    def __init__(self, items: Callable[[Skipped], Iterator[Item]], root: Path) -> None:
        self._items, self.root = items, root
        self.skipped = Skipped()

    def __call__(self) -> Iterator[Item]:
        """List the items."""
        skipped = Skipped()
        yield from self._items(skipped)
        self.skipped = skipped


def open_items(images: str | None, phrases: Sequence[str], leave_out: Path) -> Source:
    """Open the items that the command line names.

    Args:
        images: a folder, which is searched with all folders in it, or a pattern (`photos/**/*.jpg`); where `phrases`
            is a list that names images, the folder that their names start from, or None for the list's own.
        phrases: texts, asked about every image; or one file: `.txt`, a phrase a line for every image; `.csv` with
            columns image and phrase; `.jsonl` with image and phrase or phrases; `.json`, a COCO file, whose captions
            are the phrases, or else the names of its categories, for every image.
        leave_out: folder of the results, which is excluded from searches.

    Raises:
        UsageError: `images` is missing, `phrases` are texts and a file, or a text has no word.
        DataError: a file or folder that does not exist, or a file without a phrase.
    """
    files = [text for text in phrases if Path(text).suffix.lower() in LIST_SUFFIXES]
    if files and len(phrases) > 1:
        raise UsageError(f"--phrases takes texts or one file, but {files[0]} came with {len(phrases) - 1} others.")
    if not files:
        return _same_phrases(images, _checked(phrases, "--phrases", UsageError), leave_out)
    path = Path(files[0])
    if not path.is_file():
        raise DataError(f"No such file: {path} (a phrase that ends in {path.suffix} goes into a .txt file).")
    if path.suffix.lower() == ".txt":
        lines = [line for line in _open_text(path).split("\n") if line.strip()]
        return _same_phrases(images, _checked(lines, str(path)), leave_out)
    root = Path(images) if images is not None else path.parent
    if not root.is_dir():
        raise DataError(f"--images must be the folder that the names in {path} start from, but {root} is no folder.")
    rows = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".json": _coco_rows}[path.suffix.lower()]

    def items(_skipped: Skipped) -> Iterator[Item]:
        for image, group in groupby(rows(path), key=lambda row: row[0]):
            asked = tuple(dict.fromkeys(phrase for _, several in group for phrase in several))
            yield Item(image, os.path.join(root, image), _checked(asked, f"{path}, {image}"))  # noqa: PTH118

    return Source(items, root)


def _checked(phrases: Iterable[str], where: str, error: type[DataError] = DataError) -> tuple[str, ...]:
    kept = tuple(dict.fromkeys(phrase.strip() for phrase in phrases))
    if not kept or not all(map(is_phrase, kept)):
        raise error(f"{where}: a phrase must have at least one word, but {'one is empty' if kept else 'none came'}.")
    return kept


def _same_phrases(images: str | None, phrases: tuple[str, ...], leave_out: Path) -> Source:
    if images is None:
        raise UsageError("--images is needed: a folder, or a pattern such as 'photos/*.jpg'.")
    folder = Path(images)
    if not folder.is_dir() and not folder.is_file() and not glob.has_magic(images):
        raise DataError(f"No such folder: {images}.")

    def items(skipped: Skipped) -> Iterator[Item]:
        results = leave_out.resolve()
        if folder.is_dir():
            for path in _images(folder, results, skipped):
                yield Item(os.path.relpath(path, folder), path, phrases)
            return
        left_out = _left_out(_fixed_part(folder), results)
        for path in [images] if folder.is_file() else sorted(glob.iglob(images, recursive=True)):  # noqa: PTH207
            if Path(path).is_file() and left_out not in Path(path).resolve().parents:
                yield Item(path, path, phrases)

    return Source(items, folder if folder.is_dir() else Path())


def _left_out(start: Path, results: Path) -> Path:
    """Return the folder that a search from `start` excludes; if results and images share a folder, only the masks."""
    return results / MASKS if start.resolve().is_relative_to(results) else results


def _fixed_part(pattern: Path) -> Path:
    """Return the folder that contains all matches of a pattern."""
    return next(folder for folder in pattern.parents if not glob.has_magic(str(folder)))


def _images(folder: Path, results: Path, skipped: Skipped) -> Iterator[str]:
    """Yield the images in a folder and all its subfolders.

    Links to folders are followed last, and each folder is searched once, so that cycles end.
    """
    left_out = _left_out(folder, results)
    searched: set[Path] = set()
    waiting = deque([folder])

    def note(error: OSError) -> None:
        skipped.folders.append(str(error.filename))

    while waiting:
        for place, folders, files in os.walk(waiting.popleft(), onerror=note):
            here, real = Path(place), Path(place).resolve()
            if real in searched or left_out in (real, *real.parents):
                folders.clear()
                continue
            searched.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            waiting.extend(here / name for name in folders if (here / name).is_symlink())
            for name in sorted(files):
                suffix = Path(name).suffix.lower()
                if name.startswith("."):
                    continue
                if suffix in IMAGE_SUFFIXES:
                    yield str(here / name)
                else:
                    skipped.files[suffix] += 1


def _open_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text.") from error


Rows = Iterator[tuple[str, Sequence[str]]]
"""Names of images with phrases; those of one image follow one another."""


def _csv_rows(path: Path) -> Rows:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True, strict=True)
            columns = reader.fieldnames or ()
            if not {"image", "phrase"} <= set(columns):
                found = first_of([repr(name) for name in columns]) or "nothing"
                raise DataError(
                    f"{path} needs a head line with the columns image and phrase, between commas, but has {found}."
                )
            for row in csv_rows(reader, path):
                if not row["image"] or not is_phrase(row["phrase"] or ""):
                    raise DataError(f"{path}, line {reader.line_num}: image or phrase is empty.")
                yield with_slashes(row["image"]), [row["phrase"]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8: {error}.") from error


class _Line(BaseModel):
    """Line of a list; other fields, such as a mask, are ignored."""

    image: FileName = Field(min_length=1)
    phrases: Annotated[list[str], BeforeValidator(as_list), Field(min_length=1)]


_LINE = RecordType(_Line)


def _jsonl_rows(path: Path) -> Rows:
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            try:
                record = json.loads(raw.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {number} is not JSON: {error}.") from error
            if isinstance(record, dict):
                record = {name: value for name, value in record.items() if value is not None}
            if isinstance(record, dict) and {"phrase", "phrases"} <= record.keys():
                raise DataError(f"{path}, line {number} has both phrase and phrases: leave out one of them.")
            if isinstance(record, dict) and "phrase" in record:
                record = {"phrases": record["phrase"], **record}
            line = _LINE.read(record, f"{path}, line {number}")
            yield line.image, line.phrases


class _Image(BaseModel):
    id: int
    file_name: FileName = Field(min_length=1)


class _Caption(BaseModel):
    image_id: int
    caption: str


class _Category(BaseModel):
    name: str = Field(min_length=1)


_IMAGE, _CAPTION, _CATEGORY = RecordType(_Image), RecordType(_Caption), RecordType(_Category)


def _coco_rows(path: Path) -> Rows:
    images: dict[int, str] = {}
    captions: dict[int, list[str]] = {}
    categories: list[str] = []
    for name, record in iterate_json(path):
        if record is None:  # a list that is null
            continue
        if name == "images":
            image = _IMAGE.read(record, f"{path}, images")
            images[image.id] = image.file_name
        elif name == "categories":
            categories.append(_CATEGORY.read(record, f"{path}, categories").name)
        elif name == "annotations" and _has_caption(record):
            caption = _CAPTION.read(record, f"{path}, annotations")
            captions.setdefault(caption.image_id, []).append(caption.caption)
    if not images or not (captions or categories):
        raise DataError(f"{path} must be a COCO file with images, and captions or categories: one of them is missing.")
    unknown = captions.keys() - images.keys()
    if unknown:
        raise DataError(f"{path} has captions of image {min(unknown)}, which is not in its images.")
    for number, image_name in images.items():
        asked = captions.get(number, []) if captions else categories
        if asked:
            yield image_name, asked


def _has_caption(record: Any) -> bool:
    return isinstance(record, dict) and record.get("caption") is not None
