"""Label maps and detections from several answers about one image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from refersam.inference.answers import Answer
from refersam.optional import require

if TYPE_CHECKING:
    import supervision


def label_map(answers: Iterable[Answer]) -> np.ndarray:
    """Merge masks into one label map; overlapping pixels get the phrase with the highest probability.

    Args:
        answers: 1 to 65,535 answers about one image of H x W pixels; only one is in memory at a time.

    Returns:
        (H, W) uint16 labels: 0 for no phrase, 1 for the first phrase, 2 for the second, ...

    Raises:
        ValueError: there is no answer, there are more than 65,535, or the image sizes differ.
    """
    labels: np.ndarray | None = None
    best: np.ndarray | None = None
    for number, answer in enumerate(answers, 1):
        if labels is None or best is None:
            labels, best = np.zeros(answer.mask.shape, np.uint16), np.zeros(answer.mask.shape, np.float32)
        if labels.shape != answer.mask.shape or number > np.iinfo(np.uint16).max:
            raise ValueError(
                f"The answers of a label map must be at most 65,535, about one image: answer {number} has the size "
                f"{answer.mask.shape}, the first {labels.shape}."
            )
        wins = answer.mask & (answer.probability > best)
        labels[wins] = number
        best[wins] = answer.probability[wins]
    if labels is None:
        raise ValueError("A label map needs at least one answer, but none is given.")
    return labels


def label_image(answers: Sequence[Answer]) -> Image.Image:
    """Return `label_map` as a greyscale image: 8 bits, or 16 bits for more than 255 phrases."""
    labels = label_map(answers)
    return Image.fromarray(labels.astype(np.uint8) if len(answers) <= np.iinfo(np.uint8).max else labels)


def to_supervision(answers: Sequence[Answer]) -> supervision.Detections:
    """Convert answers to `supervision.Detections`, one detection per non-empty mask.

    `class_id` is the index of the phrase, `data["class_name"]` the phrase and `confidence` the score. Without any match
    there are 0 detections, with arrays of the same dtypes and a mask of shape (0, H, W).

    Args:
        answers: one or more answers about one image of H x W pixels.

    Raises:
        MissingExtraError: supervision is not installed.
        ValueError: there is no answer.
    """
    sv: Any = require("supervision", "supervision", "to_supervision")
    if not answers:
        raise ValueError("Detections need at least one answer, but none is given: pass the results of `predict`.")
    found = [(index, answer) for index, answer in enumerate(answers) if answer.box is not None]
    return sv.Detections(
        xyxy=np.array([answer.box for _, answer in found], np.float32).reshape(-1, 4),
        mask=np.array([answer.mask for _, answer in found], bool).reshape(-1, *answers[0].mask.shape),
        confidence=np.array([answer.score for _, answer in found], np.float32),
        class_id=np.array([index for index, _ in found], int),
        data={"class_name": np.array([answer.phrase for _, answer in found], str)},
    )
