"""Sources of the benchmarks, and arrangement of their downloaded files. This module downloads nothing."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from refersam.data.coco import read_instances
from refersam.data.datasets import BENCHMARKS, INSTANCES_FILE
from refersam.data.pickles import check_pickle_size, plain_pickle_from_bytes
from refersam.data.refs import read_refs
from refersam.errors import DataError
from refersam.files import write_atomically

_ARCHIVE = "https://web.archive.org/web/{}/https://bvisionweb1.cs.unc.edu/licheng/referit/data/{}.zip"
_TRAIN_IMAGES = "http://images.cocodataset.org/zips/train2014.zip (13 GB)"
_VAL_IMAGES = "http://images.cocodataset.org/zips/val2014.zip (6 GB)"

_IMAGE = re.compile(r"COCO_(train|val)2014_\d{12}\.jpg")
MAX_INDEX_BYTES, MAX_IMAGE_BYTES, MAX_FILES = 2**32, 2**26, 500_000
"""Limits above the size of any benchmark, against archives made to fill a disk."""


@dataclass(frozen=True, slots=True)
class Source:
    """Download sources of a benchmark.

    Attributes:
        page: web page of the authors.
        annotations: archives of annotations.
        images: archives of images.
        image_folders: target folders of the images below the data root.
    """

    page: str
    annotations: tuple[str, ...]
    images: tuple[str, ...] = (_TRAIN_IMAGES,)
    image_folders: tuple[str, ...] = ("images/train2014",)


def _unc(name: str, time: str) -> Source:
    archive = _ARCHIVE.format(time, name)
    server_is_gone = f"{archive} (archived copy: the authors' server is offline)"
    return Source("https://github.com/lichengunc/refer", (server_is_gone,))


SOURCES: dict[str, Source] = {
    "refcoco": _unc("refcoco", "20220413011718"),
    "refcoco+": _unc("refcoco+", "20220413011656"),
    "refcocog": _unc("refcocog", "20220413012904"),
    "grefcoco": Source(
        "https://github.com/henghuiding/gRefCOCO", ("grefs(unc).json and instances.json, linked from that page",)
    ),
    "refzom": Source(
        "https://github.com/toggle1995/RIS-DMMI",
        ("Ref-ZOM(final).p and instances.json, linked from that page",),
        (_TRAIN_IMAGES, _VAL_IMAGES),
        ("images/train2014", "images/val2014"),
    ),
}


def missing_files(root: Path, dataset: str) -> list[Path]:
    """Return the missing files and image folders of a benchmark in `SOURCES` below `root`."""
    benchmark, source = BENCHMARKS[dataset], SOURCES[dataset]
    refs = _refs_names(dataset)
    places = [  # the default first, then the alternatives that the reader accepts
        [f"{folder}/{name}" for folder in benchmark.folders for name in refs],
        [f"{folder}/{INSTANCES_FILE}" for folder in benchmark.folders],
        *(
            [image_folder, *(name for name in benchmark.image_folders if name.endswith(image_folder.split("/")[-1]))]
            for image_folder in source.image_folders
        ),
    ]
    return [root / names[0] for names in places if not any((root / name).exists() for name in names)]


@dataclass(frozen=True)
class Item:
    """Usable file in a folder or archive.

    Attributes:
        label: path for messages.
        target: path below the data root.
        size: declared size in bytes.
        open: function that opens the file for reading.
    """

    label: str
    target: PurePosixPath
    size: int
    open: Callable[[], IO[bytes]]


def find_items(folder: Path, dataset: str | None = None) -> list[Item]:
    """Find benchmark files in a download folder, in archives and unpacked, two levels deep.

    Only known file names are used, and paths in an archive never determine the target path. `dataset` restricts the
    search to one benchmark, which then also owns files with ambiguous names. Raises DataError for a missing folder, a
    broken or suspicious archive, or two different files with one target path.
    """
    if not folder.is_dir():
        raise DataError(f"No such folder: {folder}.")
    items: dict[PurePosixPath, Item] = {}
    for item in _all_items(folder, dataset):
        other = items.setdefault(item.target, item)
        if other.size != item.size:
            raise DataError(f"{other.label} and {item.label} differ, and both would be {item.target}: remove one.")
        if len(items) > MAX_FILES:
            raise DataError(f"{folder} holds more than {MAX_FILES:,} images: no benchmark has so many.")
    return list(items.values())


def lay_out(items: Iterable[Item], root: Path, progress: Callable[[int], None] | None = None) -> tuple[int, int]:
    """Copy items below the data root, each atomically; existing files stay.

    Returns the number of files written and of existing files. `progress` receives the number of items written. Raises
    DataError for a different file at an item's target path, a full disk, or a broken item; written files stay.
    """
    items = list(items)
    missing = []
    for item in items:
        path = root / item.target
        if not path.exists():
            missing.append(item)
        elif not path.is_file() or path.stat().st_size != item.size:
            raise DataError(f"{path} is there already, but is not {item.label}: remove one of them.")
    root.mkdir(parents=True, exist_ok=True)
    needed, free = sum(item.size for item in missing), shutil.disk_usage(root).free
    if needed > free:
        raise DataError(f"{needed >> 20:,} MB are needed in {root}, but only {free >> 20:,} MB are free.")
    for done, item in enumerate(missing, 1):
        _copy(item, root / item.target)
        if progress is not None:
            progress(done)
    return len(missing), len(items) - len(missing)


def verify_index(root: Path, dataset: str) -> int:
    """Read the existing refs and instances of a benchmark; return the number of refs.

    Raises:
        DataError: a file is unreadable.
    """
    benchmark, count = BENCHMARKS[dataset], 0
    for folder in benchmark.folders:
        for name in _refs_names(dataset):
            if (root / folder / name).is_file():
                count += len(read_refs(root / folder / name))
        if (root / folder / INSTANCES_FILE).is_file():
            read_instances(root / folder / INSTANCES_FILE, ())
    return count


def _refs_names(dataset: str) -> list[str]:
    benchmark = BENCHMARKS[dataset]
    return [name.format(split_by) for name in benchmark.refs_files for split_by in benchmark.split_bys]


def _dataset_of(name: str, parent: str, beside: set[str], dataset: str | None) -> str | None:
    """Return the benchmark of a refs or instances file, by its folder, its name, or the refs in the same folder."""
    if name != INSTANCES_FILE and not any(name in _refs_names(known) for known in SOURCES):
        return None
    for known in SOURCES:
        if parent.lower() in (folder.lower() for folder in BENCHMARKS[known].folders):
            return known
    names = beside if name == INSTANCES_FILE else {name}
    owners = {known: names & set(_refs_names(known)) for known in SOURCES}
    candidates = [known for known, owned in owners.items() if owned]
    if len(candidates) == 1:
        return candidates[0]
    return dataset if dataset in candidates or not candidates else None


def _target(name: str, parent: str, beside: set[str], dataset: str | None) -> PurePosixPath | None:
    image = _IMAGE.fullmatch(name)
    if image:
        return PurePosixPath("images", f"{image[1]}2014", name)
    owner = _dataset_of(name, parent, beside, dataset)
    if owner is None or dataset not in (None, owner):
        return None
    return PurePosixPath(BENCHMARKS[owner].folders[0], name)


def _all_items(folder: Path, dataset: str | None) -> Iterator[Item]:
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        files = sorted(path for path in place.iterdir() if path.is_file())
        beside = {path.name for path in files}
        for path in files:
            if path.suffix.lower() == ".zip":
                yield from _zip_items(path, dataset)
                continue
            target = _target(path.name, place.name, beside, dataset)
            if target is not None:
                yield _checked(Item(str(path), target, path.stat().st_size, lambda path=path: path.open("rb")))  # type: ignore[misc]


def _zip_items(path: Path, dataset: str | None) -> Iterator[Item]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise DataError(f"{path} is not a zip archive that can be read: {error}. Download it again.") from error
    members = [(PurePosixPath(info.filename.replace("\\", "/")), info) for info in archive.infolist()]
    folders: dict[PurePosixPath, set[str]] = {}
    for name, _ in members:
        folders.setdefault(name.parent, set()).add(name.name)
    for name, info in members:
        if info.is_dir():
            continue
        target = _target(name.name, name.parent.name or path.stem, folders[name.parent], dataset)
        if target is None:
            continue
        if info.flag_bits & 1:
            raise DataError(f"{path} is encrypted: unpack it first.")
        label = f"{path} ({info.filename})"
        yield _checked(Item(label, target, info.file_size, lambda info=info: archive.open(info)))  # type: ignore[misc]


def _checked(item: Item) -> Item:
    limit = MAX_IMAGE_BYTES if item.target.suffix == ".jpg" else MAX_INDEX_BYTES
    if item.size > limit:
        raise DataError(f"{item.label} has {item.size:,} bytes, more than the {limit:,} that such a file may have.")
    return item


def _copy(item: Item, path: Path) -> None:
    def write(file: IO[bytes]) -> None:
        with item.open() as source:
            if path.suffix == ".p":
                check_pickle_size(item.size, item.label)
                content = source.read(item.size + 1)
                plain_pickle_from_bytes(content, item.label)
                file.write(content)
            else:
                while chunk := source.read(1 << 20):
                    file.write(chunk)
                    if file.tell() > item.size:
                        break
        if file.tell() != item.size:
            raise DataError(f"{item.label} is not as long as it says: download it again.")

    try:
        write_atomically(path, write)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{item.label} is broken: {error}. Download it again.") from error
    except Exception as error:
        if type(error).__module__ in ("zlib", "lzma", "_lzma", "bz2"):  # zlib.error etc. have no common base class
            raise DataError(f"{item.label} is broken: {error}. Download it again.") from error
        raise
