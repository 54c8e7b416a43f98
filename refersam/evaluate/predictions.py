"""Masks of any tool: JSON lines, matched by sample id."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from refersam.data.regions import clean_region, decode_region
from refersam.data.sample import ReferringSample
from refersam.errors import DataError, first_of, shown
from refersam.metrics.masks import encode_mask, resize_nearest
from refersam.metrics.protocols import PROTOCOLS, Protocol

KEYS = ("sample_id", "mask", "no_target", "score", "target_probability", "protocol", "protocol_mask")
MAX_LINE = 64 * 2**20
"""Bytes. A checkerboard of 10 million pixels stays below it."""
MAX_PROBLEMS = 100
"""Told one by one; a file that has more is not read on."""

Rle = Mapping[str, Any]
"""COCO run lengths: {"size": [H, W], "counts": str or list of int}."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted mask of a sample.

    Attributes:
        sample_id: id of the sample in the data set.
        mask: mask at the image's size, independent of `no_target`.
        no_target: no-target decision of the tool; None for a tool without one.
        score: predicted IoU; any number, but calibration needs 0 to 1.
        target_probability: probability that the phrase has a target, in [0, 1].
        protocol: name of the protocol of `protocol_mask`.
        protocol_mask: at that protocol's size: the positive pixels of logits that were resized before they were cut,
            where nearest neighbour would make other ones of `mask`.
    """

    sample_id: str
    mask: Rle
    no_target: bool | None = None
    score: float | None = None
    target_probability: float | None = None
    protocol: str | None = None
    protocol_mask: Rle | None = None

    def has_protocol_mask(self, protocol: Protocol) -> bool:
        """Return whether the prediction holds the mask that a protocol compares."""
        return self.protocol_mask is not None and self.protocol == protocol.name

    def pixels(self, protocol: Protocol, height: int, width: int) -> np.ndarray:
        """Return the bool mask at the protocol's size, for an image of height x width pixels.

        Raises:
            DataError: run lengths that do not match the size.
        """
        size = protocol.size(height, width)
        if self.protocol_mask is not None and self.has_protocol_mask(protocol):
            return decode_region(self.protocol_mask, *size)
        return resize_nearest(decode_region(self.mask, height, width), *size)

    def line(self) -> str:
        """Return one line of JSON without unknown fields."""
        values = {name: getattr(self, name) for name in KEYS}
        return json.dumps({name: value for name, value in values.items() if value is not None}) + "\n"


def make_prediction(base: Prediction, mask: np.ndarray, protocol_mask: np.ndarray, protocol: Protocol) -> Prediction:
    """Return a prediction that scores the same after it is written and read.

    Args:
        base: prediction without the protocol's mask.
        mask: (H, W) bool, the mask of `base` at the image's size.
        protocol_mask: bool at the protocol's size; stored only if it differs from `mask` resized to that size.
        protocol: protocol of `protocol_mask`.
    """
    if np.array_equal(resize_nearest(mask, *protocol_mask.shape), protocol_mask):
        return base
    return replace(base, protocol=protocol.name, protocol_mask=encode_mask(protocol_mask))


def write_predictions(predictions: Iterable[Prediction]) -> bytes:
    """Yield the lines of the file."""
    return "".join(prediction.line() for prediction in predictions).encode()


def read_predictions(
    path: Path, samples: Sequence[ReferringSample], others: Iterable[str] = ()
) -> dict[str, Prediction]:
    """Read and validate an untrusted file.

    Args:
        path: JSON lines file.
        samples: samples that need a prediction.
        others: further valid ids, whose lines are ignored.

    Raises:
        DataError: invalid lines, all reported at once.
    """
    wanted = {sample.sample_id: sample for sample in samples}
    skipped = set(others) - wanted.keys()
    found: dict[str, Prediction] = {}
    problems: list[str] = []
    for number, raw in _lines(path, problems):
        try:
            prediction = _read_line(raw, wanted)
            if prediction.sample_id in found:
                raise DataError(f"the sample id {prediction.sample_id!r} was there before: give one line per sample")
            if prediction.sample_id in wanted:
                found[prediction.sample_id] = prediction
            elif prediction.sample_id not in skipped:
                raise DataError(f"the data set has no sample {shown(prediction.sample_id)}")
        except DataError as error:
            problems.append(f"line {number}: {error}")
        if len(problems) >= MAX_PROBLEMS:
            problems.append("reading stopped here")
            break
    else:
        missing = [name for name in wanted if name not in found]
        if missing:
            problems.append(f"{len(missing)} of {len(wanted)} samples have no usable line: {first_of(missing)}")
    if problems:
        raise DataError(
            f"{path} is not a complete set of predictions for these {len(wanted)} samples (docs/evaluation.md has the "
            "format):" + "".join(f"\n- {problem}" for problem in problems)
        )
    return found


def _lines(path: Path, problems: list[str]) -> Iterator[tuple[int, bytes]]:
    if not path.is_file():
        raise DataError(f"No such file: {path}.")
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_LINE + 1):
            number += 1
            if len(raw) > MAX_LINE:
                problems.append(f"line {number}: longer than {MAX_LINE:,} bytes; reading stopped here")
                return
            if raw.strip():
                yield number, raw


def _read_line(raw: bytes, samples: Mapping[str, ReferringSample]) -> Prediction:
    """Read one line, and check its mask against the image's size.

    Raises:
        DataError: as the end of a sentence.
    """
    try:
        row = json.loads(raw, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({str(error)[:80]})") from error
    if not isinstance(row, dict):
        raise DataError("a JSON object is expected")
    unknown = sorted(row.keys() - set(KEYS))
    if unknown:
        raise DataError(f"unknown key {shown(unknown[0], 40)}: known are {', '.join(KEYS)}")
    sample_id = row.get("sample_id")
    if not isinstance(sample_id, str | int) or isinstance(sample_id, bool):
        raise DataError('"sample_id" must be a string')
    sample = samples.get(str(sample_id))
    if sample is None:  # of another split, or of none: nothing is known of its image
        return Prediction(str(sample_id), {})
    protocol = row.get("protocol")
    if (protocol is None) != (row.get("protocol_mask") is None):
        raise DataError('"protocol" and "protocol_mask" belong together')
    if protocol is not None and not (isinstance(protocol, str) and protocol in PROTOCOLS):
        raise DataError(f'"protocol" must be one of {", ".join(PROTOCOLS)}')
    height, width = sample.image.height, sample.image.width
    return Prediction(
        sample_id=sample.sample_id,
        mask=_check_mask(row.get("mask"), "mask", height, width),
        no_target=_check_flag(row.get("no_target")),
        score=_check_number(row.get("score"), "score"),
        target_probability=_check_number(row.get("target_probability"), "target_probability", 0, 1),
        protocol=protocol,
        protocol_mask=None
        if protocol is None
        else _check_mask(row["protocol_mask"], "protocol_mask", *PROTOCOLS[protocol].size(height, width)),
    )


def _check_mask(raw: object, name: str, height: int, width: int) -> Rle:
    if not isinstance(raw, dict):
        raise DataError(f'"{name}" must be COCO run lengths {{"size": [height, width], "counts": ...}}')
    if raw.get("size") != [height, width]:
        raise DataError(f'"{name}" must have the size [{height}, {width}], but has {shown(raw.get("size"), 40)}')
    try:
        region, _ = clean_region(raw)
    except DataError as error:
        raise DataError(f'"{name}": {error}') from error
    if not isinstance(region, Mapping):
        raise DataError(f'"{name}" must be COCO run lengths')
    return {"size": [height, width], "counts": region["counts"].decode("ascii")}


def _check_flag(value: object) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise DataError('"no_target" must be true or false')
    return value


def _check_number(value: object, name: str, least: float = -math.inf, most: float = math.inf) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        what = "a number" if most == math.inf else f"a number from {least} to {most}"
        raise DataError(f'"{name}" must be {what}, but is {shown(value, 40)}')
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise DataError(f'"{name}" must be a finite number')
    return number


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")
