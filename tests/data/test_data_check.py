"""Checks of data sets find all problems and report them by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from refersam.data.check import check_dataset
from refersam.data.findings import Severity


def found(root: Path, dataset: str = "refcoco", **options: Any) -> list[tuple[str, str]]:
    """Return severity and kind of the findings, without the counts, which no small data set has."""
    findings = check_dataset(root, dataset, **options).findings
    return [(finding.severity.name, finding.kind) for finding in findings if finding.kind != "counts"]


def image_path(root: Path, number: int = 1) -> Path:
    return root / f"images/train2014/COCO_train2014_{number:012d}.jpg"


def test_a_good_data_set_has_notes_only(miniature: Any) -> None:
    """Counts with the published ones; a difference is a note."""
    report = check_dataset(miniature.write(), "refcoco")
    assert report.is_good
    assert [(c.split, c.refs, c.images, c.expressions) for c in report.counts] == [("train", 2, 1, 3), ("val", 1, 1, 1)]
    assert report.counts[0].published == (42404, 16994, 120624)
    assert {finding.kind for finding in report.findings} == {"counts"}
    assert report.findings[0].message == (
        "Split train has 2 refs (published: 42404), 1 images (published: 16994), 3 expressions (published: 120624)."
    )


def test_published_sums(miniature: Any) -> None:
    """Only the number of all expressions of gRefCOCO is published."""
    report = check_dataset(miniature.write("grefcoco", "grefs(unc).json"), "grefcoco")
    assert (report.counts[-1].split, report.counts[-1].expressions) == ("all splits", 4)
    assert report.counts[-1].published == (None, None, 278232)


def test_broken_images_and_images_of_another_size(miniature: Any) -> None:
    """Truncated, not an image, another size: found by decoding, with the full name; a quick check skips them."""
    root = miniature.write()
    image_path(root).write_bytes(image_path(root).read_bytes()[:-300])
    miniature.draw(image_path(root, 2), 41, 30)
    report = check_dataset(root, "refcoco")
    errors = [finding.message for finding in report.findings if finding.severity is Severity.ERROR]
    assert len(errors) == 2
    assert errors[0].startswith(f"{image_path(root)} is broken or cut off")
    assert errors[1].startswith(f"{image_path(root, 2)} has 41 x 30 pixels, but its annotations are for 40 x 30")
    assert not report.is_good
    assert found(root, decode=False) == []


def test_missing_images_are_reported_once(miniature: Any) -> None:
    """Not again as undecodable."""
    root = miniature.write()
    image_path(root).unlink()
    assert found(root) == [("ERROR", "missing images")]


def test_masks_without_a_pixel(miniature: Any) -> None:
    """A polygon outside its image."""
    miniature.annotations[0]["segmentation"] = [[100, 100, 110, 100, 110, 110]]
    assert found(miniature.write()) == [("WARNING", "empty masks")]


def test_images_that_are_trained_and_tested_on(miniature: Any) -> None:
    """A warning with their names; known for the google partition."""
    miniature.refs.append(miniature.ref(3, 10, 1, "val", "a dog"))
    root = miniature.write()
    (finding,) = [f for f in check_dataset(root, "refcoco").findings if f.kind == "shared images"]
    assert finding.severity is Severity.WARNING
    assert finding.message == f"Images of train that are in val, too: 1 ({image_path(root)})."
    miniature.write("refcocog", "refs(google).p")
    assert found(root, "refcocog", split_by="google") == [("NOTE", "shared images")]


def test_everything_at_once_worst_first(miniature: Any) -> None:
    """One report contains all findings."""
    miniature.refs += [miniature.refs[1], miniature.ref(5, 99, 1, "train", "nothing")]
    miniature.annotations[0]["segmentation"].append([1, 2])
    root = miniature.write()
    image_path(root, 2).write_bytes(b"")
    assert found(root) == [
        ("ERROR", "broken images"),
        ("ERROR", "refs without annotation"),
        ("WARNING", "duplicate ref ids"),
        ("WARNING", "duplicate sentence ids"),
        ("NOTE", "bad polygons"),
    ]


def test_own_data(miniature: Any) -> None:
    """Invalid lines, and mask images that are broken or black."""
    root = miniature.root
    miniature.draw(root / "a.jpg")
    Image.new("L", (40, 30)).save(root / "black.png")
    Image.open(root / "a.jpg").save(root / "cut.png")
    (root / "cut.png").write_bytes((root / "cut.png").read_bytes()[:-200])
    (root / "train.jsonl").write_text(
        '{"image": "a.jpg", "phrase": "x", "mask": "black.png"}\n'
        '{"image": "a.jpg", "phrase": "x", "mask": "cut.png"}\n'
        '{"image": "b.jpg", "phrase": "x", "no_target": true}\n'
    )
    assert found(root, "jsonl") == [("ERROR", "bad lines"), ("ERROR", "bad masks"), ("WARNING", "empty masks")]


def test_several_processes_find_the_same(miniature: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is reported."""
    miniature.images += [miniature.image(number) for number in range(3, 9)]
    miniature.annotations += [miniature.annotation(100 + n, n, 3, [[0, 0, 9, 0, 9, 9]]) for n in range(3, 9)]
    miniature.refs += [miniature.ref(n, 100 + n, n, "train", "a dog") for n in range(3, 9)]
    root = miniature.write()
    image_path(root, 5).write_bytes(b"nothing")
    monkeypatch.setattr("refersam.data.check._FEW", 3)
    steps: list[tuple[int, int]] = []
    report = check_dataset(root, "refcoco", workers=2, progress=lambda done, of: steps.append((done, of)))
    assert steps == [(number, 8) for number in range(1, 9)]
    assert report.findings == check_dataset(root, "refcoco").findings
    assert report.findings[0].message.startswith(str(image_path(root, 5)))
