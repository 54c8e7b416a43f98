"""Preparation of downloads: files are moved to their places, and archives cannot choose others."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from refersam.data import open_dataset, prepare
from refersam.data.prepare import SOURCES, find_items, lay_out, missing_files, verify_index
from refersam.errors import DataError

IMAGES = [f"COCO_train2014_{number:012d}.jpg" for number in (1, 2)]


def make_zip(path: Path, source: Path, names: dict[str, Path] | None = None, prefix: str = "") -> Path:
    """Return a zip of a folder's files, or of these names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in (names or {prefix + p.name: p for p in sorted(source.iterdir())}).items():
            archive.write(file, name)
    return path


@pytest.fixture
def downloads(miniature: Any, tmp_path: Path) -> Path:
    """refcoco.zip and train2014.zip as published, with additional files of macOS."""
    root = miniature.write()
    folder = tmp_path / "downloads"
    make_zip(folder / "refcoco.zip", root / "refcoco", prefix="refcoco/")
    make_zip(folder / "train2014.zip", root / "images/train2014", prefix="train2014/")
    with zipfile.ZipFile(folder / "refcoco.zip", "a") as archive:
        archive.writestr("__MACOSX/refcoco/._instances.json", "junk")
        archive.writestr("refcoco/readme.txt", "text")
    return folder


def files(root: Path) -> list[str]:
    """Return all files below a folder."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_published_archives(downloads: Path, tmp_path: Path) -> None:
    """Files are placed where the reader expects them; a second time nothing is done."""
    root, steps = tmp_path / "new" / "root", []
    assert lay_out(find_items(downloads), root, steps.append) == (4, 0)
    assert steps == [1, 2, 3, 4]
    assert files(root) == [
        *(f"images/train2014/{name}" for name in IMAGES),
        "refcoco/instances.json",
        "refcoco/refs(unc).p",
    ]
    assert len(open_dataset(root, "refcoco", "train")) == 3
    assert lay_out(find_items(downloads), root) == (0, 4)
    assert verify_index(root, "refcoco") == 3


def test_one_benchmark_only(downloads: Path, miniature: Any, tmp_path: Path) -> None:
    """Other benchmarks are not moved; images are shared."""
    miniature.write("refcoco+")
    make_zip(downloads / "refcoco+.zip", miniature.root / "refcoco+")
    targets = {str(item.target) for item in find_items(downloads, "refcoco+")}
    assert {t for t in targets if not t.startswith("images/")} == {"refcoco+/instances.json", "refcoco+/refs(unc).p"}
    assert len({str(item.target) for item in find_items(downloads)}) == 6


def test_loose_files(miniature: Any, tmp_path: Path) -> None:
    """Identified by folder, by name, or by the refs beside them."""
    root = miniature.write("grefcoco", "grefs(unc).json")
    miniature.write("x", "Ref-ZOM(final).p")
    folder = tmp_path / "downloads"
    folder.mkdir()
    (root / "grefcoco").rename(folder / "anything")
    (root / "x").rename(folder / "Ref-ZOM data")
    (root / "images/train2014").rename(folder / "train2014")
    targets = sorted(str(item.target) for item in find_items(folder))
    assert targets == [
        "grefcoco/grefs(unc).json",
        "grefcoco/instances.json",
        *(f"images/train2014/{name}" for name in IMAGES),
        "refzom/Ref-ZOM(final).p",
        "refzom/instances.json",
    ]
    lay_out(find_items(folder), tmp_path / "root")
    assert len(open_dataset(tmp_path / "root", "refzom", "train")) == 3


def test_a_name_that_does_not_tell_takes_the_benchmark_that_was_named(miniature: Any, tmp_path: Path) -> None:
    """refs(unc).p may be RefCOCO's or RefCOCO+'s."""
    root = miniature.write("something")
    assert [str(item.target) for item in find_items(root) if item.target.suffix != ".jpg"] == []
    assert sorted(str(item.target) for item in find_items(root, "refcoco+") if item.target.suffix != ".jpg") == [
        "refcoco+/instances.json",
        "refcoco+/refs(unc).p",
    ]


def test_no_path_in_an_archive_leads_out(miniature: Any, tmp_path: Path) -> None:
    """Folders of an archive never decide the output path; links become plain files."""
    root = miniature.write()
    instances, refs = root / "refcoco/instances.json", root / "refcoco/refs(unc).p"
    names = {
        "../../refcoco/instances.json": instances,
        "/etc/refcoco/refs(unc).p": refs,
        "..\\..\\evil.json": instances,
        "../../.bashrc": instances,
        f"../../images/{IMAGES[0]}": root / "images/train2014" / IMAGES[0],
    }
    make_zip(tmp_path / "downloads/refcoco.zip", root, names)
    link = zipfile.ZipInfo("refcoco/refs(google).p")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "downloads/refcoco.zip", "a") as archive:
        archive.writestr(link, pickle.dumps([]))
    target = tmp_path / "root"
    before = files(tmp_path)
    lay_out(find_items(tmp_path / "downloads"), target)
    assert files(target) == [
        f"images/train2014/{IMAGES[0]}",
        "refcoco/instances.json",
        "refcoco/refs(google).p",
        "refcoco/refs(unc).p",
    ]
    assert not (target / "refcoco/refs(google).p").is_symlink()
    assert [name for name in files(tmp_path) if not name.startswith("root/")] == before


def test_a_hostile_pickle_is_not_even_laid_out(tmp_path: Path) -> None:
    """It is rejected, and no file remains."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    with zipfile.ZipFile(folder / "refcoco.zip", "w") as archive:
        archive.writestr("refcoco/refs(unc).p", pickle.dumps(os.getcwd))
    with pytest.raises(DataError, match=r"refcoco\.zip \(refcoco/refs\(unc\)\.p\) is refused"):
        lay_out(find_items(folder), tmp_path / "root")
    assert files(tmp_path / "root") == []


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are too large, too many, or larger than declared."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    path = folder / "train2014.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"train2014/{IMAGES[0]}", bytes(prepare.MAX_IMAGE_BYTES + 1))
    with pytest.raises(DataError, match=r"train2014\.zip .* more than the 67,108,864 that such a file may have"):
        find_items(folder)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in IMAGES:
            archive.writestr(f"train2014/{name}", bytes(1000))
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<I", 1000), struct.pack("<I", 10)))  # of 1000 bytes it says 10
    with pytest.raises(DataError, match=r"is broken|is not as long as it says"):
        lay_out(find_items(folder), tmp_path / "root")
    assert files(tmp_path / "root") == []
    path.write_bytes(content)
    monkeypatch.setattr(prepare, "MAX_FILES", 1)
    with pytest.raises(DataError, match="more than 1 images"):
        find_items(folder)


def test_missing_space_is_reported_before_anything_is_written(
    downloads: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Required size and location."""
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"MB are needed in .*root, but only 0 MB are free"):
        lay_out(find_items(downloads), tmp_path / "root")
    assert files(tmp_path / "root") == []


@pytest.mark.parametrize("where", ["directory", "content"])
def test_broken_archives(downloads: Path, tmp_path: Path, where: str) -> None:
    """Truncated and damaged downloads."""
    path = downloads / "refcoco.zip"
    content = bytearray(path.read_bytes())
    if where == "directory":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[60:90] = bytes(30)
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"refcoco\.zip .*Download it again\."):
        lay_out(find_items(downloads), tmp_path / "root")
    assert not [name for name in files(tmp_path / "root") if name.startswith("refcoco")]


def test_other_files_in_the_way(downloads: Path, tmp_path: Path) -> None:
    """They are never replaced; two different downloads of one file are an error."""
    root = tmp_path / "root"
    (root / "refcoco").mkdir(parents=True)
    (root / "refcoco/instances.json").write_text("mine")
    with pytest.raises(DataError, match=r"instances\.json is there already, but is not .*remove one of them"):
        lay_out(find_items(downloads), root)
    assert files(root) == ["refcoco/instances.json"]
    (downloads / "refcoco").mkdir()
    (downloads / "refcoco/instances.json").write_text("another")
    with pytest.raises(DataError, match=r"differ, and both would be refcoco/instances\.json: remove one"):
        find_items(downloads)


def test_missing_files(tmp_path: Path) -> None:
    """No folder, or no benchmark in it."""
    with pytest.raises(DataError, match=r"No such folder: .*nowhere"):
        find_items(tmp_path / "nowhere")
    assert find_items(tmp_path) == []
    assert verify_index(tmp_path, "refzom") == 0


def test_what_is_missing(miniature: Any, tmp_path: Path) -> None:
    """Files and folders at their default places, unless found at another one that the reader accepts."""
    assert [str(path.relative_to(tmp_path)) for path in missing_files(tmp_path, "refzom")] == [
        "refzom/refs(final).p",
        "refzom/instances.json",
        "images/train2014",
        "images/val2014",
    ]
    root = miniature.write("ref-zom", "Ref-ZOM(final).p", "train2014")
    assert missing_files(root, "refzom") == [root / "images/val2014"]
    for name, source in SOURCES.items():
        assert len(missing_files(tmp_path, name)) == 2 + len(source.images)
        assert source.page.startswith("https://github.com/")
