"""What the page shows and offers to download, without a browser."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from refersam.errors import PhraseError
from refersam.inference.answers import Answer
from refersam.inference.labels import label_map
from refersam.web.answers import COLOURS, coco_document, legend, overlay, split_phrases, write_files

IMAGE = Image.new("RGB", (6, 4), (10, 20, 30))


def answer(phrase: str, box: tuple[int, int, int, int] | None, no_target: bool = False) -> Answer:
    """A mask that fills a box (left, top, right, bottom)."""
    mask = np.zeros((4, 6), bool)
    if box is not None:
        mask[box[1] : box[3], box[0] : box[2]] = True
    return Answer(phrase, mask, mask.astype(np.float32), 0.75, no_target)


ANSWERS = [answer("the <b>dog</b>", (1, 0, 3, 2)), answer("a cat", None, True), answer("the end", (4, 2, 6, 4))]
MASKS = [answer.mask for answer in ANSWERS]


def test_phrases_of_a_text() -> None:
    """A line or a semicolon ends a phrase; spaces do not count; too many and none are refused."""
    assert split_phrases(" the red  star\n\n;all rings ; ", 4) == ["the red star", "all rings"]
    for text in ("", " \n;"):
        with pytest.raises(PhraseError, match="Type what to look for"):
            split_phrases(text, 4)
    with pytest.raises(PhraseError, match="These are 3 phrases; at most 2"):
        split_phrases("a;b;c", 2)


def test_overlay_shows_what_was_chosen() -> None:
    """Each phrase in its colour, the others not at all."""
    both, second = (np.asarray(overlay(IMAGE, MASKS, shown)) for shown in ([0, 1, 2], [2]))
    assert tuple(both[0, 1]) == COLOURS[0]
    assert tuple(both[2, 4]) == tuple(second[2, 4]) == COLOURS[2]
    assert tuple(second[0, 1]) == (10, 20, 30)
    assert overlay(IMAGE, MASKS, [1]) is IMAGE


def test_legend_says_what_was_found_and_what_not() -> None:
    """Scores, shares, and nothing that a phrase could smuggle into the page."""
    text = legend(ANSWERS)
    assert text.count("<li>") == 3
    assert text.count("nothing matches") == 1
    assert text.count("score 0.75") == 2
    assert "16.7 % of the image" in text
    assert "&lt;b&gt;dog&lt;/b&gt;" in text
    assert "<b>" not in text
    text = legend([replace(ANSWERS[0], unknown=("\u2b50", "<i>"))])
    assert "unknown, not read: \u2b50 &lt;i&gt;" in text


def test_files_to_download(tmp_path: Path) -> None:
    """The mask of all, the image cut out by it, and an annotation for each mask."""
    files = write_files(IMAGE, ANSWERS, tmp_path)
    union = ANSWERS[0].mask | ANSWERS[2].mask
    np.testing.assert_array_equal(np.asarray(Image.open(files["mask.png"])) > 0, union)
    labels = np.asarray(Image.open(files["labels.png"]))
    np.testing.assert_array_equal(labels, label_map(ANSWERS))
    assert {1, 3} <= set(labels.flat) <= {0, 1, 3}
    cutout = np.asarray(Image.open(io.BytesIO(files["cutout.png"].read_bytes())))
    np.testing.assert_array_equal(cutout[..., 3] > 0, union)
    assert tuple(cutout[0, 1, :3]) == (10, 20, 30)
    document = json.loads(files["answers.json"].read_text())
    assert document == json.loads(json.dumps(coco_document(IMAGE, ANSWERS)))
    assert [(row["category_id"], row["bbox"]) for row in document["annotations"]] == [
        (1, [1, 0, 2, 2]),
        (3, [4, 2, 2, 2]),
    ]
    np.testing.assert_array_equal(coco_mask.decode(document["annotations"][1]["segmentation"]), ANSWERS[2].mask)
    assert document["no_target"] == ["a cat"]
