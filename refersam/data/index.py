"""Data set in memory: samples by split, and problems found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import overload

from refersam.data.findings import Finding
from refersam.data.sample import ReferringSample


@dataclass(slots=True)
class DatasetIndex:
    """Content of a data set.

    Attributes:
        name: name of the data set.
        split_by: partition; empty for a data set with one partition.
        samples: samples of the splits that were read.
        refs: number of refs (objects with all their phrases) of every split.
        findings: all problems found.
    """

    name: str
    split_by: str = ""
    samples: dict[str, list[ReferringSample]] = field(default_factory=dict)
    refs: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


class ReferringDataset(Sequence[ReferringSample]):
    """Samples of one split in file order; only `load` and `load_mask` decode images and masks.

    `findings` are the problems that do not prevent use.
    """

    def __init__(
        self,
        name: str,
        split: str,
        split_by: str,
        samples: Sequence[ReferringSample],
        findings: Sequence[Finding] = (),
    ) -> None:
        self.name, self.split, self.split_by = name, split, split_by
        self.findings = tuple(findings)
        self._samples = list(samples)

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> ReferringSample: ...

    @overload
    def __getitem__(self, index: slice) -> list[ReferringSample]: ...

    def __getitem__(self, index: int | slice) -> ReferringSample | list[ReferringSample]:
        return self._samples[index]

    def __repr__(self) -> str:
        kind = f"{self.name} ({self.split_by})" if self.split_by else self.name
        return f"<ReferringDataset {kind}, {self.split}: {len(self)} samples>"

    def images(self) -> list[tuple[ReferringSample, ...]]:
        """Group the samples by image, in order of first appearance, for `ReferringImage.load`."""
        return group_by_image(self._samples)


def group_by_image(samples: Sequence[ReferringSample]) -> list[tuple[ReferringSample, ...]]:
    """Group samples by image, in order of first appearance."""
    groups: dict[str, list[ReferringSample]] = {}
    for sample in samples:
        groups.setdefault(sample.image.image_id, []).append(sample)
    return [tuple(group) for group in groups.values()]
