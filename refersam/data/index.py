"""A data set as it is read: its samples by split, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import overload

from refersam.data.findings import Finding
from refersam.data.sample import ReferringSample


@dataclass(slots=True)
class DatasetIndex:
    """What the readers give.

    Attributes:
        name: of the data set.
        split_by: which of its published partitions; empty where there is one only.
        samples: by split, those splits that were asked for.
        refs: how many refs (an object or objects with all their phrases) each split has, all splits.
        findings: all that is wrong or odd.
    """

    name: str
    split_by: str = ""
    samples: dict[str, list[ReferringSample]] = field(default_factory=dict)
    refs: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


class ReferringDataset(Sequence[ReferringSample]):
    """The samples of one split, light: pictures and masks are decoded where `load` and `load_mask` are called.

    Args:
        name: of the data set.
        split: of it.
        split_by: which published partition; empty where there is one only.
        samples: in the file's order.
        findings: what was odd, but does not forbid its use.
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
        """The samples of each picture together, so that it is decoded once (`ReferringImage.load`).

        Returns:
            A tuple for each picture, in order of first appearance.
        """
        return group_by_image(self._samples)


def group_by_image(samples: Sequence[ReferringSample]) -> list[tuple[ReferringSample, ...]]:
    """The samples of each picture together, in order of first appearance."""
    groups: dict[str, list[ReferringSample]] = {}
    for sample in samples:
        groups.setdefault(sample.image.image_id, []).append(sample)
    return [tuple(group) for group in groups.values()]
