"""What the page shows of answers, and what it offers to take home."""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from refersam.bulk.coco import coco_annotation
from refersam.domain import domain_warning
from refersam.drawing import draw_overlays, mask_picture
from refersam.errors import PhraseError
from refersam.files import write_atomically
from refersam.inference.answers import Answer
from refersam.inference.labels import label_picture
from refersam.inference.predictor import ReferSamPredictor

COLOURS = (
    (214, 39, 104),
    (22, 105, 201),
    (214, 120, 10),
    (24, 135, 66),
    (124, 66, 201),
    (0, 139, 149),
    (168, 84, 32),
    (96, 106, 118),
)
"""Of the phrases, in turn: dark enough for white text."""

MASK_FILE, LABELS_FILE, CUTOUT_FILE, COCO_FILE = "mask.png", "labels.png", "cutout.png", "answers.json"


def split_phrases(text: str, most: int) -> list[str]:
    """Split text into phrases at line ends and semicolons; raise PhraseError for none, or more than `most`."""
    phrases = [" ".join(phrase.split()) for phrase in re.split(r"[\n;]", text)]
    phrases = [phrase for phrase in phrases if phrase]
    if not phrases:
        raise PhraseError("Type what to look for, such as: the orange star.")
    if len(phrases) > most:
        raise PhraseError(f"These are {len(phrases)} phrases; at most {most} are answered at once.")
    return phrases


def colour_of(index: int) -> tuple[int, int, int]:
    """Of a phrase, by its number."""
    return COLOURS[index % len(COLOURS)]


def overlay(picture: Image.Image, masks: Sequence[np.ndarray], shown: Sequence[int]) -> Image.Image:
    """Lay the (H, W) bool masks with the indices `shown` over an RGB image, each in its colour, later ones on top."""
    return draw_overlays(picture, ((masks[index], colour_of(index)) for index in shown))


def legend(answers: Sequence[Answer]) -> str:
    """HTML: a line for each phrase, with its colour, and its score or that nothing matches."""
    lines = []
    for index, answer in enumerate(answers):
        colour = "#{:02x}{:02x}{:02x}".format(*colour_of(index)) if answer.area else "transparent"
        if answer.no_target:
            verdict = '<span class="verdict none">nothing matches</span>'
        elif not answer.area:
            verdict = '<span class="verdict none">no pixel is sure enough</span>'
        else:
            share = 100 * answer.area / answer.mask.size
            verdict = (
                f'<span class="verdict">score {answer.score:.2f}</span>'
                f'<span class="share">{share:.1f} % of the picture</span>'
            )
        if answer.left_out:
            verdict += f'<span class="share">too long, not read: {html.escape(answer.left_out)}</span>'
        if answer.unknown:
            verdict += f'<span class="share">unknown, not read: {html.escape(" ".join(answer.unknown))}</span>'
        lines.append(
            f'<li><span class="swatch" style="background:{colour}"></span>'
            f'<span class="phrase">{html.escape(answer.phrase)}</span>{verdict}</li>'
        )
    return f'<ul class="legend" aria-live="polite">{"".join(lines)}</ul>'


def refusal(sentence: str) -> str:
    """Return HTML: why there is no answer."""
    return f'<p class="refused" role="alert">{html.escape(sentence)}</p>'


def domain_banner(predictors: Mapping[str, ReferSamPredictor]) -> str:
    """Return HTML: a paragraph for each domain of the models, with the warning about it; empty for general models."""
    names: dict[str, list[str]] = {}
    for name, predictor in predictors.items():
        if predictor.domain is not None:
            names.setdefault(predictor.domain, []).append(name)
    return "".join(
        f"<p><strong>{html.escape(', '.join(models))}</strong>: {html.escape(domain_warning(domain))}</p>"
        for domain, models in names.items()
    )


def write_files(
    picture: Image.Image, answers: Sequence[Answer], folder: Path, domain: str | None = None
) -> dict[str, Path]:
    """Write mask, label map, cut-out and COCO file of at least one answer into `folder`; return their paths by name.

    The mask is the union of all answers; the label map stores the number of the phrase, from 1; the cut-out is the
    image, transparent outside the mask; the JSON file has an annotation for each mask, the phrases without a target,
    and the model's domain.
    """
    mask = np.logical_or.reduce([answer.mask for answer in answers])
    alpha = mask_picture(mask)
    cutout = picture.convert("RGBA")
    cutout.putalpha(alpha)
    contents = {
        MASK_FILE: _png(alpha),
        LABELS_FILE: _png(label_picture(answers)),
        CUTOUT_FILE: _png(cutout),
        COCO_FILE: json.dumps(coco_document(picture, answers, domain), indent=1).encode(),
    }
    return {name: _write(folder / name, content) for name, content in contents.items()}


def coco_document(picture: Image.Image, answers: Sequence[Answer], domain: str | None = None) -> dict[str, Any]:
    """The answers in COCO's format: categories are phrases, masks run-length encoded, boxes (x, y, width, height).

    `info` holds the domain of the model, if it has one.
    """
    annotations: list[dict[str, Any]] = []
    for number, answer in enumerate(answers, 1):
        if answer.area:
            annotations.append(coco_annotation(answer.as_dict(), len(annotations) + 1, 1, number))
    return {
        "images": [{"id": 1, "file_name": "picture.png", "width": picture.width, "height": picture.height}],
        "categories": [{"id": number, "name": answer.phrase} for number, answer in enumerate(answers, 1)],
        "annotations": annotations,
        "no_target": [answer.phrase for answer in answers if answer.no_target],
        **({} if domain is None else {"info": {"domain": domain}}),
    }


def _write(path: Path, content: bytes) -> Path:
    write_atomically(path, lambda file: file.write(content))
    return path


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()
