"""What the page shows of answers, and what it offers to download."""

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
"""Of the phrases, in turn: dark enough for white text."""

MASK_FILE, LABELS_FILE, CUTOUT_FILE, COCO_FILE = "mask.png", "labels.png", "cutout.png", "answers.json"
OWN_DATA_FILE = "own_data.zip"
FILES = {
    MASK_FILE: ("mask", "Mask PNG"),
    LABELS_FILE: ("labels", "Label map"),
    CUTOUT_FILE: ("cutout", "Cut-out PNG"),
    COCO_FILE: ("coco", "COCO JSON"),
    OWN_DATA_FILE: ("own-data", "Own data"),
}
"""For each file to download, the name and the text of its button."""


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


def overlay(image: Image.Image, masks: Sequence[np.ndarray], shown: Sequence[int]) -> Image.Image:
    """Lay the (H, W) bool masks with the indices `shown` over an RGB image, each in its colour, later ones on top."""
    return draw_overlays(image, ((masks[index], colour_of(index)) for index in shown))


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
    image: Image.Image, answers: Sequence[Answer], folder: Path, domain: str | None = None
) -> dict[str, Path]:
    """Write mask, label map, cut-out, COCO file and own data of the answers about one image.

    The mask is white where any phrase's is; the label map has the number of the phrase, 1 for the first; the cut-out is
    the image, transparent elsewhere; the JSON file has an annotation for each phrase that has a mask, and lists those
    that match nothing. Own data is described in `own_data`.

    Args:
        image: W x H, RGB.
        answers: at least one.
        folder: an existing folder.
        domain: of the model, for the JSON file.

    Returns:
        The files by their names.
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
    """The answers in COCO's format: categories are phrases, masks run-length encoded, boxes (x, y, width, height).

    `info` holds the domain of the model, if it has one.
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

    It holds `images/NAME.png` and `corrected_NAME.jsonl`: a line for each phrase with its mask, or with `no_target` if
    the mask is empty. NAME is a hash of the pixels, so that several files can be unpacked into one folder.
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
