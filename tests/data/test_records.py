"""Records of other tools: nulls, backslashes, columns without a name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from refersam.bulk.items import open_items
from refersam.data import open_dataset
from refersam.data.check import check_dataset
from refersam.data.datasets import read_dataset
from refersam.data.from_coco import convert_coco
from refersam.data.jsonl import JsonlLine
from refersam.data.records import RecordType
from refersam.errors import DataError

PHRASES = [{"ann_id": 10, "phrase": "the left dog"}, {"image": "in\\b.jpg", "phrase": "a horse"}]


def convert(root: Path, text: str, name: str = "p.csv") -> Path:
    """Return the file made from a list of phrases."""
    (root / name).write_text(text, encoding="utf-8")
    convert_coco(root / "refcoco/instances.json", root / name, root / "images/train2014", root / "own/train.jsonl")
    return root / "own"


def edit_instances(root: Path, **changes: object) -> None:
    """Return other values for the lists."""
    path = root / "refcoco/instances.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_file_names_with_backslashes(miniature: Any) -> None:
    """In COCO files, lists of phrases and own data, converted and validated; paths out of the folder are rejected."""
    root = miniature.write()
    for name in ("in/a.jpg", "in/b.jpg"):
        miniature.draw(root / "images/train2014" / name)
    images = [entry | {"file_name": f"in\\{name}.jpg"} for entry, name in zip(miniature.images, "ab", strict=True)]
    edit_instances(root, images=images)
    own = convert(root, "\n".join(map(json.dumps, PHRASES)), "p.jsonl")
    assert check_dataset(own, "jsonl").is_good
    assert [sample.image.load().size for sample in open_dataset(own, "jsonl", "train")] == [(40, 30)] * 2
    assert check_dataset(root, "refcoco").is_good
    line = {"image": "images\\train2014\\in\\a.jpg", "phrase": "x", "mask": "in\\m.png"}
    (root / "val.jsonl").write_text(json.dumps(line))
    with pytest.raises(DataError, match=r"No such file: .*/in/m\.png\."):
        open_dataset(root, "jsonl", "val")
    edit_instances(root, images=[images[0] | {"file_name": "..\\..\\a.jpg"}, images[1]])
    with pytest.raises(DataError, match="leads out of the folder"):
        read_dataset(root, "refcoco")


def test_lists_of_images_with_backslashes(tmp_path: Path) -> None:
    """CSV, JSON lines and COCO."""
    coco = {"images": [{"id": 1, "file_name": "in\\a.jpg"}], "annotations": None, "categories": [{"name": "dog"}]}
    for name, content in (
        ("l.csv", "image,phrase\nin\\a.jpg,dog\n"),
        ("l.jsonl", json.dumps({"image": "in\\a.jpg", "phrase": "dog", "phrases": None})),
        ("l.json", json.dumps(coco)),
    ):
        (tmp_path / name).write_text(content)
        (item,) = open_items(None, [str(tmp_path / name)], Path("out"))()
        assert (item.image, item.path, item.phrases) == ("in/a.jpg", str(tmp_path / "in/a.jpg"), ("dog",))


def test_null_is_absent(miniature: Any) -> None:
    """In lists of a COCO file, entries, refs, phrases and own data; never in a required field."""
    nulls = {"category_id": None, "iscrowd": None}
    miniature.annotations = [row | nulls for row in miniature.annotations]
    miniature.refs = [ref | {"tags": None, "no_target": None, "source": None} for ref in miniature.refs]
    root = miniature.write()
    edit_instances(root, categories=None, info=None)
    samples = open_dataset(root, "refcoco", "train")
    assert [sample.category for sample in samples] == [None] * 3
    rows = [{"ann_id": 10, "ann_ids": None, "phrase": "x", "image": None, "id": None, "tags": None}]
    own = convert(root, "\n".join(map(json.dumps, rows)), "p.jsonl")
    assert len(open_dataset(own, "jsonl", "train")) == 1
    fields = dict.fromkeys(("mask", "mask_value", "rle", "polygons", "ann_ids", "id", "tags"))
    line = RecordType(JsonlLine).read({**fields, "image": "a.jpg", "phrase": "x", "no_target": True}, "x")
    assert (line.tags, line.rle, line.id) == ((), None, None)
    with pytest.raises(DataError, match=r"x: phrase should be a valid string, but is None\."):
        RecordType(JsonlLine).read({"phrase": None}, "x")
    edit_instances(root, annotations=None)
    with pytest.raises(DataError, match='it has no entries in "annotations"'):
        read_dataset(root, "refcoco")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"image": "a.jpg", "text": "x"}, r"line 1: phrase is missing, and text is not a field .*, which has phrase, "),
        ({"image": "a.jpg", "phrases": "x"}, "phrase is missing, and phrases is not .*, did you mean phrase"),
        ({"image": "a.jpg", "mask": "m.png"}, r"line 1: phrase is missing\."),
        ({"img": "a.jpg", "text": "x"}, r"line 1: img is not a field.*It was read as the head.*have a \"phrase\""),
    ],
)
def test_a_first_line_without_a_phrase(line: object, message: str, tmp_path: Path) -> None:
    """The error is about the phrase, not the image."""
    (tmp_path / "train.jsonl").write_text(json.dumps(line))
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path, "jsonl", "train")


@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
def test_the_index_column_of_pandas(name: str, miniature: Any) -> None:
    """It is ignored."""
    own = convert(miniature.write(), f"{name},ann_id,phrase\n0,10,the left dog\n1,11,the right dog\n")
    assert [sample.phrase for sample in open_dataset(own, "jsonl", "train")] == ["the left dog", "the right dog"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ann_id,phrase,\n10,x,red\n", r"p\.csv, line 2: column 3 holds 'red', but has no name in the head line"),
        ("Unnamed: 0,ann_id,phrase\nred,10,x\n", "line 2: Unnamed: 0 is not a field of this format, which has phrase,"),
        ("ann_id,phrase,tag\n10,x,red\n", "line 2: tag is not a field of this format, did you mean tags"),
    ],
)
def test_columns_that_are_not_known(text: str, message: str, miniature: Any) -> None:
    """Each is named, with the remedy."""
    with pytest.raises(DataError, match=message):
        convert(miniature.write(), text)
