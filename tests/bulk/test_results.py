"""The folder of results: what is in it after a stop, and where files may go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from refersam.bulk.coco import write_coco
from refersam.bulk.items import Item
from refersam.bulk.results import SETTINGS, ResultFolder, mask_path, read_results
from refersam.errors import DataError
from refersam.inference.answers import Answer

MASK = np.array([[0, 1, 1], [0, 0, 1]], dtype=bool)


def line(image: str, *phrases: str, mask: np.ndarray = MASK) -> dict[str, Any]:
    """One image's results."""
    answers = [Answer(phrase, mask, mask.astype(np.float32), 0.25, not mask.any()) for phrase in phrases]
    return {"image": image, "width": 3, "height": 2, "results": [answer.as_dict() for answer in answers]}


def images(path: Path) -> list[str]:
    """Names in a file of results."""
    return [row["image"] for row in read_results(path)]


def test_lines_masks_and_failures(tmp_path: Path) -> None:
    """All files have their final names when all is done, and only then."""
    with ResultFolder(tmp_path, {"threshold": 0.5}, masks=True) as folder:
        folder.add(line("a.jpg", "the dog"))
        folder.add({"image": "b.jpg", "phrases": ["x"], "error": "b.jpg is broken."})
        assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".part") == [
            "failures.jsonl.part",
            "results.jsonl.part",
        ]
        folder.finish()
    assert images(tmp_path / "results.jsonl") == ["a.jpg"]
    assert images(tmp_path / "failures.jsonl") == ["b.jpg"]
    assert not list(tmp_path.glob("*.part"))
    mask = np.asarray(Image.open(tmp_path / "masks" / "a.jpg" / "0_the-dog.png"))
    assert np.array_equal(mask, MASK * 255)


def test_a_cut_off_line_is_removed_and_asked_again(tmp_path: Path) -> None:
    """Whole lines stay; at every byte where a kill may have cut the last one."""
    with ResultFolder(tmp_path, {}, masks=False) as folder:
        folder.add(line("a.jpg", "x"))
        folder.add(line("b.jpg", "x"))
    part = tmp_path / "results.jsonl.part"
    whole = part.read_bytes()
    first = whole.index(b"\n") + 1
    items = [Item(name, name, ("x",)) for name in ("a.jpg", "b.jpg", "c.jpg")]
    for cut in range(first, len(whole)):
        part.write_bytes(whole[:cut])
        with ResultFolder(tmp_path, {}, masks=False) as folder:
            assert [item.image for item in folder.missing(items)] == ["b.jpg", "c.jpg"]
        assert part.read_bytes() == whole[:first]


def test_each_item_once(tmp_path: Path) -> None:
    """Even where a list names it twice; other phrases are another item."""
    items = [Item("a.jpg", "a.jpg", ("x",))] * 2 + [Item("a.jpg", "a.jpg", ("y",))]
    with ResultFolder(tmp_path, {}, masks=False) as folder:
        assert len(list(folder.missing(items))) == 2


def test_failed_images_are_tried_again(tmp_path: Path) -> None:
    """And are no longer listed when they succeed."""
    with ResultFolder(tmp_path, {}, masks=False) as folder:
        folder.add({"image": "b.jpg", "phrases": ["x"], "error": "broken"})
        folder.finish()
    with ResultFolder(tmp_path, {}, masks=False) as folder:
        assert len(list(folder.missing([Item("b.jpg", "b.jpg", ("x",))]))) == 1
        folder.add(line("b.jpg", "x"))
        folder.finish()
    assert not (tmp_path / "failures.jsonl").exists()


def test_where_nothing_is_added_the_folder_stays_as_it_was(tmp_path: Path) -> None:
    """A mistyped second call does not unmake what is finished; a first one leaves nothing."""
    for _ in range(2):
        with pytest.raises(DataError), ResultFolder(tmp_path / "new", {}, masks=False):
            raise DataError("no image")
        assert not (tmp_path / "new").exists()
    out = tmp_path / "done"
    with ResultFolder(out, {}, masks=False) as folder:
        folder.add(line("a.jpg", "x"))
        folder.add({"image": "b.jpg", "phrases": ["x"], "error": "broken"})
        folder.finish()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "failures.jsonl" in before
    with pytest.raises(DataError), ResultFolder(out, {}, masks=False):
        raise DataError("no image")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    with ResultFolder(out, {}, masks=False) as folder:  # stopped on the way
        folder.add({"image": "b.jpg", "phrases": ["x"], "error": "broken"})
    assert {path.name for path in out.iterdir() if path.suffix == ".part"} == {
        "results.jsonl.part",
        "failures.jsonl.part",
    }
    with ResultFolder(out, {}, masks=False) as folder:
        folder.add(line("b.jpg", "x"))
        folder.finish()
    assert {path.name for path in out.iterdir()} == {"results.jsonl", "settings.json"}


def test_who_comes_second_takes_nothing_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two first tries at the same moment: the one without the lock leaves the other's files alone."""
    first, second = (ResultFolder(tmp_path, {}, masks=False) for _ in range(2))
    check = second._check_settings
    monkeypatch.setattr(second, "_check_settings", lambda: (check(), first.__enter__(), (tmp_path / SETTINGS).unlink()))
    with pytest.raises(DataError, match="Another process is at work"):
        second.__enter__()
    first.add(line("a.jpg", "x"))
    first.finish()
    assert images(tmp_path / "results.jsonl") == ["a.jpg"]


def test_what_is_refused(tmp_path: Path) -> None:
    """Other settings, foreign files, and a second process."""
    with ResultFolder(tmp_path, {"threshold": 0.5}, masks=False) as folder:
        folder.add(line("a.jpg", "x"))
        with (
            pytest.raises(DataError, match="Another process is at work"),
            ResultFolder(tmp_path, {"threshold": 0.5}, masks=False),
        ):
            pass
        folder.finish()
    with pytest.raises(DataError, match=r"threshold = 0.5, not 0.4"), ResultFolder(tmp_path, {"threshold": 0.4}, False):
        pass
    assert images(tmp_path / "results.jsonl") == ["a.jpg"]
    (tmp_path / "results.jsonl").write_text('{"other": 1}\n')
    with pytest.raises(DataError, match="line 1 is no result"), ResultFolder(tmp_path, {"threshold": 0.5}, False):
        pass
    (tmp_path / "settings.json").unlink()
    with pytest.raises(DataError, match="unknown settings"), ResultFolder(tmp_path, {"threshold": 0.5}, False):
        pass


def test_results_older_than_a_setting(tmp_path: Path) -> None:
    """Specks were kept before they could be dropped: such a folder goes on with 0, and the sentence says so."""
    with ResultFolder(tmp_path, {"threshold": 0.5}, masks=False) as folder:
        folder.add(line("a.jpg", "x"))
    with (
        pytest.raises(DataError, match=r"min_component_fraction = 0\.0, not 0\.01"),
        ResultFolder(tmp_path, {"threshold": 0.5, "min_component_fraction": 0.01}, masks=False),
    ):
        pass
    with ResultFolder(tmp_path, {"threshold": 0.5, "min_component_fraction": 0.0}, masks=False) as folder:
        assert len(folder.done) == 1


@pytest.mark.parametrize("name", ["failures.jsonl", "instances.json", "masks"])
def test_files_of_others_stay(tmp_path: Path, name: str) -> None:
    """A folder that has such a file without being one of results is left alone."""
    (tmp_path / name).write_text("precious")
    with pytest.raises(DataError, match=f"has {name} of unknown settings"), ResultFolder(tmp_path, {}, False):
        pass
    assert (tmp_path / name).read_text() == "precious"


def test_a_first_try_that_came_to_nothing_binds_nobody(tmp_path: Path) -> None:
    """A misspelt model does not lock the folder."""
    with ResultFolder(tmp_path, {"model": "nosuch"}, masks=False):
        pass
    with ResultFolder(tmp_path, {"model": None}, masks=True) as folder:
        folder.add(line("a.jpg", "x"))
    with pytest.raises(DataError, match="--format png"), ResultFolder(tmp_path, {"model": None}, masks=False):
        pass


def test_no_two_masks_share_a_file(tmp_path: Path) -> None:
    """Phrases that differ in signs, names that differ in a dot; also after a stop."""
    with ResultFolder(tmp_path, {}, masks=True) as folder:
        folder.add(line("a.jpg", "the dog"))
        folder.add(line("a.jpg", "the dog!", mask=~MASK))
    with ResultFolder(tmp_path, {}, masks=True) as folder:
        folder.add(line("./a.jpg", "the dog"))
        folder.finish()
    rows = list(read_results(tmp_path / "results.jsonl"))
    masks = [row["results"][0]["mask"] for row in rows]
    assert masks == [f"masks/a.jpg/0_the-dog{end}.png" for end in ("", "_2", "_3")]
    assert np.array_equal(np.asarray(Image.open(tmp_path / masks[1])), ~MASK * np.uint8(255))


def test_names_that_a_file_system_takes_for_one(tmp_path: Path) -> None:
    """Upper and lower case, and both ways to store an accent, also after a stop."""
    names = ["A.jpg", "a.jpg", "caf\u00e9.jpg", "cafe\u0301.jpg"]
    for name in names:
        with ResultFolder(tmp_path, {}, masks=True) as folder:
            folder.add(line(name, "the dog"))
    masks = [row["results"][0]["mask"] for row in read_results(tmp_path / "results.jsonl.part")]
    assert [mask.split("/")[1] for mask in masks] == names
    assert [mask.split("/")[2] for mask in masks] == ["0_the-dog.png", "0_the-dog_2.png"] * 2


@pytest.mark.parametrize("image", ["../../etc/x.png", "/etc/x.png", "a/../../../x.png", "a/b.png", "..", "ü" * 80])
def test_masks_stay_in_their_folder(tmp_path: Path, image: str) -> None:
    """Whatever a list names; and different images and phrases have different files."""
    path = (tmp_path / mask_path(image, "../../the dog\x00/..", 0)).resolve()
    assert path.is_relative_to(tmp_path / "masks")
    assert len({mask_path(image, "a b", 0), mask_path(image, "a b", 1), mask_path("x" + image, "a b", 0)}) == 3


def test_coco_file_loads_and_gives_the_same_masks(tmp_path: Path) -> None:
    """In pycocotools: boxes, areas, masks, categories by phrase; an empty mask has no annotation."""
    empty = np.zeros_like(MASK)
    lines = [line("a.jpg", "the dog", "a cat"), line("b.jpg", "a cat"), line("c.jpg", "the dog", mask=empty)]
    assert write_coco(lines, tmp_path / "coco.json") == 3
    coco = COCO(str(tmp_path / "coco.json"))
    assert [image["file_name"] for image in coco.dataset["images"]] == ["a.jpg", "b.jpg", "c.jpg"]
    assert {row["name"]: row["id"] for row in coco.loadCats(coco.getCatIds())} == {"the dog": 1, "a cat": 2}
    (annotation,) = coco.loadAnns(coco.getAnnIds(imgIds=[2]))
    assert np.array_equal(coco.annToMask(annotation), MASK)
    assert annotation["bbox"] == [1, 0, 2, 2]
    assert annotation["area"] == 3 == coco_mask.area(annotation["segmentation"])
    assert annotation["category_id"] == 2
    assert write_coco([], tmp_path / "empty.json") == 0
    assert json.loads((tmp_path / "empty.json").read_text()) == {"annotations": [], "images": [], "categories": []}


def test_coco_has_each_image_once(tmp_path: Path) -> None:
    """Even where it was asked about at several times."""
    write_coco([line("a.jpg", "x"), line("b.jpg", "x"), line("a.jpg", "y")], tmp_path / "instances.json")
    document = json.loads((tmp_path / "instances.json").read_text())
    assert [(image["id"], image["file_name"]) for image in document["images"]] == [(1, "a.jpg"), (2, "b.jpg")]
    assert [annotation["image_id"] for annotation in document["annotations"]] == [1, 2, 1]
