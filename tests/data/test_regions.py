"""Masks from polygons, run lengths and images, and invalid regions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from refersam.data.regions import MAX_COORDINATE, clean_region, decode_region
from refersam.data.sample import decode_regions
from refersam.errors import DataError, ImageError

SQUARE = [2, 3, 12, 3, 12, 13, 2, 13]  # columns 2 to 11, rows 3 to 12


def rectangle(left: int, top: int, right: int, bottom: int, height: int = 30, width: int = 40) -> np.ndarray:
    """Return an (H, W) bool mask of a rectangle; right and bottom are exclusive."""
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


def slow_run_lengths(mask: np.ndarray) -> list[int]:
    """Return column-major run lengths: numbers of False, True, False, ..."""
    lengths, value = [0], False
    for pixel in mask.T.flatten().tolist():
        if pixel != value:
            lengths.append(0)
            value = pixel
        lengths[-1] += 1
    return lengths


def random_masks() -> list[np.ndarray]:
    """For many sizes and densities, also empty and full masks."""
    numbers = np.random.default_rng(0)
    masks = []
    for share in (0, 0.01, 0.3, 0.5, 0.99, 1):
        for _ in range(5):
            height, width = numbers.integers(1, 150, 2)
            masks.append(numbers.random((height, width)) < share)
    return masks


def test_several_polygons_are_their_union_even_where_they_overlap() -> None:
    """Not the exclusive or: pixels of both belong to the mask."""
    region = [SQUARE, [8, 8, 20, 8, 20, 20, 8, 20]]
    np.testing.assert_array_equal(decode_region(region, 30, 40), rectangle(2, 3, 12, 13) | rectangle(8, 8, 20, 20))


def test_several_regions_are_their_union() -> None:
    """Regions of any kind."""
    rle = coco_mask.encode(np.asfortranarray(rectangle(0, 0, 5, 30).astype(np.uint8)))
    np.testing.assert_array_equal(
        decode_regions(([SQUARE], rle), 30, 40), rectangle(2, 3, 12, 13) | rectangle(0, 0, 5, 30)
    )
    assert not decode_regions((), 30, 40).any()


@pytest.mark.parametrize(
    "bad",
    [
        [],
        [1, 2, 3, 4],  # pycocotools would take it for a box
        [1, 2, 3, 4, 5],
        [1, 2, 3, 4, 5, 6, 7],
        [1, 2, 3, 4, 5, float("nan")],
        [1, 2, 3, 4, 5, float("inf")],
        [1, 2, 3, 4, 5, MAX_COORDINATE + 1],
        [MAX_COORDINATE, MAX_COORDINATE, -MAX_COORDINATE, -MAX_COORDINATE] * 10,  # an outline of four million pixels
    ],
)
def test_bad_polygons_are_dropped_and_counted(bad: list[float]) -> None:
    """The others are kept; without any valid polygon, an error is raised."""
    region, dropped = clean_region([bad, SQUARE, bad])
    assert dropped == 2
    np.testing.assert_array_equal(decode_region(region, 30, 40), rectangle(2, 3, 12, 13))
    with pytest.raises(DataError, match="none of its 2 polygons has an even number of coordinates, at least 6"):
        clean_region([bad, bad])


def test_a_long_outline_that_can_be_drawn_stays() -> None:
    """A comb of a thousand teeth, as high as the image; many or distant points are valid."""
    comb = [value for x in range(1000) for value in (x, 0 if x % 2 else 900)]
    region, dropped = clean_region([[*comb, 999, 900]])
    assert dropped == 0
    assert decode_region(region, 1000, 1000).any()
    assert clean_region([[0, 0, MAX_COORDINATE, 0, 0, MAX_COORDINATE]])[1] == 0


def test_run_lengths_as_list_string_and_bytes() -> None:
    """All three give the mask that they encode, with the same compact form."""
    for mask in random_masks():
        height, width = mask.shape
        compressed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
        forms = [slow_run_lengths(mask), compressed.decode(), compressed]
        for counts in forms:
            region, dropped = clean_region({"size": [height, width], "counts": counts})
            assert (region, dropped) == ({"size": [height, width], "counts": compressed}, 0)
            np.testing.assert_array_equal(decode_region(region, height, width), mask)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"size": [10, 10], "counts": [50, 49]}, "must add up to 10 x 10"),
        ({"size": [10, 10], "counts": [-1, 101]}, "must add up to 10 x 10"),
        ({"size": [10, 10], "counts": ["100"]}, "must add up to 10 x 10"),
        ({"size": [10, 10], "counts": "05"}, "do not make a mask of 10 x 10"),  # pycocotools reads on behind its end
        ({"size": [10, 10], "counts": ""}, "do not make a mask"),
        ({"size": [10, 10], "counts": b"zzzz"}, "do not make a mask"),
        ({"size": [10, 10], "counts": "é"}, "do not make a mask"),
        ({"size": [10, 10], "counts": "oooooooooooooooooooo0"}, "do not make a mask"),
        (  # its sum is 100, modulo 2 ** 64
            {"size": [100, 100], "counts": "ooooooooooo?ooooooooooo?ooooooooooo?" + "0" * 29 + "aiYPPPPPPPP@"},
            "do not make a mask of 100 x 100",
        ),
        ({"size": [10, 10], "counts": 3}, '"counts".*a list or a string'),
        ({"size": [10, 10]}, '"counts"'),
        ({"size": [10], "counts": [10]}, r'"size": \[height, width\]'),
        ({"size": [0, 10], "counts": [0]}, '"size"'),
        ({"size": [2**16, 2**16], "counts": [2**32]}, '"size"'),
        ({"size": "ab", "counts": [2]}, '"size"'),
        ({"counts": [2]}, '"size"'),
        ([], "no polygon"),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "a polygon must be a list of numbers"),
        ([[[1, 2], [3, 4], [5, 6]]], "a polygon must be a list of numbers"),
        (["abcdef"], "a polygon must be a list of numbers"),
        ("abc", "polygons or a run-length encoding are expected"),
        (None, "came nothing"),
        (3, "polygons or a run-length encoding"),
    ],
)
def test_invalid_regions(raw: Any, message: str) -> None:
    """The message is a part of a sentence, which readers complete with file and record."""
    with pytest.raises(DataError, match=message):
        clean_region(raw)


def test_another_size_is_an_error() -> None:
    """The error is raised before memory is allocated."""
    with pytest.raises(DataError, match="A mask has 60000 x 65535 pixels, but its image 40 x 30"):
        decode_region({"size": [65535, 60000], "counts": [65535 * 60000]}, 30, 40)


@pytest.mark.parametrize("foreground", [1, 128, 255])
@pytest.mark.parametrize("mode", ["L", "P", "RGB", "1", "I;16"])
def test_mask_images(foreground: int, mode: str, tmp_path: Path) -> None:
    """0 and 1 as well as 0 and 255, in every mode."""
    mask = rectangle(3, 4, 9, 11)
    path = tmp_path / "mask.png"
    values = mask.astype(np.uint8) * foreground
    if mode == "P":
        image = Image.fromarray(mask.astype(np.uint8)).convert("P")
        image.putpalette([0, 0, 0, foreground, foreground, foreground])
    elif mode == "1":
        image = Image.fromarray(mask)
    elif mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(values).convert(mode)
    image.save(path)
    np.testing.assert_array_equal(decode_region(path, 30, 40), mask)


def test_mask_images_that_are_wrong(tmp_path: Path) -> None:
    """Black is an empty mask; another size and a missing file are errors."""
    path = tmp_path / "mask.png"
    Image.new("L", (40, 30)).save(path)
    assert not decode_region(path, 30, 40).any()
    with pytest.raises(DataError, match="A mask has 40 x 30 pixels, but its image 30 x 40"):
        decode_region(path, 40, 30)
    with pytest.raises(ImageError, match=r"No such file: .*nowhere\.png"):
        decode_region(tmp_path / "nowhere.png", 40, 30)
