"""Which images are asked for which phrases."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from refersam.bulk.items import Item, open_items
from refersam.errors import DataError

OUT = Path("nowhere")


def make(root: Path, *names: str) -> None:
    """Empty files."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(items: list[Item]) -> list[str]:
    """Of their images."""
    return [item.image for item in items]


def test_a_folder_gives_its_images_in_order_and_nothing_else(tmp_path: Path) -> None:
    """With those in its folders; not hidden files, other files, nor what was written before."""
    make(tmp_path, "b.jpg", "a.PNG", "notes.txt", ".hidden.png", "in/c.webp", ".git/d.png", "out/masks/e.png")
    items = list(open_items(str(tmp_path), ["the dog ", "a cat", "the dog"], tmp_path / "out")())
    assert names(items) == ["a.PNG", "b.jpg", "in/c.webp"]
    assert items[0] == Item("a.PNG", str(tmp_path / "a.PNG"), ("the dog", "a cat"))
    assert len({item.key for item in items}) == 3


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".mpo", ".apng", ".j2k", ".PNM", ".avif", ".heic"])
def test_every_suffix_of_a_format_that_is_read(suffix: str, tmp_path: Path) -> None:
    """Also those that cameras and browsers rarely write; not those of formats that are refused."""
    make(tmp_path, f"a{suffix}", "b.ico", "c.eps", "d.psd")
    assert names(list(open_items(str(tmp_path), ["x"], OUT)())) == [f"a{suffix}"]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    """After the folders themselves; loops end, and neither hidden folders nor results are searched by a link."""
    root, other = tmp_path / "photos", tmp_path / "other"
    make(root, "a.png", "in/b.png", ".hidden/h.png", "out/masks/m.png")
    make(other, "c.png", "deep/d.png", "masks/e.png")
    for link, target in {
        root / "again": root / "in",
        root / "in" / "up": root,
        root / "link": other,
        other / "deep" / "back": other,
        other / "results": root / "out" / "masks",
        root / "linked.png": other / "c.png",
    }.items():
        link.symlink_to(target)
    found = names(list(open_items(str(root), ["x"], root / "out")()))
    assert found == ["a.png", "linked.png", "in/b.png", "link/c.png", "link/deep/d.png", "link/masks/e.png"]
    root.rename(tmp_path / "moved")
    root.symlink_to(tmp_path / "moved")
    assert names(list(open_items(str(root), ["x"], root / "out")()))[:2] == ["a.png", "linked.png"]


def test_what_is_skipped_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By suffix, anew at each listing; folders that cannot be read are named."""
    make(tmp_path, "a.png", "b.txt", "in/c.TXT", "d.mp4", "README", ".DS_Store", "secret/e.png")
    scan = os.scandir

    def refuse(path: str) -> Any:
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    source = open_items(str(tmp_path), ["x"], OUT)
    assert str(source.skipped) == ""
    for _ in range(2):
        assert names(list(source())) == ["a.png"]
        expected = "4 files of other types (.txt: 2, .mp4: 1, no suffix: 1) and 1 folder that cannot be read"
        assert str(source.skipped) == f"{expected} ({tmp_path / 'secret'})"


def test_masks_beside_the_images_are_no_images(tmp_path: Path) -> None:
    """Where the results go into the folder of the images."""
    for name in ("a.png", "masks/a.png/0_x.png", "deeper/masks/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    items = open_items(str(tmp_path), ["x"], tmp_path)()
    assert [item.image for item in items] == ["a.png", "deeper/masks/b.png"]


def test_a_pattern_gives_what_it_matches(tmp_path: Path) -> None:
    """Under the names that it gives, sorted."""
    make(tmp_path, "b.jpg", "a.jpg", "x/c.jpg", "d.png", "out/e.jpg")
    pattern = str(tmp_path / "**" / "*.jpg")
    items = list(open_items(pattern, ["the dog"], tmp_path / "out")())
    assert names(items) == [str(tmp_path / name) for name in ("a.jpg", "b.jpg", "x/c.jpg")]


def test_where_the_results_go_into_the_images_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern and a file find the images, and never the masks; however the folder is written, by a link as well."""
    make(tmp_path, "a.png", "x/b.png", "masks/a.png/0_x.png", "out/masks/c.png")
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert names(list(open_items("*.png", ["x"], Path())())) == ["a.png"]
    assert names(list(open_items("a.png", ["x"], Path())())) == ["a.png"]
    assert names(list(open_items("**/*.png", ["x"], Path("x/.."))()))[:2] == ["a.png", "link/a.png"]
    assert not any("masks/a.png" in name for name in names(list(open_items("**/*.png", ["x"], Path())())))
    for out in ("out", "x/../out", "link/out"):
        assert names(list(open_items(".", ["x"], Path(out))())) == ["a.png", "masks/a.png/0_x.png", "x/b.png"]


def test_a_text_file_has_a_phrase_a_line(tmp_path: Path) -> None:
    """Empty lines are passed over, and a byte order mark."""
    make(tmp_path, "a.jpg")
    (tmp_path / "p.txt").write_text("\ufeffthe dog\r\n\n  a cat\n")
    assert next(open_items(str(tmp_path), [str(tmp_path / "p.txt")], OUT)()).phrases == ("the dog", "a cat")


def test_csv(tmp_path: Path) -> None:
    """Rows of one image are one item; other columns are passed over; names start from the file, or from --images."""
    path = tmp_path / "list.csv"
    path.write_text('image,phrase,note\na.jpg,the dog,x\na.jpg,"the cat, left",\nb.jpg,the dog,\n')
    items = list(open_items(None, [str(path)], OUT)())
    assert items == [
        Item("a.jpg", str(tmp_path / "a.jpg"), ("the dog", "the cat, left")),
        Item("b.jpg", str(tmp_path / "b.jpg"), ("the dog",)),
    ]
    (tmp_path / "images").mkdir()
    assert next(open_items(str(tmp_path / "images"), [str(path)], OUT)()).path == str(tmp_path / "images/a.jpg")


def test_json_lines(tmp_path: Path) -> None:
    """With one phrase or several, and own data's other fields."""
    path = tmp_path / "list.jsonl"
    rows = [{"image": "a.jpg", "phrase": "the dog", "no_target": True}, {"image": "b.jpg", "phrases": ["x", "y"]}]
    path.write_text("\n\n".join(map(json.dumps, rows)))
    assert [item.phrases for item in open_items(None, [str(path)], OUT)()] == [("the dog",), ("x", "y")]


def test_coco_captions_or_categories(tmp_path: Path) -> None:
    """Captions are the phrases of their images; without any, each image is asked for each category."""
    path = tmp_path / "coco.json"
    images = [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}]
    captions = [{"image_id": 8, "caption": "a dog"}, {"image_id": 8, "caption": "a cat"}]
    path.write_text(json.dumps({"annotations": captions, "images": images, "categories": [{"id": 1, "name": "car"}]}))
    assert [(i.image, i.phrases) for i in open_items(None, [str(path)], OUT)()] == [("b.jpg", ("a dog", "a cat"))]
    boxes = [{"image_id": 7, "bbox": [1, 2, 3, 4]}]
    path.write_text(json.dumps({"images": images, "categories": [{"id": 1, "name": "car"}], "annotations": boxes}))
    assert [(i.image, i.phrases) for i in open_items(None, [str(path)], OUT)()] == [
        ("a.jpg", ("car",)),
        ("b.jpg", ("car",)),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "photo,phrase\n", "head line with the columns image and phrase"),
        ("a.csv", "image;phrase\na.jpg;x\n", "but has 'image;phrase'"),
        ("a.csv", "image,phrase\na.jpg,the big, red star\n", "line 2 has more cells .* between quotes"),
        ("a.csv", 'image,phrase\na.jpg,"the star\nb.jpg,x\n', "is not a CSV file"),
        ("a.jsonl", '{"image": "a.jpg", "phrase": "x", "phrases": ["y"]}', "both phrase and phrases"),
        ("a.csv", "image,phrase\na.jpg,\n", "line 2: image or phrase is empty"),
        ("a.csv", b"image,phrase\n\xff,x\n", "is not a CSV file in UTF-8"),
        ("a.csv", "image,phrase\na.jpg," + "x" * 200_000, "is not a CSV file"),
        ("a.jsonl", "{", "line 1 is not JSON"),
        ("a.jsonl", "[1]", "a.jsonl, line 1"),
        ("a.jsonl", '{"image": "a.jpg"}', "phrases is missing"),
        ("a.jsonl", '{"image": "a.jpg", "phrases": []}', "phrases"),
        ("a.jsonl", '{"image": "a.jpg", "phrase": " "}', "must have at least one word"),
        ("a.json", "[]", "must be a COCO file"),
        ("a.json", '{"images": [{"id": 1}]}', "file_name is missing"),
        ("a.json", '{"images": [{"id": 1, "file_name": "a"}]}', "must be a COCO file"),
        (
            "a.json",
            '{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 3, "caption": "x"}]}',
            "captions of image 3",
        ),
        ("a.txt", "\n", "none came"),
        ("a.txt", b"\xff\xfe", "is not UTF-8"),
    ],
)
def test_a_broken_list_is_one_sentence(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    """It names the file and the line."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        list(open_items(str(tmp_path), [str(path)], OUT)())


@pytest.mark.parametrize(
    ("images", "phrases", "message"),
    [
        (None, ["the dog"], "--images is needed"),
        ("missing", ["the dog"], "No such folder: missing"),
        (".", ["missing.csv"], "No such file: missing.csv"),
        (".", ["a.csv", "the dog"], "texts or one file"),
        (".", ["  "], "one is empty"),
    ],
)
def test_what_cannot_be_meant(images: str | None, phrases: list[str], message: str) -> None:
    """Said before anything is done."""
    with pytest.raises(DataError, match=message):
        open_items(images, phrases, OUT)
