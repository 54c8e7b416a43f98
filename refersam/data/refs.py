"""Reader for the refs of RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO, Ref-ZOM and SceneRef.

Each benchmark has a list of refs (objects of an image with their sentences) and COCO's `instances.json`. The formats
differ in three ways:

- The list is a Python 2 pickle or JSON.
- `ann_id` is a number or a list.
- A phrase without target has `no_target: true` and `ann_id: [-1]` (gRefCOCO), or `source: "zero"` and `ann_id: []`
  (Ref-ZOM).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator

from refersam.data.coco import CocoAnnotation, CocoIndex, ImageFinder, read_instances, shared, size_problem
from refersam.data.findings import Finding, Severity
from refersam.data.index import DatasetIndex
from refersam.data.json_stream import iterate_json
from refersam.data.pickles import read_plain_pickle
from refersam.data.records import RecordType, as_list
from refersam.data.sample import ImageRecord, ReferringSample
from refersam.errors import DataError
from refersam.phrases import is_phrase

TextField: TypeAlias = Literal["sent", "raw"]
"""Text of a sentence to use as the phrase: "sent" (cleaned, lower case) or "raw" (as typed)."""

_NO_ANNOTATION = -1


@dataclass(slots=True)
class _SentenceRow:
    sent_id: int
    sent: str | None = None
    raw: str | None = None


@dataclass(slots=True)
class _RefRow:
    ref_id: int
    ann_id: Annotated[list[int], BeforeValidator(as_list)]
    image_id: int
    split: str
    sentences: list[_SentenceRow]
    no_target: bool | None = None
    source: str | None = None
    tags: tuple[str, ...] = ()


_REF = RecordType(_RefRow)


@dataclass(frozen=True, slots=True)
class Ref:
    """Objects of an image and their phrases.

    Attributes:
        ref_id: id of the ref.
        image_id: id of the image.
        split: name of the split.
        annotation_ids: annotation ids of the objects; empty without a target.
        sentences: (id, phrase) pairs; a phrase without a word is "".
        tags: labels of the phrases, with the phenomenon first.
        problem: contradiction in the record, as the end of a sentence; "" if there is none.
    """

    ref_id: int
    image_id: int
    split: str
    annotation_ids: tuple[int, ...]
    sentences: tuple[tuple[int, str], ...]
    tags: tuple[str, ...]
    problem: str = ""


def read_refs(path: Path, text_field: TextField = "sent") -> list[Ref]:
    """Read all refs of a pickle (`.p`) or JSON file.

    `text_field` selects the phrase; the other text replaces one without a word. Raises DataError for a missing file,
    unsafe data, or an invalid record.
    """
    return [
        _read_ref(_REF.read(record, f"{path}, entry {number}"), text_field, f"{path}, entry {number}")
        for number, record in enumerate(_records(path))
    ]


def _records(path: Path) -> Iterator[object]:
    if path.suffix == ".json":
        for name, record in iterate_json(path):
            if name:
                raise DataError(f"{path} should hold a list of refs, but is an object with {name!r}.")
            yield record
        return
    content = read_plain_pickle(path)
    if not isinstance(content, list):
        raise DataError(f"{path} should hold a list of refs, but holds a {type(content).__name__}.")
    yield from content


def _read_ref(row: _RefRow, text_field: TextField, where: str) -> Ref:
    targets = tuple(identifier for identifier in dict.fromkeys(row.ann_id) if identifier != _NO_ANNOTATION)
    no_target = row.source == "zero" if row.no_target is None else row.no_target
    problem = ""
    if no_target and targets:
        problem = "says that it has no target, but names annotations"
    elif not no_target and not targets:
        problem = "names no annotation, and does not say that it has no target"
    return Ref(
        ref_id=row.ref_id,
        image_id=row.image_id,
        split=shared(row.split),
        annotation_ids=targets,
        sentences=tuple((sentence.sent_id, _phrase(sentence, text_field, where)) for sentence in row.sentences),
        tags=tuple(map(shared, row.tags)),
        problem=problem,
    )


def _phrase(sentence: _SentenceRow, text_field: TextField, where: str) -> str:
    texts = {"sent": sentence.sent, "raw": sentence.raw}
    wanted = texts.pop(text_field)
    if wanted is None:
        raise DataError(f'{where}: sentence {sentence.sent_id} has no text "{text_field}".')
    return next((text.strip() for text in (wanted, *texts.values()) if text and is_phrase(text)), "")


def read_benchmark(
    name: str,
    split_by: str,
    refs_file: Path,
    instances_file: Path,
    finder: ImageFinder,
    splits: Collection[str] | None = None,
    text_field: TextField = "sent",
) -> DatasetIndex:
    """Read splits (None for all) of a benchmark from its refs and COCO instances; collect problems of entries.

    Raises DataError for an unreadable file or a missing split.
    """
    refs = read_refs(refs_file, text_field)
    counts = dict(Counter(ref.split for ref in refs))
    unknown = sorted(set(splits or ()) - counts.keys())
    if unknown:
        raise DataError(f"{name} has no split {unknown[0]!r}: {refs_file} has {', '.join(counts) or 'no refs at all'}.")
    chosen = [ref for ref in refs if splits is None or ref.split in splits]
    del refs
    coco = read_instances(instances_file, {number for ref in chosen for number in ref.annotation_ids})
    index = DatasetIndex(name, split_by, {split: [] for split in counts if splits is None or split in splits}, counts)
    index.findings.extend(coco.findings)
    _Builder(index, coco, refs_file, finder).add(chosen)
    return index


class _Builder:
    """Builder of samples from refs, images and annotations."""

    def __init__(self, index: DatasetIndex, coco: CocoIndex, refs_file: Path, finder: ImageFinder) -> None:
        self.index, self.coco, self.refs_file, self.finder = index, coco, refs_file, finder
        self.images: dict[int, ImageRecord] = {}
        self.sample_ids: Counter[int] = Counter()

    def add(self, refs: Iterable[Ref]) -> None:
        ref_ids: Counter[int] = Counter()
        if not self.finder.folders:
            places = " or ".join(map(str, self.finder.places[:2]))
            self._tell(Severity.ERROR, "missing images", f"There is no folder with images: {places} is expected.")
        for ref in refs:
            ref_ids[ref.ref_id] += 1
            if ref_ids[ref.ref_id] == 2:
                self._tell_of(ref, Severity.WARNING, "duplicate ref ids", "has the id of another ref")
            image = self._image(ref)
            targets = self._targets(ref)
            if image is not None and targets is not None:
                self._add_samples(ref, image, targets)

    def _image(self, ref: Ref) -> ImageRecord | None:
        if ref.image_id in self.images:
            return self.images[ref.image_id]
        entry = self.coco.images.get(ref.image_id)
        if entry is None:
            what = f"names image {ref.image_id}, which {self.coco.path} does not have"
            self._tell_of(ref, Severity.ERROR, "refs without image", what)
            return None
        path, is_there = self.finder.find(entry.file_name)
        if not is_there and self.finder.folders:
            self._tell(Severity.ERROR, "missing images", f"No such file: {path}.")
        record = ImageRecord(str(ref.image_id), path, entry.width, entry.height)
        self.images[ref.image_id] = record
        return record

    def _targets(self, ref: Ref) -> list[CocoAnnotation] | None:
        if ref.problem:
            self._tell_of(ref, Severity.ERROR, "contradictory refs", ref.problem)
            return None
        targets = []
        for identifier in ref.annotation_ids:
            target = self.coco.annotations.get(identifier)
            kind, what = "refs without annotation", ""
            if target is None:
                what = f"names annotation {identifier}, which {self.coco.path} does not have"
            elif target.image_id != ref.image_id:
                kind = "annotations of other images"
                what = f"is about image {ref.image_id}, but its annotation {identifier} about image {target.image_id}"
            elif target.region is None:
                kind, what = "bad masks", f"names annotation {identifier}, whose mask cannot be drawn: {target.problem}"
            elif ref.image_id in self.coco.images:
                entry = self.coco.images[ref.image_id]
                problem = size_problem(target.region, entry.width, entry.height)
                kind, what = "size mismatches", problem and f"names annotation {identifier}, which {problem}"
            if what:
                self._tell_of(ref, Severity.ERROR, kind, what)
                return None
            if target is not None:
                targets.append(target)
        return targets

    def _add_samples(self, ref: Ref, image: ImageRecord, targets: list[CocoAnnotation]) -> None:
        regions = tuple(target.region for target in targets if target.region is not None)
        category, distractors = self.coco.category(targets), self.coco.distractors(targets)
        for number, phrase in ref.sentences:
            if not phrase:
                self._tell_of(ref, Severity.WARNING, "empty phrases", f"has no word in sentence {number}; left out")
                continue
            self.sample_ids[number] += 1
            times = self.sample_ids[number]
            if times == 2:
                what = f"has sentence {number}, whose id another sentence has, too"
                self._tell_of(ref, Severity.WARNING, "duplicate sentence ids", what)
            self.index.samples[ref.split].append(
                ReferringSample(
                    sample_id=str(number) if times == 1 else f"{number}_{times}",
                    phrase=phrase,
                    image=image,
                    regions=regions,
                    tags=ref.tags,
                    category=category,
                    distractors=distractors,
                )
            )

    def _tell(self, severity: Severity, kind: str, message: str) -> None:
        self.index.findings.append(Finding(severity, kind, message))

    def _tell_of(self, ref: Ref, severity: Severity, kind: str, what: str) -> None:
        self._tell(severity, kind, f"{self.refs_file}: ref {ref.ref_id} ({ref.split}) {what}.")
