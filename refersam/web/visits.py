"""Visits: requests with corrections of their answers, and a cache of answers."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from refersam.errors import PromptError, ReferSamError
from refersam.image import load_image
from refersam.inference.predictor import EncodedImage, ReferSamPredictor, Segmentation

ALL = "All"
Kind = Literal["add", "remove", "box"]

DELETED = "This image has been deleted from the server: choose it again."
CHOOSE = "Choose one phrase under 'Show' first: a click corrects the answer to one phrase."


@dataclass(frozen=True)
class Correction:
    """A click or box on the answer.

    Attributes:
        kind: kind of the correction.
        numbers: (x, y) of a click, or (left, top, right, bottom) of a box, in pixels of the image.
    """

    kind: Kind
    numbers: tuple[int, ...]

    def arguments(self) -> dict[str, Any]:
        """Return the correction as arguments of `ReferSamPredictor.refine`."""
        if self.kind == "box":
            return {"box": self.numbers}
        return {"points": [self.numbers], "point_labels": [int(self.kind == "add")]}


@dataclass(frozen=True)
class Visit:
    """A request and the corrections of its answers: the complete state of the page.

    Attributes:
        file: path of the image.
        model: name of the model.
        phrases: P phrases.
        thresholds: `threshold` and `no_target_threshold` of `ReferSamPredictor.predict`.
        corrections: P sequences of corrections, in order.
        corner: (x, y) of the first corner of an incomplete box; None otherwise.
    """

    file: str
    model: str
    phrases: tuple[str, ...]
    thresholds: tuple[float, float]
    corrections: tuple[tuple[Correction, ...], ...]
    corner: tuple[int, int] | None = None

    @classmethod
    def begin(cls, file: str, model: str, phrases: Sequence[str], thresholds: tuple[float, float]) -> Visit:
        """Return a visit without corrections."""
        return cls(file, model, tuple(phrases), thresholds, ((),) * len(phrases))

    def labels(self) -> list[str]:
        """Return the labels of the choices; equal phrases have different labels."""
        return [ALL, *(f"{number}. {phrase}" for number, phrase in enumerate(self.phrases, 1))]

    def shown(self, choice: str) -> list[int]:
        """Return the indices of the chosen phrases."""
        return [index for index, label in enumerate(self.labels()[1:]) if choice in (ALL, label)]

    def chosen(self, choice: str) -> int:
        """Return the index of the phrase whose answer a click corrects.

        Raises:
            PromptError: the choice stands for several phrases.
        """
        shown = self.shown(choice)
        if len(shown) != 1:
            raise PromptError(CHOOSE)
        return shown[0]

    def click(self, index: int, kind: Kind, x: int, y: int) -> Visit:
        """Return the visit after a click for a phrase; a box needs two clicks.

        Raises:
            PromptError: both corners of a box are in one row or column.
        """
        if kind != "box":
            return self._with(index, (*self.corrections[index], Correction(kind, (x, y))))
        if self.corner is None:
            return replace(self, corner=(x, y))
        (left, right), (top, bottom) = sorted((x, self.corner[0])), sorted((y, self.corner[1]))
        if left == right or top == bottom:
            raise PromptError("A box needs two corners in different rows and columns: click the second one again.")
        box = Correction("box", (left, top, right + 1, bottom + 1))
        return self._with(index, (*self.corrections[index], box))

    def undo(self, index: int) -> Visit:
        """Return the visit without the first corner of an incomplete box, or a phrase's last correction."""
        return replace(self, corner=None) if self.corner else self._with(index, self.corrections[index][:-1])

    def clear(self, index: int) -> Visit:
        """Return the visit without the corrections of a phrase."""
        return self._with(index, ())

    def _with(self, index: int, corrections: tuple[Correction, ...]) -> Visit:
        whole = (*self.corrections[:index], corrections, *self.corrections[index + 1 :])
        return replace(self, corrections=whole, corner=None)


@dataclass
class _Kept:
    first: list[Segmentation]
    answers: list[Segmentation]
    corrections: list[tuple[Correction, ...]]


class Answers:
    """Cache of the answers of recent visits; a click then costs one decoder pass.

    Args:
        predictors: predictors by their names on the page.
        max_pixels: maximum width times height of an image.
        most: number of visits in the cache; answers of other visits are computed again.
    """

    def __init__(self, predictors: Mapping[str, ReferSamPredictor], max_pixels: int, most: int = 4) -> None:
        self._predictors, self._max_pixels, self._most = predictors, max_pixels, most
        self._kept: OrderedDict[tuple[Any, ...], _Kept] = OrderedDict()
        self._encoded: tuple[tuple[str, bytes], EncodedImage] | None = None
        self._lock = Lock()

    def of(self, visit: Visit) -> list[Segmentation]:
        """Return the answers to the phrases of a visit, with its corrections applied.

        A file is read once per visit: gradio gives each content a path of its own.

        Raises:
            ReferSamError: the image is deleted or unreadable, a phrase is invalid, or the model does not accept clicks.
        """
        if not Path(visit.file).is_file():
            raise ReferSamError(DELETED)
        key = (visit.file, visit.model, visit.phrases, visit.thresholds)
        with self._lock:
            kept = self._kept.pop(key, None) or self._begin(visit)
            for index in range(len(visit.phrases)):
                self._correct(visit, index, kept)
            self._kept[key] = kept
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
            return list(kept.answers)

    def _begin(self, visit: Visit) -> _Kept:
        image = self._encode(visit.model, Path(visit.file))
        answers = self._predictors[visit.model].predict(image, visit.phrases, *visit.thresholds)
        return _Kept(answers, list(answers), [()] * len(answers))

    def _correct(self, visit: Visit, index: int, kept: _Kept) -> None:
        wanted, done = visit.corrections[index], kept.corrections[index]
        answer = kept.answers[index]
        if wanted[: len(done)] != done:  # after an undo
            answer, done = kept.first[index], ()
        for correction in wanted[len(done) :]:
            threshold, no_target = visit.thresholds
            answer = self._predictors[visit.model].refine(
                answer, **correction.arguments(), threshold=threshold, no_target_threshold=no_target
            )
        kept.answers[index], kept.corrections[index] = answer, wanted

    def _encode(self, model: str, file: Path) -> EncodedImage:
        """Encode an image; the last result is cached for further phrases, also if the image is uploaded again."""
        content = file.read_bytes()
        key = (model, hashlib.sha256(content).digest())
        if self._encoded is None or self._encoded[0] != key:
            image = load_image(content, max_pixels=self._max_pixels)
            self._encoded = (key, self._predictors[model].set_image(image))
        return self._encoded[1]
