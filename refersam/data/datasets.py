"""Entry point for data: `open_dataset` reads a split of a benchmark or of custom data."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from refersam.data import parquet
from refersam.data.coco import ImageFinder
from refersam.data.findings import Finding, Severity, raise_errors
from refersam.data.index import DatasetIndex, ReferringDataset
from refersam.data.jsonl import read_jsonl
from refersam.data.refs import TextField, read_benchmark
from refersam.data.sample import ImageRecord
from refersam.errors import DataError, UsageError, counted

logger = logging.getLogger(__name__)

INSTANCES_FILE = "instances.json"
_TRAIN_FOLDERS = ("images/train2014", "train2014", "images/mscoco/images/train2014")
_BOTH_FOLDERS = (*_TRAIN_FOLDERS, "images/val2014", "val2014", "images/trainval2014", "trainval2014")


@dataclass(frozen=True)
class Benchmark:
    """Files of a benchmark and its published counts.

    Attributes:
        title: official name.
        folders, refs_files, image_folders: possible paths below the data root; {} is the partition.
        split_bys: partitions, the default first.
        counts: (refs, images, phrases) by partition and split; None where not published.
    """

    title: str
    folders: tuple[str, ...]
    refs_files: tuple[str, ...] = ("refs({}).p",)
    split_bys: tuple[str, ...] = ("unc",)
    image_folders: tuple[str, ...] = _TRAIN_FOLDERS
    counts: dict[str, dict[str, tuple[int | None, int | None, int | None]]] | None = None

    def find(self, root: Path, split_by: str) -> tuple[Path, Path]:
        """Return the paths of the refs file and its `instances.json`; raise DataError if the refs file is missing."""
        names = [name.format(split_by) for name in self.refs_files]
        for folder in self.folders:
            for name in names:
                path = root / folder / name
                if path.is_file():
                    return path, path.with_name(INSTANCES_FILE)
        raise DataError(
            f"{self.title} is not in {root}: {root / self.folders[0] / names[0]} is expected, with {INSTANCES_FILE} "
            "beside it. `refersam data prepare` prints the sources."
        )


BENCHMARKS: dict[str, Benchmark] = {
    "refcoco": Benchmark(
        "RefCOCO",
        ("refcoco",),
        split_bys=("unc", "google"),
        counts={
            "unc": {
                "train": (42404, 16994, 120624),
                "val": (3811, 1500, 10834),
                "testA": (1975, 750, 5657),
                "testB": (1810, 750, 5095),
            }
        },
    ),
    "refcoco+": Benchmark(
        "RefCOCO+",
        ("refcoco+",),
        counts={
            "unc": {
                "train": (42278, 16992, 120191),
                "val": (3805, 1500, 10758),
                "testA": (1975, 750, 5726),
                "testB": (1798, 750, 4889),
            }
        },
    ),
    "refcocog": Benchmark(
        "RefCOCOg",
        ("refcocog",),
        split_bys=("umd", "google"),
        counts={
            "umd": {"train": (42226, 21899, 80512), "val": (2573, 1300, 4896), "test": (5023, 2600, 9602)},
            "google": {"train": (44822, 24698, 85474), "val": (5000, 4650, 9536)},
        },
    ),
    "grefcoco": Benchmark(
        "gRefCOCO",
        ("grefcoco",),
        refs_files=("grefs({}).json", "grefs({}).p"),
        counts={"unc": {"all splits": (None, None, 278232)}},
    ),
    "refzom": Benchmark(
        "Ref-ZOM",
        ("refzom", "ref-zom", "Ref-ZOM"),
        refs_files=("refs({}).p", "Ref-ZOM({}).p"),
        split_bys=("final",),
        image_folders=_BOTH_FOLDERS,
    ),
    "sceneref": Benchmark("SceneRef", ("sceneref",), refs_files=("grefs({}).json",), image_folders=("images/scenes",)),
}
"""Benchmarks by their name in `open_dataset`."""

_NO_SPLITS = {"results", "failures"}
"""Output files of `refersam segment-many`, which are not splits of custom data."""

MIXED_PARTS = ("refcoco", "refcoco+", "refcocog")
DATASETS = (*BENCHMARKS, parquet.NAME, "mixed", "jsonl")
"""Valid data set names of `open_dataset`."""


def open_dataset(
    data_root: str | Path,
    dataset: str,
    split: str,
    split_by: str | None = None,
    *,
    text_field: TextField = "sent",
) -> ReferringDataset:
    """Read the phrases and masks of a split; images are decoded on use.

    Args:
        data_root: folder with the data set's folder and `images/` (docs/own_data.md for "jsonl").
        dataset: one of refcoco, refcoco+, refcocog, grefcoco, refzom, sceneref; refcoco-m (evaluation only); mixed (the
            training splits of the first three without images of their other splits); jsonl (custom data in
            DATA_ROOT/SPLIT.jsonl).
        split: full name of the split.
        split_by: published partition; None for the default: unc, umd for refcocog, final for refzom.
        text_field: text of the benchmarks' sentences to use: "sent" (cleaned) or "raw" (as typed).

    Raises:
        UsageError: the data set, partition or text field is unknown.
        DataError: the split is missing or has errors; the message counts all of them.
    """
    index = read_dataset(data_root, dataset, (split,), split_by, text_field=text_field)
    what = f"{dataset} ({index.split_by}), split {split}," if index.split_by else f"{dataset}, split {split},"
    raise_errors(index.findings, what, f"All of them: refersam data check --data-root {data_root} --dataset {dataset}.")
    for finding in index.findings:
        logger.log(logging.WARNING if finding.severity is Severity.WARNING else logging.INFO, finding.message)
    if not index.samples[split]:
        raise DataError(f"{what} has no phrase.")
    return ReferringDataset(dataset, split, index.split_by, index.samples[split], index.findings)


def read_dataset(
    data_root: str | Path,
    dataset: str,
    splits: Collection[str] | None = None,
    split_by: str | None = None,
    *,
    text_field: TextField = "sent",
) -> DatasetIndex:
    """Read several splits (None for all) like `open_dataset`, but collect problems instead of raising them.

    Raises UsageError for an unknown data set, partition or text field, and DataError for a missing split or an
    unreadable file.
    """
    root = Path(data_root)
    if dataset not in DATASETS:
        raise UsageError(f"Unknown data set {dataset!r}: choose one of {', '.join(DATASETS)}.")
    if not root.is_dir():
        raise DataError(f"No such folder: {root} should hold the data sets.")
    if text_field not in ("sent", "raw"):
        raise UsageError(f'The text field must be "sent" or "raw", but is {text_field!r}.')
    if dataset not in BENCHMARKS:
        if split_by is not None:
            raise UsageError(f"{dataset} has no partitions: leave out {split_by!r}.")
        if dataset == parquet.NAME:
            return parquet.read_refcoco_m(root, splits)
        return _read_own(root, splits) if dataset == "jsonl" else _read_mixed(root, splits, text_field)
    benchmark = BENCHMARKS[dataset]
    split_by = benchmark.split_bys[0] if split_by is None else split_by
    if split_by not in benchmark.split_bys:
        raise UsageError(f"{dataset} has no partition {split_by!r}: choose one of {', '.join(benchmark.split_bys)}.")
    refs_file, instances_file = benchmark.find(root, split_by)
    finder = ImageFinder(root, benchmark.image_folders)
    return read_benchmark(dataset, split_by, refs_file, instances_file, finder, splits, text_field)


def _read_own(root: Path, splits: Collection[str] | None) -> DatasetIndex:
    there = sorted({path.stem for path in root.glob("*.jsonl")} - (_NO_SPLITS - set(splits or ())))
    unknown = sorted(set(splits or ()) - set(there))
    if unknown or not there:
        name = unknown[0] if unknown else "train"
        has = f"the folder has {', '.join(there)}" if there else "the folder has no .jsonl file"
        raise DataError(f"No such file: {root / name}.jsonl ({has}).")
    index = DatasetIndex("jsonl")
    for split in splits or there:
        part = read_jsonl(root / f"{split}.jsonl")
        index.samples |= part.samples
        index.refs |= part.refs
        index.findings += part.findings
    return index


def _read_mixed(root: Path, splits: Collection[str] | None, text_field: TextField) -> DatasetIndex:
    if splits is not None and set(splits) != {"train"}:
        raise UsageError(f"mixed has the split train only, not {', '.join(splits)}: test on its parts.")
    index = DatasetIndex("mixed", samples={"train": []})
    parts = {name: read_dataset(root, name, text_field=text_field) for name in MIXED_PARTS}
    held_out = {
        sample.image.image_id
        for part in parts.values()
        for split, samples in part.samples.items()
        if split != "train"
        for sample in samples
    }
    images: dict[str, ImageRecord] = {}
    left_out: set[str] = set()
    for name, part in parts.items():
        index.findings += part.findings
        for sample in part.samples.get("train", ()):
            if sample.image.image_id in held_out:
                left_out.add(sample.image.image_id)
            else:
                image = images.setdefault(sample.image.image_id, sample.image)  # one shared record per image
                unique = f"{name}:{sample.sample_id}"
                index.samples["train"].append(replace(sample, sample_id=unique, image=image))
    count = counted(len(left_out), "image")
    message = f"Left out of the training splits: {count} of a val or test split of the three."
    index.findings.append(Finding(Severity.NOTE, "images held out", message))
    return index
