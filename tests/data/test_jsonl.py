"""Own data: every kind of target, and one sentence for every error."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refersam.data import open_dataset
from refersam.data.datasets import read_dataset
from refersam.errors import DataError

DOCS = Path(__file__).parents[2] / "docs" / "own_data.md"
SQUARE = [2, 3, 12, 3, 12, 13, 2, 13]


@pytest.fixture
def folder(miniature: Any) -> Path:
    """Folder with an image of 40 x 30 pixels, a.jpg, and a mask of it, m.png."""
    miniature.draw(miniature.root / "a.jpg")
    mask = np.zeros((30, 40), np.uint8)
    mask[3:13, 2:12] = 255
    Image.fromarray(mask).save(miniature.root / "m.png")
    return miniature.root


def write(folder: Path, *lines: object, split: str = "train") -> Path:
    """Write lines; other types than str are encoded as JSON."""
    path = folder / f"{split}.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_every_kind_of_target(folder: Path) -> None:
    """The same square from mask, polygons, run lengths, and no target."""
    half = {"size": [30, 40], "counts": [600, 600]}
    write(
        folder,
        {"image": "a.jpg", "phrase": " the square ", "mask": "m.png"},
        "",
        {"image": "a.jpg", "phrase": "the square", "polygons": [SQUARE], "id": "mine", "tags": ["shape", "size"]},
        {"image": "./a.jpg", "phrase": "the right half", "rle": half, "id": 7},
        {"image": "a.jpg", "phrase": "all of it", "rle": [half, {"size": [30, 40], "counts": [0, 600, 600]}]},
        {"image": "a.jpg", "phrase": "a horse", "no_target": True},
    )
    samples = open_dataset(folder, "jsonl", "train")
    assert [s.sample_id for s in samples] == ["train:1", "mine", "7", "train:5", "train:6"]
    assert [int(s.load_mask().sum()) for s in samples] == [100, 100, 600, 1200, 0]
    np.testing.assert_array_equal(samples[0].load_mask(), samples[1].load_mask())
    assert (samples[0].phrase, samples[1].tags, samples[4].has_target) == ("the square", ("shape", "size"), False)
    assert {(s.category, s.distractors) for s in samples} == {(None, None)}
    assert len(samples.images()) == 1


def test_annotations_of_a_coco_file(miniature: Any) -> None:
    """Image, category and distractors come from the COCO file."""
    root = miniature.write()
    write(
        root,
        {"instances": "refcoco/instances.json", "images": "images/train2014"},
        {"phrase": "the left dog", "ann_ids": [10]},
        {"phrase": "both", "ann_ids": [10, 11, 10], "image": "COCO_train2014_000000000001.jpg"},
        {"phrase": "a horse", "no_target": True, "image": "COCO_train2014_000000000002.jpg"},
    )
    left, both, none = open_dataset(root, "jsonl", "train")
    assert (left.category, left.distractors, both.distractors, none.category) == ("dog", 1, 0, None)
    assert int(both.load_mask().sum()) == 200
    assert left.image is both.image
    assert none.image.load().size == (40, 30)


def test_the_splits_are_the_files(folder: Path) -> None:
    """Splits have the names of the files."""
    for split in ("train", "val"):
        write(folder, {"image": "a.jpg", "phrase": split, "no_target": True}, split=split)
    assert [s.phrase for s in open_dataset(folder, "jsonl", "val")] == ["val"]
    assert sorted(read_dataset(folder, "jsonl").samples) == ["train", "val"]
    with pytest.raises(DataError, match=r"No such file: .*test\.jsonl \(the folder has train, val\)"):
        open_dataset(folder, "jsonl", "test")


def test_images_as_they_are_stored(folder: Path) -> None:
    """The EXIF orientation is ignored: masks match the stored pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(folder / "a.jpg").save(folder / "a.jpg", exif=exif)
    write(folder, {"image": "a.jpg", "phrase": "the square", "mask": "m.png"})
    (sample,) = open_dataset(folder, "jsonl", "train")
    assert sample.image.load().size == (40, 30)
    assert sample.load_mask().shape == (30, 40)


@pytest.mark.parametrize(("orientation", "is_sideways"), [(6, True), (3, False), (2, False), (8, True)])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_upright_images(folder: Path, orientation: int, is_sideways: bool, suffix: str) -> None:
    """With `apply_exif_rotation`, masks match the image as a viewer shows it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.open(folder / "a.jpg").convert("RGB")
    stored.save(folder / f"b.{suffix}", exif=exif)
    size = [40, 30] if is_sideways else [30, 40]
    half = {"size": size, "counts": [600, 600]}
    write(
        folder,
        {"apply_exif_rotation": True},
        {"image": f"b.{suffix}", "phrase": "the right half", "rle": half, "score": 0.7},
        {"image": "a.jpg", "phrase": "the square", "mask": "m.png"},
    )
    turned, plain = open_dataset(folder, "jsonl", "train")
    assert turned.image.load().size == (size[1], size[0])
    assert turned.load_mask().shape == tuple(size)
    assert np.asarray(turned.image.load()).tobytes() != np.asarray(Image.open(folder / f"b.{suffix}")).tobytes()
    assert plain.image.load().size == (40, 30)


def test_results_are_no_splits(folder: Path) -> None:
    """Files of `segment-many` beside the splits are left out, unless they are named."""
    for split in ("train", "results", "failures"):
        write(folder, {"image": "a.jpg", "phrase": "x", "no_target": True}, split=split)
    assert list(read_dataset(folder, "jsonl").samples) == ["train"]
    assert len(open_dataset(folder, "jsonl", "results")) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"image": "a.jpg", "phrase": "x"}, "one of .* is needed, but none is given"),
        ({"image": "a.jpg", "phrase": "x", "no_target": True, "score": 2}, "score should be less than or equal to 1"),
        ({"image": "a.jpg", "phrase": "x", "no_target": False}, "one of .* is needed, but none is given"),
        ({"image": "a.jpg", "phrase": "x", "no_target": True, "mask": "m.png"}, "mask and no_target are given"),
        ({"image": "a.jpg", "phrase": "x", "polygon": [SQUARE]}, "polygon is not a field of this format"),
        ({"image": "a.jpg", "phrase": "", "mask": "m.png"}, r"phrase: it should have at least one word\."),
        ({"image": "a.jpg", "phrase": 3, "mask": "m.png"}, "phrase should be a valid string, but is 3"),
        ({"phrase": "x", "mask": "m.png"}, '"image" is missing'),
        ({"image": "b.jpg", "phrase": "x", "mask": "m.png"}, r"No such file: .*b\.jpg"),
        ({"image": "train.jsonl", "phrase": "x", "mask": "m.png"}, r"train\.jsonl is not an image that can be read"),
        ({"image": "a.jpg", "phrase": "x", "mask": "n.png"}, r"No such file: .*n\.png"),
        (
            {"image": "m.png", "phrase": "x", "mask": "small.png"},
            r"small\.png has 4 x 3 pixels, but its image 40 x 30",
        ),
        (
            {"image": "a.jpg", "phrase": "x", "mask": "m.png", "mask_value": "1"},
            r"mask_value: it should be a stored value such as 1, or a colour \[255, 0, 0\], but is '1'\.",
        ),
        ({"image": "a.jpg", "phrase": "x", "mask": "m.png", "mask_value": True}, "mask_value: .* but is True"),
        ({"image": "a.jpg", "phrase": "x", "mask": "m.png", "mask_value": [0, 0, 256]}, r"mask_value: .*0, 256\]"),
        ({"image": "a.jpg", "phrase": "x", "no_target": True, "mask_value": 1}, 'but there is no "mask"'),
        ({"image": "a.jpg", "phrase": "x", "polygons": [[1, 2, 3, 4, 5]]}, "none of its 1 polygons has"),
        ({"image": "a.jpg", "phrase": "x", "polygons": [SQUARE, [1, 2, 3]]}, "1 of the polygons have fewer than 6"),
        ({"image": "a.jpg", "phrase": "x", "polygons": []}, "polygons should have at least 1 item, but is \\[\\]"),
        (
            {"image": "a.jpg", "phrase": "x", "polygons": [[[1, 2], [3, 4]]]},
            r"polygons\.0\.0 should be a valid num",
        ),
        ({"image": "a.jpg", "phrase": "x", "rle": {"size": [30, 40], "counts": [3]}}, "must add up to 30 x 40"),
        ({"image": "a.jpg", "phrase": "x", "rle": {"size": [3, 4], "counts": [12]}}, "a mask of 4 x 3 pixels, but its"),
        ({"image": "a.jpg", "phrase": "x", "rle": "abc"}, r"rle\.0 .*but is 'abc'"),
        ({"image": "a.jpg", "phrase": "x", "ann_ids": [1]}, '"ann_ids" need a first line'),
        ("[1, 2]", r"but is \[1, 2\]"),
        ('{"image": "a.jpg", ', "is not JSON"),
        ("{'image': 'a.jpg'}", "is not JSON"),
        ({"image": "a.jpg", "phrase": "x", "no_target": True, "id": "first"}, "the id 'first' is that of line 1, too"),
    ],
)
def test_mistakes(folder: Path, line: object, message: str) -> None:
    """Each error names file and line; the other lines are valid."""
    Image.new("L", (4, 3)).save(folder / "small.png")
    write(folder, {"image": "a.jpg", "phrase": "y", "no_target": True, "id": "first"}, line)
    with pytest.raises(DataError, match=rf"(?s)1 error\): .*train\.jsonl, line 2.*{message}"):
        open_dataset(folder, "jsonl", "train")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"phrase": "x", "ann_ids": [99]}, r"line 2: annotation 99 is not in .*instances\.json"),
        ({"phrase": "x", "ann_ids": [10, 20]}, "line 2: the annotations are of different images"),
        ({"phrase": "x", "ann_ids": [10], "image": "b.jpg"}, r"of COCO_train2014_000000000001\.jpg, not of b\.jpg"),
        ({"phrase": "x", "ann_ids": []}, "ann_ids should have at least 1 item"),
        ({"phrase": "x", "ann_ids": [11]}, "an annotation's mask cannot be drawn: "),
    ],
)
def test_mistakes_with_annotations(miniature: Any, line: object, message: str) -> None:
    """The same with a COCO file."""
    miniature.annotations[1]["segmentation"] = []
    root = miniature.write()
    write(root, {"instances": "refcoco/instances.json", "images": "images/train2014"}, line)
    with pytest.raises(DataError, match=message):
        open_dataset(root, "jsonl", "train")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"instances": "nowhere.json"}, r"nowhere\.json cannot be read: No such file"),
        ({"instance": "instances.json"}, r"train\.jsonl, line 1: instance is not a field of this format"),
        ({"instances": 3}, r"line 1: instances .*but is 3"),
    ],
)
def test_mistakes_in_the_first_line(folder: Path, head: object, message: str) -> None:
    """An invalid first line prevents reading."""
    write(folder, head, {"image": "a.jpg", "phrase": "x", "no_target": True})
    with pytest.raises(DataError, match=message):
        open_dataset(folder, "jsonl", "train")


def test_all_mistakes_are_found_at_once(folder: Path) -> None:
    """The error covers all lines."""
    write(folder, {"image": "a.jpg", "phrase": "x"}, "{", {"image": "b.jpg", "phrase": "x", "no_target": True})
    messages = [finding.message for finding in read_dataset(folder, "jsonl").findings]
    assert sorted(re.search(r"line (\d)", message)[1] for message in messages) == ["1", "2", "3"]  # type: ignore[index]


def test_empty_files(folder: Path) -> None:
    """A file without phrases is not a data set."""
    write(folder, "")
    with pytest.raises(DataError, match=r"jsonl, split train, has no phrase\."):
        open_dataset(folder, "jsonl", "train")


def test_the_documents_example(tmp_path: Path) -> None:
    """Its lines are read as documented."""
    blocks = re.findall(r"```json lines\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "val.jsonl").write_text(blocks[0], encoding="utf-8")
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "images/street.jpg")
    Image.new("L", (64, 48), 255).save(tmp_path / "masks/bus.png")
    samples = open_dataset(tmp_path, "jsonl", "val")
    assert [s.has_target for s in samples] == [True, True, True, False, True]
    assert [int(s.load_mask().sum()) for s in samples][:4] == [64 * 48, 160, 192, 0]
    assert (samples[4].sample_id, samples[4].tags) == ("signs-1", ("plural",))
    (tmp_path / "val.jsonl").write_text(blocks[1], encoding="utf-8")
    Image.fromarray(np.arange(64 * 48, dtype=np.uint8).reshape(48, 64) % 9).save(tmp_path / "masks/labels.png")
    Image.new("RGB", (64, 48), (70, 130, 180)).save(tmp_path / "masks/colours.png")
    assert [int(s.load_mask().sum()) for s in open_dataset(tmp_path, "jsonl", "val")] == [336, 64 * 48]
    head, *lines = map(json.loads, blocks[2].splitlines())
    instances = {
        "images": [{"id": 139, "file_name": "000000000139.jpg", "width": 64, "height": 48}],
        "annotations": [
            {"id": number, "image_id": 139, "segmentation": [[number, 0, 30, 0, 30, 9]]} for number in (12, 15)
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    Image.new("RGB", (64, 48)).save(tmp_path / "images/000000000139.jpg")
    write(tmp_path, head, *lines)
    assert [s.has_target for s in open_dataset(tmp_path, "jsonl", "train")] == [True, False]
