"""Custom data in JSON Lines: one phrase per line (docs/own_data.md)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from refersam.data.coco import CocoIndex, read_instances, size_problem
from refersam.data.findings import Finding, Severity
from refersam.data.index import DatasetIndex
from refersam.data.mask_files import MaskFile, MaskValue
from refersam.data.records import FileName, RecordType, as_list, as_text
from refersam.data.regions import Region, clean_region
from refersam.data.sample import ImageRecord, ReferringSample
from refersam.errors import DataError, ImageError, shown
from refersam.image import read_size
from refersam.phrases import is_phrase


class JsonlHead(BaseModel):
    """Optional first line with settings for the other lines.

    Attributes:
        instances: COCO `instances.json` for lines with `ann_ids`.
        images: base folder of image names.
        apply_exif_rotation: whether masks match the images after EXIF rotation; else the stored pixels.
    """

    model_config = ConfigDict(extra="forbid")

    instances: FileName | None = None
    images: FileName = "."
    apply_exif_rotation: bool = False


class JsonlLine(BaseModel):
    """A phrase, its image, and exactly one specification of its target.

    Attributes:
        image: image file; optional with `ann_ids`.
        phrase: text of the phrase.
        mask: mask file, see `MaskFile`.
        mask_value: stored value or colour [r, g, b] of the target in `mask`; None for the only value other than 0.
        rle: one or several COCO run-length encodings.
        polygons: polygons [x0, y0, x1, y1, ...] of one or several objects, in pixels.
        ann_ids: annotation ids in the head's `instances`.
        no_target: whether the phrase has no target in the image.
        id: identifier, unique in the file; by default the file name and line number.
        tags: labels of the phrase, for scores by tag.
        score: confidence of an automatic label, in [0, 1]; informative only.
    """

    model_config = ConfigDict(extra="forbid")

    phrase: str
    image: FileName | None = None
    mask: FileName | None = None
    mask_value: MaskValue | None = None
    rle: Annotated[list[dict[str, Any]], BeforeValidator(as_list), Field(min_length=1)] | None = None
    polygons: list[list[float]] | None = Field(default=None, min_length=1)
    ann_ids: list[int] | None = Field(default=None, min_length=1)
    no_target: bool | None = None
    id: Annotated[str, BeforeValidator(as_text)] | None = None
    tags: tuple[str, ...] = ()
    score: float | None = Field(default=None, ge=0, le=1)

    @field_validator("phrase")
    @classmethod
    def _is_phrase(cls, phrase: str) -> str:
        if not is_phrase(phrase):
            raise ValueError("it should have at least one word")
        return phrase.strip()

    @field_validator("mask_value", mode="before")
    @classmethod
    def _is_mask_value(cls, value: object) -> object:
        numbers, most = ([value], 2**32) if not isinstance(value, list) or len(value) != 3 else (value, 255)
        if not all(type(number) is int and 0 <= number <= most for number in numbers):
            raise ValueError(f"it should be a stored value such as 1, or a colour [255, 0, 0], but is {shown(value)}")
        return tuple(numbers) if len(numbers) == 3 else value

    def target(self) -> str:
        """Return the name of the field that specifies the target.

        Raises:
            DataError: no or several such fields are given, or `mask_value` without `mask`.
        """
        given = [name for name in ("mask", "rle", "polygons", "ann_ids") if getattr(self, name) is not None]
        given += ["no_target"] if self.no_target else []
        if len(given) != 1:
            raise DataError(
                'one of "mask", "rle", "polygons", "ann_ids" or "no_target": true is needed, but '
                + (f"{' and '.join(given)} are given." if given else "none is given.")
            )
        if self.mask_value is not None and self.mask is None:
            raise DataError('"mask_value" is a value of the file in "mask", but there is no "mask".')
        return given[0]


_HEAD, _LINE = RecordType(JsonlHead), RecordType(JsonlLine)


def read_jsonl(path: Path) -> DatasetIndex:
    """Read one file of custom data; problems of its lines are collected, not raised.

    Raises:
        DataError: the file is missing, or its head or `instances` is unreadable.
    """
    lines = list(_json_lines(path))
    head = JsonlHead()
    if lines and _is_head(lines[0][1]):
        try:
            head = _HEAD.read(lines.pop(0)[1], f"{path}, line 1")
        except DataError as error:
            raise DataError(f'{error} (It was read as the head: other lines have a "phrase".)') from error
    index = DatasetIndex("jsonl", samples={path.stem: []})
    parsed: list[tuple[int, JsonlLine]] = []
    for number, record in lines:
        try:
            if isinstance(record, DataError):
                raise record
            parsed.append((number, _LINE.read(record, f"{path}, line {number}")))
        except DataError as error:
            index.findings.append(Finding(Severity.ERROR, "bad lines", str(error)))
    coco = None
    if head.instances is not None:
        wanted = {identifier for _, line in parsed for identifier in line.ann_ids or ()}
        coco = read_instances(path.parent / head.instances, wanted)
        index.findings.extend(coco.findings)
    reader = _Reader(path, head, coco)
    for number, line in parsed:
        try:
            index.samples[path.stem].append(reader.sample(number, line))
        except (DataError, ImageError) as error:
            message = f"{path}, line {number}: {str(error).removesuffix('.')}."
            index.findings.append(Finding(Severity.ERROR, "bad lines", message))
    index.refs[path.stem] = len(lines)
    return index


def _is_head(record: object) -> bool:
    """Return whether a first line is a head: an object without any field of a line."""
    return isinstance(record, dict) and not record.keys() & JsonlLine.model_fields.keys()


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the number and content of each non-empty line; a DataError replaces invalid JSON."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    yield number, json.loads(line.decode("utf-8-sig"))
                except (ValueError, RecursionError) as error:
                    yield number, DataError(f"{path}, line {number} is not JSON: {error}.")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


class _Reader:
    """Converter from lines to samples; reads the size of each image once."""

    def __init__(self, path: Path, head: JsonlHead, coco: CocoIndex | None) -> None:
        self.path, self.coco = path, coco
        self.folder, self.image_folder = path.parent, path.parent / head.images
        self.upright = head.apply_exif_rotation
        self.images: dict[str, ImageRecord | ImageError] = {}
        self.lines_of_ids: dict[str, int] = {}

    def sample(self, number: int, line: JsonlLine) -> ReferringSample:
        """Return the sample of a line.

        Raises:
            DataError: the target is invalid.
            ImageError: the image is unreadable.
        """
        target = line.target()
        identifier = f"{self.path.stem}:{number}" if line.id is None else line.id
        first = self.lines_of_ids.setdefault(identifier, number)
        if first != number:
            raise DataError(f"the id {identifier!r} is that of line {first}, too.")
        if target == "ann_ids":
            return self._annotated(identifier, line)
        image = self._image(line.image)
        regions = self._regions(line, target, image)
        return ReferringSample(identifier, line.phrase, image, regions, line.tags)

    def _regions(self, line: JsonlLine, target: str, image: ImageRecord) -> tuple[Region, ...]:
        if target == "mask":
            path = self.folder / str(line.mask)
            size = read_size(path)
            if size != (image.width, image.height):
                raise DataError(
                    f"{path} has {size[0]} x {size[1]} pixels, but its image {image.width} x {image.height}."
                )
            return (MaskFile(path, line.mask_value),)
        if target == "no_target":
            return ()
        regions = []
        for row in [line.polygons] if target == "polygons" else line.rle or ():
            region, dropped = clean_region(row)
            if dropped:
                raise DataError(
                    f"{dropped} of the polygons have fewer than 6 coordinates, an odd count, or no finite one."
                )
            self._check_size(region, image)
            regions.append(region)
        return tuple(regions)

    def _annotated(self, identifier: str, line: JsonlLine) -> ReferringSample:
        if self.coco is None:
            raise DataError('"ann_ids" need a first line {"instances": "instances.json"} in the file.')
        targets = []
        for number in dict.fromkeys(line.ann_ids or ()):
            if number not in self.coco.annotations:
                raise DataError(f"annotation {number} is not in {self.coco.path}.")
            targets.append(self.coco.annotations[number])
        image_ids = {target.image_id for target in targets}
        if len(image_ids) != 1:
            raise DataError("the annotations are of different images.")
        entry = self.coco.images.get(targets[0].image_id)
        if entry is None:
            raise DataError(f"image {targets[0].image_id} of the annotations is not in {self.coco.path}.")
        if line.image is not None and Path(line.image).name != Path(entry.file_name).name:
            raise DataError(f"the annotations are of {entry.file_name}, not of {line.image}.")
        image = self._image(line.image or entry.file_name)
        regions = []
        for target in targets:
            if target.region is None:
                raise DataError(f"an annotation's mask cannot be drawn: {target.problem}.")
            self._check_size(target.region, image)
            regions.append(target.region)
        return ReferringSample(
            identifier,
            line.phrase,
            image,
            tuple(regions),
            line.tags,
            self.coco.category(targets),
            self.coco.distractors(targets),
        )

    def _image(self, name: str | None) -> ImageRecord:
        if name is None:
            raise DataError('"image" is missing.')
        if name not in self.images:
            path = self.image_folder / name
            try:
                size = read_size(path, apply_exif_rotation=self.upright)
                self.images[name] = ImageRecord(os.path.relpath(path, self.folder), path, *size, self.upright)
            except ImageError as error:
                self.images[name] = error
        image = self.images[name]
        if isinstance(image, ImageError):
            raise image
        return image

    @staticmethod
    def _check_size(region: Region, image: ImageRecord) -> None:
        problem = size_problem(region, image.width, image.height)
        if problem:
            raise DataError(f"the target {problem}.")
