"""Functions of the page: validation, answers, corrections by clicks, and download files."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from refersam.drawing import draw_clicks
from refersam.errors import ReferSamError
from refersam.inference.predictor import ReferSamPredictor, Segmentation
from refersam.web.answers import FILES, overlay, split_phrases, write_files
from refersam.web.examples import draw_examples
from refersam.web.visits import DELETED, Answers, Visit

KEEP_SECONDS = 3600
"""Time in seconds after which files of a visit are deleted."""


@dataclass(frozen=True)
class PageSettings:
    """Limits of the page.

    Attributes:
        max_bytes: maximum size of an image file in bytes.
        max_pixels: maximum width times height of an image.
        max_phrases: maximum number of phrases per request.
        waiting: maximum number of queued requests; further ones are rejected.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 25_000_000
    max_phrases: int = 8
    waiting: int = 32


class Page:
    """Functions of the page.

    Args:
        predictors: predictors by their names on the page; the first is the default.
        folder: directory for download files and examples; its contents may be deleted.
        settings: limits of the page.
    """

    def __init__(self, predictors: Mapping[str, ReferSamPredictor], folder: Path, settings: PageSettings) -> None:
        self.predictors, self.folder, self.settings = dict(predictors), folder, settings
        (folder / "examples").mkdir(parents=True)
        (folder / "answers").mkdir()
        self.examples = draw_examples(folder / "examples")
        self._answers = Answers(self.predictors, settings.max_pixels)

    def warm_up(self) -> None:
        """Run each predictor once, because the first run is slow."""
        image, text = self.examples[0]
        for predictor in self.predictors.values():
            predictor.predict(image, text.splitlines())

    def no_target_threshold(self, model: str) -> float:
        """Return the default no-target threshold of a model, by its name on the page."""
        return self.predictors[model].model.config.no_target_threshold

    def ask(self, file: str | None, text: str, model: str, threshold: float, no_target: float) -> Visit:
        """Validate a request about an uploaded image and return its visit.

        Raises:
            ReferSamError: the image or phrase is missing, the file is too large, or the model is unknown.
        """
        phrases = split_phrases(text or "", self.settings.max_phrases)
        if file is None:
            raise ReferSamError("Choose an image first: drop one, or click an example below.")
        if not Path(file).is_file():
            raise ReferSamError(DELETED)
        if Path(file).stat().st_size > self.settings.max_bytes:
            raise ReferSamError(f"The image's file is larger than {self.settings.max_bytes / 1e6:.0f} MB.")
        if model not in self.predictors:
            raise ReferSamError(f"There is no model {model!r} on this page.")
        return Visit.begin(file, model, phrases, (threshold, no_target))

    def answers(self, visit: Visit) -> list[Segmentation]:
        """Return the answers to the phrases of a visit; see `Answers.of`."""
        return self._answers.of(visit)

    def show(self, visit: Visit, choice: str) -> Image.Image:
        """Return the image with the masks and clicks of the chosen phrases.

        Raises:
            ReferSamError: see `Answers.of`.
        """
        answers, shown = self.answers(visit), visit.shown(choice)
        image = overlay(answers[0].image, [answer.mask for answer in answers], shown)
        marks = [correction for index in shown for correction in visit.corrections[index]]
        points = [(mark.numbers, mark.kind == "add") for mark in marks if mark.kind != "box"]
        boxes = [mark.numbers for mark in marks if mark.kind == "box"][-1:]
        return draw_clicks(image, points, boxes, visit.corner)

    def files(self, visit: Visit) -> list[str]:
        """Write the download files; return their paths in the order of `FILES`."""
        self._tidy()
        folder = Path(tempfile.mkdtemp(dir=self.folder / "answers"))
        answers = self.answers(visit)
        written = write_files(answers[0].image, answers, folder, self.predictors[visit.model].domain)
        return [str(written[name]) for name in FILES]

    def _tidy(self) -> None:
        """Delete files that are older than `KEEP_SECONDS`."""
        for folder in (self.folder / "answers").iterdir():
            if time.time() - folder.stat().st_mtime > KEEP_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
