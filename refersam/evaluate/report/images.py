"""The cases that a report shows as images, with truth and prediction outlined."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from refersam.data.regions import decode_region
from refersam.drawing import mask_image
from refersam.errors import ReferSamError
from refersam.evaluate.report.facts import sample_ious, verdict
from refersam.evaluate.run import Evaluation
from refersam.metrics.masks import resize_nearest

CASES_PER_GROUP = 6
SIDE = 480
"""Longest side of an image in the report, in pixels."""
MAX_BYTES = 120_000
"""Of one image as JPEG."""
TRUTH_COLOUR, PREDICTION_COLOUR = (0, 114, 178), (230, 159, 0)  # blue and orange: told apart by everyone
_DASH = 9


@dataclass(frozen=True, slots=True)
class Case:
    """One phrase with its image as a data URI ("" if it cannot be read) of width x height pixels, its IoU (None if not
    counted) and one of `facts.VERDICTS`.
    """

    phrase: str
    sample_id: str
    iou: float | None
    score: float | None
    verdict: str
    image: str
    width: int
    height: int


def choose_cases(evaluation: Evaluation, count: int = CASES_PER_GROUP) -> dict[str, list[Case]]:
    """Best, median and worst phrases with a target, and wrong answers to phrases without one; by title."""
    ious = sample_ious(evaluation)
    results = evaluation.results
    verdicts = [verdict(evaluation, position, iou) for position, iou in enumerate(ious)]
    targets = [(iou, position) for position, iou in enumerate(ious) if iou is not None and results[position].has_target]
    rising = [position for _, position in sorted(targets)]
    # Of equally bad ones, the surest are the most telling.
    worst = [position for _, _, position in sorted((iou, -(results[p].score or 0), p) for iou, p in targets)]
    middle = sorted(range(len(rising)), key=lambda place: abs(2 * place - len(rising) + 1))
    wrongly = [position for position, name in enumerate(verdicts) if name == "wrongly found"]
    wrongly.sort(key=lambda position: (-(results[position].score or 0), position))
    groups = {
        "Best": rising[::-1],
        "Median": [rising[place] for place in middle],
        "Worst": worst,
        "No target, but one was found": wrongly,
    }
    shown: set[int] = set()
    cases: dict[str, list[Case]] = {}
    for title, ranked in groups.items():
        chosen = _different_images(evaluation, (p for p in ranked if p not in shown), count)
        shown.update(chosen)
        if chosen:
            cases[title] = [_make_case(evaluation, position, ious[position], verdicts[position]) for position in chosen]
    return cases


def _different_images(evaluation: Evaluation, ranked: Iterable[int], count: int) -> list[int]:
    """The first ones, no two of the same image as long as there are others."""
    first: list[int] = []
    rest: list[int] = []
    seen: set[str] = set()
    for position in ranked:
        image_id = evaluation.samples[position].image.image_id
        (rest if image_id in seen else first).append(position)
        seen.add(image_id)
        if len(first) == count:
            break
    return (first + rest)[:count]


def _make_case(evaluation: Evaluation, position: int, iou: float | None, judged: str) -> Case:
    sample, prediction = evaluation.samples[position], evaluation.predictions[position]
    uri, size = "", (0, 0)
    try:
        image = sample.image.load()
        predicted = decode_region(prediction.mask, sample.image.height, sample.image.width)
        drawn = outline(image, sample.load_mask(), predicted)
        uri, size = data_uri(drawn), drawn.size
    except ReferSamError:  # predictions are scored without the images, and may be shown without
        pass
    return Case(sample.phrase, sample.sample_id, iou, prediction.score, judged, uri, *size)


def outline(image: Image.Image, truth: np.ndarray, predicted: np.ndarray) -> Image.Image:
    """Shrink an RGB image and outline (H, W) bool masks: truth in blue, prediction in orange dashes."""
    scale = SIDE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).copy()
    rows, columns = np.indices((height, width))
    dashes = (rows + columns) // _DASH % 2 == 0
    for mask, colour, where in (truth, TRUTH_COLOUR, np.True_), (predicted, PREDICTION_COLOUR, dashes):
        padded = mask_image(np.pad(resize_nearest(mask, height, width), 2))  # nothing is set beyond the border
        for side, line_colour in (5, (255, 255, 255)), (3, colour):
            grown, shrunk = padded.filter(ImageFilter.MaxFilter(side)), padded.filter(ImageFilter.MinFilter(side))
            pixels[(np.asarray(grown) != np.asarray(shrunk))[2:-2, 2:-2] & where] = line_colour
    return Image.fromarray(pixels)


def data_uri(image: Image.Image, qualities: Sequence[int] = (82, 65, 45, 25)) -> str:
    """As JPEG, at the best quality that stays below `MAX_BYTES`."""
    content = b""
    for quality in qualities:
        file = io.BytesIO()
        image.save(file, format="JPEG", quality=quality, subsampling=0)
        content = file.getvalue()
        if len(content) <= MAX_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")
