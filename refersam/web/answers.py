"""Overlays, legends and download files of answers."""

from __future__ import annotations

import hashlib
import html
import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from refersam.bulk.coco import coco_annotation
from refersam.domain import domain_warning
from refersam.drawing import draw_overlays, mask_image
from refersam.errors import PhraseError
from refersam.files import write_atomically
from refersam.inference.answers import Answer
from refersam.inference.labels import label_image
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
"""Colours of the phrases, in cyclic order; dark enough for white text."""

MASK_FILE, LABELS_FILE, CUTOUT_FILE, COCO_FILE = "mask.png", "labels.png", "cutout.png", "answers.json"
OWN_DATA_FILE = "own_data.zip"
FILES = {
    MASK_FILE: ("mask", "Mask PNG"),
    LABELS_FILE: ("labels", "Label map"),
    CUTOUT_FILE: ("cutout", "Cut-out PNG"),
    COCO_FILE: ("coco", "COCO JSON"),
    OWN_DATA_FILE: ("own-data", "Own data"),
}
"""Name and text of the button for each download file."""


def split_phrases(text: str, most: int) -> list[str]:
    """Split text into phrases at newlines and semicolons; raise PhraseError for 0 or more than `most` phrases."""
    phrases = [" ".join(phrase.split()) for phrase in re.split(r"[\n;]", text)]
    phrases = [phrase for phrase in phrases if phrase]
    if not phrases:
        raise PhraseError("Type what to look for, such as: the orange star.")
    if len(phrases) > most:
        raise PhraseError(f"These are {len(phrases)} phrases; at most {most} are answered at once.")
    return phrases


def colour_of(index: int) -> tuple[int, int, int]:
    """Return the colour of the phrase with an index."""
    return COLOURS[index % len(COLOURS)]


def overlay(image: Image.Image, masks: Sequence[np.ndarray], shown: Sequence[int]) -> Image.Image:
    """Overlay the (H, W) bool masks with indices `shown` on an RGB image, each in its colour, later ones on top."""
    return draw_overlays(image, ((masks[index], colour_of(index)) for index in shown))


def legend(answers: Sequence[Answer]) -> str:
    """Return HTML with one line per phrase: its colour, and its score or 'nothing matches'."""
    lines = []
    for index, answer in enumerate(answers):
        colour = "#{:02x}{:02x}{:02x}".format(*colour_of(index)) if answer.area else "transparent"
        if answer.no_target:
            verdict = '<span class="verdict none">nothing matches</span>'
        elif not answer.area:
            verdict = '<span class="verdict none">no pixel reaches the threshold</span>'
        else:
            share = 100 * answer.area / answer.mask.size
            verdict = (
                f'<span class="verdict">score {answer.score:.2f}</span>'
                f'<span class="share">{share:.1f} % of the image</span>'
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
    """Return HTML with an error message."""
    return f'<p class="refused" role="alert">{html.escape(sentence)}</p>'


def domain_banner(predictors: Mapping[str, ReferSamPredictor]) -> str:
    """Return HTML with one warning per domain of the models; empty for general models."""
    names: dict[str, list[str]] = {}
    for name, predictor in predictors.items():
        if predictor.domain is not None:
            names.setdefault(predictor.domain, []).append(name)
    return "".join(
        f"<p><strong>{html.escape(', '.join(models))}</strong>: {html.escape(domain_warning(domain))}</p>"
        for domain, models in names.items()
    )


def write_files(
    image: Image.Image, answers: Sequence[Answer], folder: Path, domain: str | None = None
) -> dict[str, Path]:
    """Write the download files of answers about one image.

    - mask: union of the masks of all phrases, in white.
    - label map: number of the phrase per pixel, 1 for the first.
    - cut-out: the image, transparent outside the mask.
    - COCO JSON: see `coco_document`.
    - own data: see `own_data`.

    Args:
        image: RGB image of W x H pixels.
        answers: one or more answers.
        folder: existing output directory.
        domain: domain of the model, for the JSON file; None for a general model.

    Returns:
        Paths by file name.
    """
    mask = np.logical_or.reduce([answer.mask for answer in answers])
    alpha = mask_image(mask)
    cutout = image.convert("RGBA")
    cutout.putalpha(alpha)
    contents = {
        MASK_FILE: _png(alpha),
        LABELS_FILE: _png(label_image(answers)),
        CUTOUT_FILE: _png(cutout),
        COCO_FILE: json.dumps(coco_document(image, answers, domain), indent=1).encode(),
        OWN_DATA_FILE: own_data(image, answers),
    }
    return {name: _write(folder / name, content) for name, content in contents.items()}


def coco_document(image: Image.Image, answers: Sequence[Answer], domain: str | None = None) -> dict[str, Any]:
    """Return the answers in COCO format: one category per phrase, one annotation per non-empty mask.

    Masks are run-length encoded, boxes are (x, y, width, height). `no_target` lists the phrases without a match. `info`
    holds the domain of the model, if it has one.
    """
    annotations: list[dict[str, Any]] = []
    for number, answer in enumerate(answers, 1):
        if answer.area:
            annotations.append(coco_annotation(answer.as_dict(), len(annotations) + 1, 1, number))
    return {
        "images": [{"id": 1, "file_name": "image.png", "width": image.width, "height": image.height}],
        "categories": [{"id": number, "name": answer.phrase} for number, answer in enumerate(answers, 1)],
        "annotations": annotations,
        "no_target": [answer.phrase for answer in answers if answer.no_target],
        **({} if domain is None else {"info": {"domain": domain}}),
    }


def own_data(image: Image.Image, answers: Sequence[Answer]) -> bytes:
    """Return a ZIP file with the answers as training data in the project's own format (docs/own_data.md).

    It holds `images/NAME.png` and `corrected_NAME.jsonl`, one line per phrase with its mask, or with `no_target` if the
    mask is empty. NAME is a hash of the pixels; several files can be unpacked into one directory.
    """
    name = hashlib.sha256(image.tobytes()).hexdigest()[:12]
    lines = [
        {
            "image": f"images/{name}.png",
            "phrase": answer.phrase,
            **({"rle": answer.to_rle()} if answer.area else {"no_target": True}),
        }
        for answer in answers
    ]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"images/{name}.png", _png(image))
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        archive.writestr(f"corrected_{name}.jsonl", text)
    return file.getvalue()


def _write(path: Path, content: bytes) -> Path:
    write_atomically(path, lambda file: file.write(content))
    return path


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()
