"""Validation of a whole data set before use."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from refersam.data import parquet
from refersam.data.datasets import BENCHMARKS, read_dataset
from refersam.data.findings import Finding, Severity
from refersam.data.index import DatasetIndex, group_by_image
from refersam.data.sample import ReferringSample
from refersam.errors import DataError, ImageError, shown
from refersam.workers import leave_signals_to_parent

_FEW = 64
"""Number of images up to which no worker processes are started."""


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """Counts of a split and its published counts; "all splits" stands for the sum over the splits.

    Attributes:
        split: name of the split.
        refs: number of refs; None for data without refs.
        images: number of images.
        expressions: number of phrases.
        published: published (refs, images, phrases); None where not published.
    """

    split: str
    refs: int | None
    images: int
    expressions: int
    published: tuple[int | None, int | None, int | None] = (None, None, None)


@dataclass(slots=True)
class DatasetReport:
    """Result of `check_dataset`: counts of each split, and findings with errors first.

    `split_by` is empty for a data set with one partition.
    """

    name: str
    split_by: str
    counts: list[SplitCounts]
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether no finding is worse than a note."""
        return all(finding.severity is Severity.NOTE for finding in self.findings)


def check_dataset(
    data_root: Path,
    dataset: str,
    split_by: str | None = None,
    *,
    decode: bool = True,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> DatasetReport:
    """Read and compare all splits; decode every image and mask in `workers` processes unless `decode` is False.

    `data_root`, `dataset` and `split_by` are those of `open_dataset`. `progress` receives the number of decoded images
    and the total. Raises DataError for an unknown data set or an unreadable file.
    """
    index = read_dataset(data_root, dataset, None, split_by)
    report = DatasetReport(dataset, index.split_by, count_splits(index))
    findings = [*index.findings, *_count_findings(report), *_overlap_findings(index), *_empty_findings(index)]
    if decode:
        samples = [sample for split in index.samples.values() for sample in split]
        groups = [group for group in group_by_image(samples) if group[0].image.path.is_file()]
        for done, found in enumerate(check_images(groups, workers), 1):
            findings.extend(found)
            if progress is not None:
                progress(done, len(groups))
    report.findings = sorted(findings, key=lambda finding: (-finding.severity, finding.kind))
    return report


def count_splits(index: DatasetIndex) -> list[SplitCounts]:
    """Return the counts of each split with the published counts."""
    benchmark = BENCHMARKS.get(index.name)
    published = ((benchmark.counts if benchmark else None) or {}).get(index.split_by, {})
    published = parquet.COUNTS if index.name == parquet.NAME else published
    counts = [
        SplitCounts(
            split,
            index.refs.get(split),
            len({sample.image.image_id for sample in samples}),
            len(samples),
            published.get(split, (None, None, None)),
        )
        for split, samples in index.samples.items()
    ]
    if "all splits" in published:
        images = {sample.image.image_id for samples in index.samples.values() for sample in samples}
        total = sum(split.expressions for split in counts)
        counts.append(SplitCounts("all splits", sum(index.refs.values()), len(images), total, published["all splits"]))
    return counts


def _count_findings(report: DatasetReport) -> Iterator[Finding]:
    for split in report.counts:
        here = (split.refs, split.images, split.expressions)
        names = ("refs", "images", "expressions")
        others = [
            f"{number} {name} (published: {published})"
            for number, published, name in zip(here, split.published, names, strict=True)
            if published not in (None, number)
        ]
        if others:
            yield Finding(Severity.NOTE, "counts", f"Split {split.split} has {', '.join(others)}.")


def _empty_findings(index: DatasetIndex) -> Iterator[Finding]:
    for split, samples in index.samples.items():
        if not samples:
            yield Finding(Severity.ERROR, "empty", f"Split {split} has no phrase.")
    if not index.samples:
        yield Finding(Severity.ERROR, "empty", f"{index.name} has no split.")


def _overlap_findings(index: DatasetIndex) -> Iterator[Finding]:
    names = {
        split: {sample.image.image_id: sample.image.path for sample in samples}
        for split, samples in index.samples.items()
    }
    is_known = index.split_by == "google"
    for one, other in combinations(names, 2):
        both = sorted(str(names[one][image_id]) for image_id in names[one].keys() & names[other].keys())
        if both:
            severity = Severity.NOTE if is_known else Severity.WARNING
            which = "this partition is of objects, not of images" if is_known else ", ".join(both)
            yield Finding(
                severity, "shared images", f"Images of {one} that are in {other}, too: {len(both)} ({which})."
            )


def check_images(groups: Sequence[tuple[ReferringSample, ...]], workers: int) -> Iterator[list[Finding]]:
    """Yield the findings of `check_image` for each group; use processes only for more than `_FEW` groups."""
    if workers <= 1 or len(groups) <= _FEW:
        yield from map(check_image, groups)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads of the progress bar
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=leave_signals_to_parent)
    try:
        yield from pool.map(check_image, groups, chunksize=8)
    except BrokenProcessPool as error:
        raise DataError(
            "A worker process was killed, possibly for lack of memory: use --workers 1, which needs less."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def check_image(samples: tuple[ReferringSample, ...]) -> list[Finding]:
    """Decode an image and the masks of all its samples (at least one); return the problems found."""
    findings = []
    try:
        samples[0].image.load()
    except ImageError as error:
        findings.append(Finding(Severity.ERROR, "broken images", str(error)))
    except DataError as error:
        findings.append(Finding(Severity.ERROR, "size mismatches", str(error)))
    seen: set[int] = set()
    for sample in samples:
        if id(sample.regions) in seen or not sample.has_target:
            continue
        seen.add(id(sample.regions))
        what = f"{sample.image.path}, phrase {sample.sample_id} ({shown(sample.phrase)})"
        try:
            if not sample.load_mask().any():
                findings.append(Finding(Severity.WARNING, "empty masks", f"{what}: no pixel belongs to its mask."))
        except (DataError, ImageError) as error:
            findings.append(Finding(Severity.ERROR, "bad masks", f"{what}: {error}"))
    return findings
