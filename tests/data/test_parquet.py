"""RefCOCO-M: Parquet files that the tests write, as published and broken in many ways."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refersam.data import open_dataset, parquet
from refersam.data.datasets import read_dataset
from refersam.errors import DataError, ImageError, MissingExtraError
from refersam.metrics.masks import encode_mask

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

SIDES = (20, 30)
"""Height and width of the images."""


def png(number: int, size: tuple[int, int] = SIDES) -> bytes:
    """Encode an image whose pixels have one value, `number`."""
    file = io.BytesIO()
    Image.new("RGB", size[::-1], (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


def square(left: int) -> np.ndarray:
    mask = np.zeros(SIDES, dtype=bool)
    mask[5:15, left : left + 10] = True
    return mask


def target(number: int, *sentences: str, **changes: Any) -> dict[str, Any]:
    """Return an entry of `samples`."""
    return {
        "id": number,
        "image_id": number,
        "category": "dog",
        "sentences": list(sentences),
        "bbox": [float(number), 5.0, 10.0, 10.0],
        "mask": encode_mask(square(number)),
        **changes,
    }


def row(number: int, *targets: dict[str, Any], image: object = None) -> dict[str, Any]:
    return {"image": {"bytes": png(number), "path": "a.jpg"} if image is None else image, "samples": list(targets)}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Call with rows: writes refcoco-m/data/validation-00000-of-00001.parquet, and returns the data root."""

    def write(*rows: dict[str, Any], name: str = "data/validation-00000-of-00001", **options: Any) -> Path:
        path = tmp_path / "refcoco-m" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(list(rows)), path, **options)
        return tmp_path

    return write


def test_images_masks_and_phrases(write: Callable[..., Path]) -> None:
    """Each phrase with its image and mask, over several files and row groups, in any order of access."""
    rows = [row(n, target(n, f"dog {n}", f"the dog {n}")) for n in range(9)]
    root = write(*rows[:7], row_group_size=3)
    write(*rows[7:], name="data/validation-00001-of-00002")
    samples = open_dataset(root, "refcoco-m", "validation")
    assert [sample.sample_id for sample in samples][:3] == ["0_0", "0_1", "1_0"]
    assert [sample.phrase for sample in samples][-2:] == ["dog 8", "the dog 8"]
    assert len(samples.images()) == 9
    for place in np.random.default_rng(0).permutation(18).tolist():
        sample = samples[place]
        assert np.unique(np.asarray(sample.image.load())[:, :, 0]).tolist() == [place // 2]
        np.testing.assert_array_equal(sample.load_mask(), square(place // 2))
        assert sample.category == "dog"
    assert read_dataset(root, "refcoco-m").refs == {"validation": 9}


@pytest.mark.parametrize("as_bytes", [True, False])
def test_both_kinds_of_columns(write: Callable[..., Path], as_bytes: bool) -> None:
    """The image as bytes alone or in a struct; run lengths as str or bytes."""
    mask = encode_mask(square(3))
    if as_bytes:
        mask["counts"] = mask["counts"].encode()
    root = write(row(1, target(3, "dog", mask=mask), image=png(1) if as_bytes else None))
    (sample,) = open_dataset(root, "refcoco-m", "validation")
    assert sample.image.load().getpixel((0, 0)) == (1, 0, 0)
    np.testing.assert_array_equal(sample.load_mask(), square(3))


def test_a_worker_process_opens_its_own_file(write: Callable[..., Path]) -> None:
    """A sample is small when pickled."""
    root = write(row(1, target(3, "dog")))
    (sample,) = open_dataset(root, "refcoco-m", "validation")
    sample.image.load()
    assert len(pickle.dumps(sample)) < 2000
    assert pickle.loads(pickle.dumps(sample)).image.load().size == (30, 20)


def test_few_rows_are_held(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoded images in memory stay below the limit."""
    monkeypatch.setattr(parquet, "MAX_IMAGE_BYTES", 400)
    root = write(*(row(n, target(n, "dog")) for n in range(20)))
    samples = open_dataset(root, "refcoco-m", "validation")
    for sample in samples:
        sample.image.load()
    held = parquet._open(samples[0].image.path)._recent
    assert 0 < sum(map(len, held.values())) <= 400


SIZE = {"size": list(SIDES)}


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"mask": encode_mask(np.ones((3, 4), bool))}, "mask of sample 4 has 4 x 3 pixels; .* the first has 30 x 20"),
        ({"mask": {**SIZE, "counts": "abc"}}, "mask of sample 4: the compressed run lengths do not make a mask"),
        ({"mask": {**SIZE, "counts": ""}}, "mask of sample 4: the compressed run lengths do not make a mask"),
        ({"mask": {"size": [20], "counts": "abc"}}, r'mask of sample 4: .* needs "size": \[height, width\]'),
        ({"mask": {"size": [2**20, 2**20], "counts": "abc"}}, r'mask of sample 4: .* needs "size"'),
        ({"mask": None}, "samples, entry 1: mask should be a valid dictionary, but is None"),
        ({"sentences": None}, "samples, entry 1: sentences should be a valid list, but is None"),
        ({"id": None}, "samples, entry 1: id should be a valid integer, but is None"),
        ({"id": 3}, "the id of sample 3 is that of another one, too"),
    ],
)
def test_broken_rows(write: Callable[..., Path], entry: dict[str, Any], told: str) -> None:
    """One sentence that names the file and the row."""
    root = write(row(0, target(0, "dog")), row(1, target(3, "dog"), target(4, "dog", **{"id": 4, **entry})))
    with pytest.raises(DataError, match=rf"validation-00000-of-00001\.parquet, row 1: (the )?{told}"):
        open_dataset(root, "refcoco-m", "validation")


def test_large_masks(write: Callable[..., Path]) -> None:
    """Refused before memory is taken for them."""
    mask = {"size": [60_000, 60_000], "counts": encode_mask(np.zeros((60_000, 1), bool))["counts"]}
    with pytest.raises(DataError, match="row 0: the mask of sample 4"):
        open_dataset(write(row(0, target(4, "dog", mask=mask))), "refcoco-m", "validation")


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (b"no image", "row 0: The image is not an image that can be read"),
        (png(1)[:60], "row 0: The image is broken or cut off"),
        (png(1, (10, 10)), "row 0 has an image of 10 x 10 pixels, but masks of 30 x 20"),
        (b"", "row 0 has an image file of 0 bytes; expected are 1 to 67,108,864"),
    ],
)
def test_broken_images(write: Callable[..., Path], image: bytes, told: str) -> None:
    """When they are decoded."""
    root = write(row(0, target(4, "dog"), image={"bytes": image, "path": None}))
    (sample,) = open_dataset(root, "refcoco-m", "validation")
    with pytest.raises((DataError, ImageError), match=told):
        sample.image.load()


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"image": {"bytes": b"a"}}], "should have a column image .* but has image: struct"),
        ([{"samples": [target(1, "dog")]}], "should have a column image"),
        ([{"photo": 1}], "but has neither"),
        ([row(0, target(1, "dog"), image="a.png")], "should have a column image .* image: string"),
        ([{"image": b"a", "samples": "dog"}], "should have a column image .* samples: string"),
        ([{"image": b"a", "samples": [1, 2]}], "row 0: samples, entry 0"),
        ([{"image": b"a", "samples": None}, row(0, target(1, "dog"), image=b"a")], "row 0: it has no samples"),
    ],
)
def test_other_tables(write: Callable[..., Path], rows: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(DataError, match=told):
        open_dataset(write(*rows), "refcoco-m", "validation")


def test_broken_files(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off, overwritten, or larger than the limits."""
    root = write(*(row(n, target(n, f"dog {n}")) for n in range(4)))
    (path,) = root.glob("refcoco-m/data/*.parquet")
    content = path.read_bytes()
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 10)
    with pytest.raises(DataError, match=r"has a row group of .* bytes: write it with row groups of at most 10"):
        open_dataset(root, "refcoco-m", "validation")
    monkeypatch.undo()
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(content)
        for place in rng.integers(4, len(content) - 8, rng.integers(1, 20)):
            damaged[place] = rng.integers(256)
        path.write_bytes(bytes(damaged) if rng.random() < 0.8 else bytes(damaged[: rng.integers(len(content))]))
        parquet._cached.cache_clear()
        try:
            for sample in open_dataset(root, "refcoco-m", "validation"):
                sample.image.load()
        except (DataError, ImageError) as error:
            assert str(path) in str(error)  # noqa: PT017


def test_splits_and_partitions(write: Callable[..., Path], tmp_path: Path) -> None:
    """It is for evaluation only, and has no partitions."""
    with pytest.raises(DataError, match=r"RefCOCO-M is not in .*validation-\*\.parquet is expected"):
        open_dataset(tmp_path, "refcoco-m", "validation")
    root = write(row(0, target(1, "dog", "--")))
    with pytest.raises(DataError, match="for evaluation only, has no split 'train': validation"):
        open_dataset(root, "refcoco-m", "train")
    with pytest.raises(DataError, match="refcoco-m has no partitions"):
        open_dataset(root, "refcoco-m", "validation", "unc")


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        MissingExtraError, match=r"RefCOCO-M needs the package pyarrow: run pip install '\.\[parquet\]'"
    ):
        open_dataset(tmp_path, "refcoco-m", "validation")


def test_commands(
    run: Callable[..., SimpleNamespace], write: Callable[..., Path], tiny_model_folder: Path, tmp_path: Path
) -> None:
    """Check, show and evaluate, also from worker processes; predictions give the same numbers."""
    root = write(*(row(n, target(n, f"red dog {n}", " ")) for n in range(4)))
    data = ("--data-root", root, "--dataset", "refcoco-m")
    checked = run("data", "check", *data, "--workers", 1)
    assert checked.code == 1
    assert "sentence 1 of sample 3 has no word; left out" in checked.out
    assert "published: 5598" in checked.out
    shown = run("data", "show", *data, "--split", "validation", "--out", "sheet.png")
    assert (shown.code, Image.open(tmp_path / "sheet.png").width > 60) == (0, True)
    model = ("--model", tiny_model_folder, "--device", "cpu", "--workers", 2)
    scored = run("evaluate", *data, "--split", "validation", *model, "--boundary", "--out", "out")
    assert scored.code == 0, scored.err
    assert "Protocol original, refcoco-m validation: 4 phrases" in scored.out
    assert "mBIoU" in scored.out
    again = run(
        "evaluate", *data, "--split", "validation", "--predictions", "out/predictions.jsonl", "--boundary", "--out", "b"
    )
    assert again.out.split("\n")[:12] == scored.out.split("\n")[:12]
