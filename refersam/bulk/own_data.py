"""Results as own data: JSON lines to train on, one file per split."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from refersam.bulk.results import OWN_DATA, RESULTS, read_results
from refersam.errors import DataError, counted
from refersam.files import write_atomically
from refersam.names import key_of

_TENTH = 2**128 // 10
_KINDS = ("target", "no target", "unsure", "empty")
_KEPT = {"target", "no target"}


@dataclass(frozen=True, slots=True)
class OwnDataCounts:
    """Content of the files.

    Attributes:
        train: number of images.
        val: number of images.
        with_target: lines with a mask.
        without_target: lines that say that nothing matches.
        unsure: answers left out for their score.
        empty: answers left out because their mask is empty, but the model does not say that nothing matches.
    """

    train: int
    val: int
    with_target: int
    without_target: int
    unsure: int
    empty: int

    def __str__(self) -> str:
        lines = f"{counted(self.with_target, 'phrase')} with a mask and {self.without_target:,} without target"
        images = f"{counted(self.train, 'image')} in train, {self.val:,} in val"
        return f"{lines}; {images}. Left out: {self.unsure:,} for --min-score, {self.empty:,} with an empty mask."


def write_own_data(out: Path, root: Path, min_score: float) -> OwnDataCounts:
    """Convert a directory's `results.jsonl` to `train.jsonl` and `val.jsonl`, own data as `refersam.data` reads it.

    A tenth of the images is in val: those with the smallest hashes of their names, so that an image stays in its split
    when others are added. Where there are two images or more, each split has at least one.

    Args:
        out: directory of the results.
        root: directory that the names of the images start from.
        min_score: masks with a lower score are left out. The score is low where the model is sure that nothing matches:
            such answers are kept up to a score of 1 - min_score.

    Raises:
        DataError: an image that is not in `root`.
    """
    counts, files = Counter[str](), dict[bytes, str]()  # by the hash of an image's name
    for line in read_results(out / RESULTS):
        kinds = [_kind(result, min_score) for result in line["results"]]
        counts.update(kinds)
        if _KEPT.isdisjoint(kinds):
            continue
        if not (root / line["image"]).is_file():
            raise DataError(
                f"{out / RESULTS} has {line['image']}, which is not in {root.resolve()}: give --images as in the run "
                "that it comes from, or another --out."
            )
        key = key_of(line["image"])
        files[key] = OWN_DATA[int.from_bytes(key) < _TENTH]
    if len(files) > 1:
        files[max(files)], files[min(files)] = OWN_DATA
    head = {"images": _relative(root, out), "apply_exif_rotation": True}

    def write(file: IO[bytes], name: str) -> None:
        file.write(json.dumps(head).encode() + b"\n")
        for line in read_results(out / RESULTS):
            if files.get(key_of(line["image"])) == name:
                for result in line["results"]:
                    kind = _kind(result, min_score)
                    if kind in _KEPT:
                        target = {"rle": result["rle"]} if kind == "target" else {"no_target": True}
                        row = {"image": line["image"], "phrase": result["phrase"], **target, "score": result["score"]}
                        file.write(json.dumps(row).encode() + b"\n")

    for name in OWN_DATA:
        write_atomically(out / name, partial(write, name=name))
    images = Counter(files.values())
    return OwnDataCounts(*(images[name] for name in OWN_DATA), *(counts[kind] for kind in _KINDS))


def _kind(result: Mapping[str, Any], min_score: float) -> str:
    """Return one of `_KINDS` for an answer."""
    if result["no_target"]:
        return "no target" if result["score"] <= 1 - min_score else "unsure"
    if not result["area"]:
        return "empty"
    return "target" if result["score"] >= min_score else "unsure"


def _relative(root: Path, out: Path) -> str:
    """Return the path of `root` from `out`; the absolute one where another drive of Windows holds it."""
    try:
        return Path(os.path.relpath(root.resolve(), out.resolve())).as_posix()
    except ValueError:
        return root.resolve().as_posix()
