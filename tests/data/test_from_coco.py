"""Conversion of COCO annotations and a list of phrases to own data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from refersam.data import open_dataset
from refersam.data.from_coco import convert_coco
from refersam.errors import DataError

CSV = """ann_ids,phrase,image,id,tags
10,the left dog,,first,
10; 11,"both, the dogs",,,plural animal
,a horse,COCO_train2014_000000000002.jpg,,
"""
LINES = (
    {"ann_id": 10, "phrase": "the left dog", "id": "first"},
    {"ann_ids": [10, 11], "phrase": "both, the dogs", "tags": ["plural", "animal"]},
    {"image": "COCO_train2014_000000000002.jpg", "phrase": "a horse"},
)


def convert(root: Path, name: str, text: str) -> Path:
    """Return the file made from a list of phrases."""
    phrases, out = root / name, root / "own" / "train.jsonl"
    phrases.write_text(text, encoding="utf-8")
    convert_coco(root / "refcoco/instances.json", phrases, root / "images/train2014", out)
    return out


@pytest.mark.parametrize(
    ("name", "text"), [("p.csv", CSV), ("p.csv", "\ufeff" + CSV), ("p.jsonl", "\n".join(map(json.dumps, LINES)))]
)
def test_csv_and_json_lines(miniature: Any, name: str, text: str) -> None:
    """Both give the same data set, which refers to the original images."""
    root = miniature.write()
    out = convert(root, name, text)
    samples = open_dataset(out.parent, "jsonl", "train")
    assert [(s.phrase, s.sample_id, s.tags) for s in samples] == [
        ("the left dog", "first", ()),
        ("both, the dogs", "train:3", ("plural", "animal")),
        ("a horse", "train:4", ()),
    ]
    assert [int(s.load_mask().sum()) for s in samples] == [100, 200, 0]
    assert [s.distractors for s in samples] == [1, 0, None]
    assert samples[2].image.load().size == (40, 30)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ann_id,phrase\n99,x\n", r"p\.csv, line 2: annotation 99 is not in .*instances\.json"),
        ("ann_id,phrase\n10,\n", r"line 2: phrase is missing"),
        ("ann_id,phrase\nten,x\n", r"line 2: ann_id .*but is 'ten'"),
        ("ann_id,phrase\n,x\n", "line 2: expected are annotations with a mask, all of one image of"),
        ("ann_ids,phrase\n10 20,x\n", "line 2: expected are annotations with a mask, all of one image of"),
        ("image,phrase\nnowhere.jpg,x\n", "line 2: expected are annotations"),
        ("ann_id,phrase,colour\n10,x,red\n", "line 2: colour is not a field of this format"),
        ("ann_id,phrase\n", "has no phrase"),
        ("", "has no phrase"),
    ],
)
def test_mistakes(miniature: Any, text: str, message: str) -> None:
    """Each error names its line; nothing is written."""
    root = miniature.write()
    with pytest.raises(DataError, match=message):
        convert(root, "p.csv", text)
    assert not (root / "own").exists()


def test_all_mistakes_are_reported_at_once(miniature: Any) -> None:
    """The error covers all lines."""
    with pytest.raises(DataError, match=r"2 errors\): .*line 2.*line 3.*Nothing was written\."):
        convert(miniature.write(), "p.csv", "ann_id,phrase\n98,x\n99,x\n10,x\n")


def test_files_that_cannot_be_read(miniature: Any) -> None:
    """Missing, not JSON, not text."""
    root = miniature.write()
    with pytest.raises(DataError, match=r"p\.jsonl, line 1 is not JSON"):
        convert(root, "p.jsonl", "{")
    (root / "p.csv").write_bytes(b"\xff\xfe\x00")
    for name, message in (("p.csv", "is not UTF-8 text"), ("nowhere.csv", "cannot be read: No such file")):
        with pytest.raises(DataError, match=message):
            convert_coco(root / "refcoco/instances.json", root / name, root / "images", root / "train.jsonl")
