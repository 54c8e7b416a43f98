"""Command line `refersam data ...`."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., SimpleNamespace]


@pytest.fixture
def miniature(miniature: Any, tmp_path: Path) -> Any:
    """Run in a folder whose name would be shortened, wrapped or read as markup by mistake."""
    return type(miniature)(tmp_path / "a folder [with] a very long name, longer than a line of a terminal" / "data")


def assert_one_sentence(result: SimpleNamespace, code: int, message: str) -> None:
    """Assert the exit code and a one-line error."""
    assert result.code == code, result
    lines = result.err.strip().splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("Error: ")
    assert re.search(message, lines[0]), lines[0]


def test_check_of_a_good_data_set(run: Run, miniature: Any) -> None:
    """Counts with the published ones; exit code 0."""
    result = run("data", "check", "--data-root", miniature.write(), "--dataset", "refcoco", "--workers", 1)
    assert result.code == 0, result
    assert re.search(r"train\s+│\s+2\s+│\s+42404\s+│\s+1\s+│\s+16994\s+│\s+3\s+│\s+120624", result.out)
    assert result.out.endswith("Nothing wrong was found.\n")


def test_check_names_every_file_in_full(run: Run, miniature: Any) -> None:
    """On one line each, of any length, with characters of rich's markup; exit code 1."""
    miniature.images += [miniature.image(number) for number in range(3, 9)]
    miniature.annotations += [miniature.annotation(100 + n, n, 3, [[0, 0, 9, 0, 9, 9]]) for n in range(3, 9)]
    miniature.refs += [miniature.ref(n, 100 + n, n, "train", "a dog") for n in range(3, 9)]
    root = miniature.write()
    missing = [root / "images/train2014" / f"COCO_train2014_{number:012d}.jpg" for number in (3, 4, 5, 6)]
    broken = [root / "images/train2014" / f"COCO_train2014_{number:012d}.jpg" for number in (1, 8)]
    for path in missing:
        path.unlink()
    for path in broken:
        path.write_bytes(path.read_bytes()[:-200])
    result = run("data", "check", "--data-root", root, "--dataset", "refcoco", "--workers", 1)
    assert result.code == 1
    lines = result.out.splitlines()
    assert [line for line in lines if "No such file" in line] == [f"  No such file: {path}." for path in missing]
    assert [line.split(" is broken")[0] for line in lines if "is broken" in line] == [f"  {path}" for path in broken]
    assert "Error: missing images (4)" in lines
    assert "Nothing wrong" not in result.out
    quick = run("data", "check", "--data-root", root, "--dataset", "refcoco", "--no-decode")
    assert (quick.code, "is broken" in quick.out) == (1, False)


def test_show(run: Run, miniature: Any) -> None:
    """The sheet depends only on the seed."""
    arguments = ("data", "show", "--data-root", miniature.write(), "--dataset", "refcoco", "--split", "train")
    result = run(*arguments, "--count", 2)
    assert (result.code, result.out) == (0, "out/sheet.png shows 2 of 3 phrases.\n")
    run(*arguments, "--count", 2, "--out", "again/sheet.png")
    sheet = np.asarray(Image.open("out/sheet.png"))
    np.testing.assert_array_equal(sheet, np.asarray(Image.open("again/sheet.png")))
    assert sheet.shape[1:] == (512, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "--dataset", "refcocog"), r"RefCOCOg is not in .*refs\(umd\)\.p is expected"),
        (("show", "--dataset", "refcoco", "--split", "test"), "has no split 'test'.* has train, val"),
        (("prepare", "--from", "nowhere"), "No such folder: nowhere"),
        (("prepare", "--from", "."), "holds no file of refcoco, refcoco\\+, .* that is known by its name"),
    ],
)
def test_mistakes(run: Run, miniature: Any, arguments: tuple[str, ...], message: str) -> None:
    """One sentence, exit code 1."""
    command, *options = arguments
    assert_one_sentence(run("data", command, "--data-root", miniature.write(), *options), 1, message)


def test_a_hostile_pickle(run: Run, miniature: Any) -> None:
    """Rejected in one sentence."""
    root = miniature.write()
    (root / "refcoco/refs(unc).p").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    result = run("data", "check", "--data-root", root, "--dataset", "refcoco")
    assert_one_sentence(result, 1, r"refs\(unc\)\.p is refused: byte 0 .* could run a program")
    assert not Path("hacked").exists()


def test_prepare_says_where_from(run: Run) -> None:
    """Expected files, the authors' page, and downloads."""
    result = run("data", "prepare", "--data-root", "data", "--dataset", "refzom")
    assert result.code == 0
    for line in ("expected: data/refzom/refs(final).p", "https://github.com/toggle1995/RIS-DMMI", "val2014.zip"):
        assert line in result.out
    assert "refcoco:" not in result.out
    assert not Path("data").exists()
    usage = run("data", "prepare", "--data-root", "data", "--dataset", "coco")
    assert (usage.code, "is none of refcoco" in " ".join(usage.err.split())) == (2, True)


def test_prepare_lays_out(run: Run, miniature: Any, tmp_path: Path) -> None:
    """Two archives; then the data set is readable."""
    root = miniature.write()
    Path("downloads").mkdir()
    for name, folder in (("refcoco", "refcoco"), ("train2014", "images/train2014")):
        with zipfile.ZipFile(f"downloads/{name}.zip", "w") as archive:
            for path in (root / folder).iterdir():
                archive.write(path, f"{name}/{path.name}")
    result = run("data", "prepare", "--data-root", "laid", "--dataset", "refcoco", "--from", "downloads")
    assert result.code == 0, result
    assert result.out.splitlines() == [
        "4 files written into laid/, 0 files there already.",
        "refcoco: 3 refs, readable.",
        "refcoco: complete",
        "  Now: refersam data check --data-root laid --dataset refcoco",
    ]
    assert run("data", "check", "--data-root", "laid", "--dataset", "refcoco").code == 0


def test_from_coco(run: Run, miniature: Any) -> None:
    """Phrases of a table become own data, which passes the check."""
    root = miniature.write()
    Path("phrases.csv").write_text("ann_id,phrase\n10,the left dog\n11,the right dog\n")
    instances, images = root / "refcoco/instances.json", root / "images/train2014"
    result = run("data", "from-coco", instances, "phrases.csv", "--images", images, "--out", "own/train.jsonl")
    assert result.out.splitlines() == [
        "own/train.jsonl has 2 phrases.",
        "Now: refersam data check --data-root own --dataset jsonl",
    ]
    assert run("data", "check", "--data-root", "own", "--dataset", "jsonl").code == 0
    Path("phrases.csv").write_text("ann_id,phrase\n99,the left dog\n")
    result = run("data", "from-coco", instances, "phrases.csv", "--images", images, "--out", "own/train.jsonl")
    assert_one_sentence(result, 1, r"phrases\.csv, line 2: annotation 99 is not in ")
    usage = run("data", "from-coco", instances, "phrases.csv", "--images", images, "--out", "own/train.json")
    assert (usage.code, "must end in .jsonl" in " ".join(usage.err.split())) == (2, True)
