"""Prompts in addition to the phrase: clicks on the image and a box."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refersam.errors import PromptError, counted, shown

logger = logging.getLogger(__name__)

MAX_POINTS = 100
"""Maximum number of clicks per phrase."""

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Prompts:
    """Clicks and a box for one phrase, in pixels of the image.

    Attributes:
        points: clicks (x, y); (0, 0) is the centre of the top left pixel.
        labels: per click 1 (foreground) or 0 (background).
        box: (left, top, right, bottom) around the object, right and bottom exclusive, as `Answer.box`; None for no box.
    """

    points: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()
    box: Box | None = None

    @classmethod
    def build(cls, points: Any, labels: Any, box: Any, width: int, height: int) -> Prompts:
        """Validate prompts for an image of width x height pixels.

        Args:
            points: sequence or array of (x, y), 0 <= x < width and 0 <= y < height; None for no points.
            labels: per point 1 (foreground) or 0 (background); None for all 1.
            box: (left, top, right, bottom), clipped to the image; None for no box.
            width: width of the image in pixels.
            height: height of the image in pixels.

        Raises:
            PromptError: a value is not a finite number, a point is outside the image, the numbers of points and labels
                differ, a label is not 1 or 0, the box has no area, or there are too many points.
        """
        clicks = _numbers("points", points, "(x, y)", 2)
        if len(clicks) > MAX_POINTS:
            raise PromptError(f"At most {MAX_POINTS} points are allowed for a phrase, but {len(clicks)} are given.")
        for x, y in clicks:
            if not (0 <= x < width and 0 <= y < height):
                raise PromptError(
                    f"Points must lie inside the image of {width} x {height} pixels, but one is at ({x:g}, {y:g})."
                )
        kinds = [1] * len(clicks) if labels is None else np.asarray(labels, dtype=object).flatten().tolist()
        if len(kinds) != len(clicks):
            raise PromptError(f"Each point needs one label, but there are {counted(len(clicks), 'point')} and "
                              f"{counted(len(kinds), 'label')}.")  # fmt: skip
        for kind in kinds:
            if isinstance(kind, float) or kind not in (0, 1):
                raise PromptError(
                    f"Labels of points must be 1 (foreground) or 0 (background), but one is {shown(kind)}."
                )
        return cls(tuple(clicks), tuple(map(int, kinds)), None if box is None else _box(box, width, height))

    def __bool__(self) -> bool:
        return bool(self.points) or self.box is not None

    def add(self, later: Prompts) -> Prompts:
        """Return the prompts extended by `later`; a later box replaces the earlier one."""
        box = self.box if later.box is None else later.box
        if len(self.points) + len(later.points) > MAX_POINTS:
            raise PromptError(f"At most {MAX_POINTS} points are allowed for a phrase: start anew with `predict`.")
        return Prompts(self.points + later.points, self.labels + later.labels, box)

    @property
    def has_target(self) -> bool:
        """Whether a foreground click or a box marks an object."""
        return 1 in self.labels or self.box is not None

    def tensors(self, image_size: tuple[int, int], input_size: tuple[int, int]) -> dict[str, Tensor]:
        """Return the given ones of `input_points`, `input_labels`, `input_boxes` of `ReferSamModel.forward` for B = 1.

        Args:
            image_size: (height, width) of the image in pixels.
            input_size: (H, W) of the model input in pixels.
        """
        tensors = {}
        if self.points:
            tensors["input_points"] = to_input(torch.tensor([self.points], dtype=torch.float32), image_size, input_size)
            tensors["input_labels"] = torch.tensor([self.labels])
        if self.box is not None:
            corners = torch.tensor([self.box], dtype=torch.float32).unflatten(1, (2, 2)) - 0.5  # edges of pixels
            tensors["input_boxes"] = to_input(corners, image_size, input_size).flatten(1)
        return tensors


def to_input(points: Tensor, image_size: Sequence[int], input_size: Sequence[int]) -> Tensor:
    """Convert (..., 2) coordinates (x, y) from an image of (height, width) to a model input of (H, W), in pixels."""
    scale = torch.tensor([input_size[1] / image_size[1], input_size[0] / image_size[0]])
    return (points + 0.5) * scale - 0.5


NO_PROMPTS = Prompts()
"""No clicks and no box."""


def _numbers(name: str, values: Any, form: str, count: int) -> list[Any]:
    """Read rows of `count` finite numbers."""
    try:
        array = np.asarray([] if values is None else values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.array(np.nan)
    if array.shape == (0,):
        return []
    if array.ndim != 2 or array.shape[1] != count or not np.isfinite(array).all():
        raise PromptError(f"{name} must be a list of {form} in finite numbers, but is {shown(values)}.")
    return [tuple(row) for row in array.tolist()]


def _box(box: Any, width: int, height: int) -> Box:
    try:
        ((left, top, right, bottom),) = _numbers("box", [box], "(left, top, right, bottom)", 4)
    except PromptError as error:
        raise PromptError(f"box must be (left, top, right, bottom) in finite numbers, but is {shown(box)}.") from error
    inside = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
    if not (inside[0] < inside[2] and inside[1] < inside[3]):
        raise PromptError(
            f"A box (left, top, right, bottom) must cover a part of the image of {width} x {height} pixels, but is "
            f"({left:g}, {top:g}, {right:g}, {bottom:g})."
        )
    return inside


@cache
def warn_untrained(name: str) -> None:
    """Log once per model that it was not trained with clicks.

    Args:
        name: name of the model.
    """
    logger.warning(
        "%s was not trained with clicks (config.supports_clicks is false): masks may follow them badly. Train it with "
        "the setting clicks (docs/training.md).",
        name or "The model",
    )
