"""Reader for COCO's `instances.json`, and search for its image files."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import PositiveInt

from refersam.data.findings import Finding, Severity
from refersam.data.json_stream import iterate_json
from refersam.data.records import FileName, RecordType
from refersam.data.regions import Region, clean_region
from refersam.errors import DataError
from refersam.image import MAX_PIXELS


@dataclass(slots=True)
class _ImageRow:
    id: int
    file_name: FileName
    width: PositiveInt
    height: PositiveInt


@dataclass(slots=True)
class _AnnotationRow:
    id: int
    image_id: int
    category_id: int | None = None
    iscrowd: int = 0
    segmentation: Any = None


@dataclass(slots=True)
class _CategoryRow:
    id: int
    name: str


_IMAGE, _ANNOTATION, _CATEGORY = RecordType(_ImageRow), RecordType(_AnnotationRow), RecordType(_CategoryRow)


@dataclass(frozen=True, slots=True)
class CocoImage:
    """Entry of an image; `width` and `height` in stored pixels."""

    file_name: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class CocoAnnotation:
    """Entry of an object; `region` is None if no valid mask exists, and `problem` is the reason."""

    image_id: int
    category_id: int | None
    is_crowd: bool
    region: Region | None
    problem: str = ""


@dataclass(slots=True)
class CocoIndex:
    """Content of an `instances.json`.

    Attributes:
        path: the file.
        images: all images by id.
        annotations: the requested annotations by id.
        categories: category names by id.
        objects: number of annotated objects without crowds, by (image id, category id).
        findings: problems in the file.
    """

    path: Path
    images: dict[int, CocoImage] = field(default_factory=dict)
    annotations: dict[int, CocoAnnotation] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)
    objects: Counter[tuple[int, int | None]] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def distractors(self, targets: Sequence[CocoAnnotation]) -> int | None:
        """Count the other annotated objects of the targets' categories; return None without a target or category."""
        if not targets or any(target.category_id is None for target in targets):
            return None
        kinds = {(target.image_id, target.category_id) for target in targets}
        return sum(self.objects[kind] for kind in kinds) - sum(not target.is_crowd for target in targets)

    def category(self, targets: Sequence[CocoAnnotation]) -> str | None:
        """Return the name of the category that all targets share; None if there are several or none."""
        ids = {target.category_id for target in targets}
        (only,) = ids if len(ids) == 1 else (None,)
        return None if only is None else self.categories.get(only)


def read_instances(path: Path, wanted: Container[int]) -> CocoIndex:
    """Read an `instances.json` one record at a time; keep only the annotations whose ids are in `wanted`.

    Raises DataError for a missing file, invalid JSON, or a record that does not follow COCO's format.
    """
    index = CocoIndex(path)
    counts: Counter[str] = Counter()
    for name, record in iterate_json(path):
        if record is None:  # a list that is null
            continue
        where = f"{path}, {name}, entry {counts[name]}"
        counts[name] += 1
        if name == "images":
            _add_image(index, record, where)
        elif name == "annotations":
            _add_annotation(index, record, wanted, where)
        elif name == "categories":
            category = _CATEGORY.read(record, where)
            index.categories[category.id] = category.name
    missing = [name for name in ("images", "annotations") if not counts[name]]
    if missing:
        raise DataError(f'{path} is not a COCO instances file: it has no entries in "{missing[0]}".')
    strays = {image_id for image_id, _ in index.objects if image_id not in index.images}
    if strays:
        message = f"{path}: {len(strays)} image ids of annotations are not in its list of images: {_listed(strays)}."
        index.findings.append(Finding(Severity.NOTE, "annotations without image", message))
    return index


def _add_image(index: CocoIndex, record: object, where: str) -> None:
    image = _IMAGE.read(record, where)
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{where}: {image.width} x {image.height} pixels are more than the limit of {MAX_PIXELS:,}.")
    if image.id in index.images:
        message = f"{where}: the image id {image.id} was used before."
        index.findings.append(Finding(Severity.ERROR, "duplicate image ids", message))
    index.images[image.id] = CocoImage(image.file_name, image.width, image.height)


def _add_annotation(index: CocoIndex, record: object, wanted: Container[int], where: str) -> None:
    row = _ANNOTATION.read(record, where)
    if not row.iscrowd:
        index.objects[row.image_id, row.category_id] += 1
    if row.id not in wanted:
        return
    if row.id in index.annotations:
        message = f"{where}: the annotation id {row.id} was used before."
        index.findings.append(Finding(Severity.ERROR, "duplicate annotation ids", message))
    region, problem = None, ""
    try:
        region, dropped = clean_region(row.segmentation)
        if dropped:
            message = (
                f"{index.path}: {dropped} of {len(row.segmentation)} polygons of annotation {row.id} left out: fewer "
                "than 6 coordinates, an odd count, or no finite numbers."
            )
            index.findings.append(Finding(Severity.NOTE, "bad polygons", message))
    except DataError as error:
        problem = str(error)
    if row.iscrowd and isinstance(region, Mapping):
        region = {**region, "iscrowd": 1}  # some protocols leave crowds out of the target
    index.annotations[row.id] = CocoAnnotation(row.image_id, row.category_id, bool(row.iscrowd), region, problem)


def size_problem(region: Region, width: int, height: int) -> str:
    """Return why a region does not match an image of width x height pixels, as the end of a sentence; "" if it does."""
    if isinstance(region, Mapping) and tuple(region["size"]) != (height, width):
        return f"has a mask of {region['size'][1]} x {region['size'][0]} pixels, but its image {width} x {height}"
    return ""


class ImageFinder:
    """Search for image files in the usual image folders of the benchmarks.

    Folders whose name is part of the file name are searched first.

    Args:
        root: data root.
        folders: possible image folders, relative to `root`.
    """

    def __init__(self, root: Path, folders: Sequence[str]) -> None:
        self.places = [root / folder for folder in folders]
        self.folders = [place for place in self.places if place.is_dir()]

    def find(self, name: str) -> tuple[Path, bool]:
        """Return the actual or expected path of an image, and whether it exists.

        Raises:
            DataError: the path is outside the image folder.
        """
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f"{name!r} is not an image's name: it leads out of the folder of the images.")
        ordered = sorted(self.folders, key=lambda folder: folder.name not in name)
        for folder in ordered:
            path = folder / name
            if path.is_file():
                return path, True
        return (ordered or self.places)[0] / name, False


def _listed(ids: set[int], most: int = 10) -> str:
    more = f" and {len(ids) - most} more" if len(ids) > most else ""
    return ", ".join(map(str, sorted(ids)[:most])) + more


def shared(text: str) -> str:
    """Intern a string that many records repeat, to save memory."""
    return sys.intern(text)
