"""Mask files: stored values count; ambiguous files are errors that explain how to choose."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refersam.data import open_dataset
from refersam.data.mask_files import MaskFile, MaskValue
from refersam.errors import DataError, ImageError, ImageSizeError
from refersam.metrics.masks import target_mask
from refersam.metrics.protocols import PROTOCOLS

WIDTH, HEIGHT = 80, 64
TARGET = np.zeros((HEIGHT, WIDTH), bool)
TARGET[10:30, 20:50] = True  # 600 pixels
TWO = TARGET.astype(np.uint8)
TWO[40:50, 0:40] = 2  # another object, of 400
RED, GREEN = [255, 0, 0], [0, 255, 0]


def save(path: Path, values: np.ndarray | Image.Image, **options: object) -> Path:
    """Write a mask file."""
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(path, **options)
    return path


def palette(values: np.ndarray, *colours: list[int]) -> Image.Image:
    """Return a palette image."""
    image = Image.fromarray(values, "L")
    image.putpalette([channel for colour in colours for channel in colour])
    assert image.mode == "P"
    return image


def stacked(*channels: object) -> np.ndarray:
    """Return an image with constant channels for numbers."""
    return np.stack([np.broadcast_to(np.asarray(each), TARGET.shape) for each in channels], axis=2).astype(np.uint8)


READ = {
    "1": Image.fromarray(TARGET),
    "L, 0 and 1": TARGET.astype(np.uint8),
    "L, 0 and 77": TARGET.astype(np.uint8) * 77,
    "16 bits, 0 and 1": TARGET.astype(np.uint16),
    "16 bits, 0 and 300": TARGET.astype(np.uint16) * 300,
    "32 bits": TARGET.astype(np.int32) * 70_000,
    "floats": TARGET.astype(np.float32) * 0.5,
    "RGB": stacked(*[TARGET * 255] * 3),
    "RGB, a colour on black": stacked(TARGET * 255, 0, TARGET * 3),
    "RGBA, white": stacked(255, 255, 255, TARGET * 255),
    "RGBA, black": stacked(0, 0, 0, TARGET * 255),
    "RGBA, a photograph cut out": np.dstack(
        [np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), TARGET.astype(np.uint8) * 255]
    ),
    "RGBA, opaque": stacked(*[TARGET * 255] * 3, 255),
    "RGBA, transparent colours": stacked(TARGET * 9, 0, 0, 0),
    "LA": Image.merge("LA", [Image.new("L", (WIDTH, HEIGHT), 255), Image.fromarray(TARGET.astype(np.uint8) * 255)]),
    "P, as labels": palette(TARGET.astype(np.uint8), [0, 0, 0], [128, 0, 0]),
    "P, a bright background": palette(TARGET.astype(np.uint8), [250, 250, 200], [128, 0, 0]),
    "P, one grey": palette(TARGET.astype(np.uint8), [5, 5, 5], [5, 5, 5]),
}


pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


@pytest.mark.parametrize("kind", READ)
def test_the_stored_values_are_read(kind: str, tmp_path: Path) -> None:
    """Stored values count, not displayed colours."""
    path = save(tmp_path / ("mask.tif" if "32" in kind or kind == "floats" else "mask.png"), READ[kind])
    mask = MaskFile(path).load()
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, TARGET)


def test_transparent_palette_and_grey(tmp_path: Path) -> None:
    """White and transparent white, as written by image optimisers; also with swapped indices."""
    white = [255, 255, 255]
    for values, alpha in ((TARGET, b"\x00\xff"), (~TARGET, b"\xff\x00")):
        path = save(tmp_path / "p.png", palette(values.astype(np.uint8), white, white), transparency=alpha)
        np.testing.assert_array_equal(MaskFile(path).load(), TARGET)
    path = save(tmp_path / "l.png", TARGET.astype(np.uint8) * 255, transparency=0)
    np.testing.assert_array_equal(MaskFile(path).load(), TARGET)
    path = save(tmp_path / "rgb.png", stacked(*[TARGET * 255] * 2, 0), transparency=(0, 0, 0))
    np.testing.assert_array_equal(MaskFile(path).load(), TARGET)


def test_empty_and_full_masks(tmp_path: Path) -> None:
    """Black is empty, white is full; fully transparent white is empty."""
    for values, pixels in (
        (stacked(0, 0, 0), 0),
        (stacked(255, 255, 255), WIDTH * HEIGHT),
        (stacked(255, 255, 255, 0), 0),
        (stacked(255, 255, 255, 255), WIDTH * HEIGHT),
        (stacked(0, 0, 0, 255), 0),
        (TARGET.astype(np.uint16) * 0, 0),
    ):
        assert int(MaskFile(save(tmp_path / "mask.png", values)).load().sum()) == pixels


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (TWO, "stores 2: 1, 2"),
        (TARGET * np.uint8(1) + ~TARGET * np.uint8(255), "stores 2: 1, 255"),
        (palette(TWO, [0, 0, 0], RED, GREEN), r"stores 2 \(indices into its palette\): 1, 2"),
        (TWO.astype(np.uint16) * 300, "stores 2: 300, 600"),
        (stacked((TWO == 1) * 255, (TWO == 2) * 255, 0), r"stores 2: \[0, 255, 0\], \[255, 0, 0\]"),
        (stacked(255, 255, 255, TWO * 100), "stores 2 in its alpha channel: 100, 200"),
        (np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH), "stores 5119: 1, 2, 3, 4, 5 and 5114 more"),
    ],
)
def test_several_values_are_an_error(values: np.ndarray | Image.Image, message: str, tmp_path: Path) -> None:
    """The error lists the values, and how to choose."""
    path = save(tmp_path / "mask.png", values)
    expected = (
        rf"mask\.png: a mask file must store one value other than 0, but this one {message}\. Name .*\"mask_value\""
    )
    with pytest.raises(DataError, match=expected):
        MaskFile(path).load()


def test_files_that_cannot_be_a_mask(tmp_path: Path) -> None:
    """JPEG values, CMYK, 16 bits in three channels, an inverted gray palette, a missing file, a large one."""
    noisy = save(tmp_path / "mask.jpg", TARGET.astype(np.uint8) * 255, quality=10)
    with pytest.raises(DataError, match="JPEG does not keep values: save masks as PNG"):
        MaskFile(noisy).load()
    with pytest.raises(DataError, match="stores its pixels as CMYK: a mask file must be grey, a palette image, or RGB"):
        MaskFile(save(tmp_path / "c.tif", Image.new("CMYK", (4, 4)))).load()
    inverse = palette((TARGET).astype(np.uint8), [255, 255, 255], [0, 0, 0])
    with pytest.raises(DataError, match=r"its palette shows the value 0 brighter than the value 1\. Name"):
        MaskFile(save(tmp_path / "p.png", inverse)).load()
    assert int(MaskFile(tmp_path / "p.png", 1).load().sum()) == 600
    with pytest.raises(ImageError, match=r"No such file: .*nowhere\.png"):
        MaskFile(tmp_path / "nowhere.png").load()
    with pytest.raises(ImageSizeError, match=r"large\.png has 10001 x 10000 pixels"):
        MaskFile(save(tmp_path / "large.png", Image.new("1", (10001, 10000)))).load()
    noise = np.random.default_rng(0).integers(0, 256, (3, HEIGHT, WIDTH))
    (tmp_path / "cut.png").write_bytes(save(tmp_path / "noise.png", stacked(*noise)).read_bytes()[:2000])
    with pytest.raises(ImageError, match=r"cut\.png is"):
        MaskFile(tmp_path / "cut.png").load()


def test_16_bits_in_several_channels(tmp_path: Path) -> None:
    """Pillow keeps 8 bits: 0 and 1 would be equal."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + np.stack([row] * 3, axis=1).astype(">u2").tobytes() for row in TARGET)
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "mask.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    with pytest.raises(ImageError, match="stores 16 bits in each of several channels, of which 8 would be lost"):
        MaskFile(tmp_path / "mask.png").load()


@pytest.mark.parametrize(
    ("values", "value", "pixels"),
    [
        (TWO, 1, 600),
        (TWO, 2, 400),
        (TWO, 0, HEIGHT * WIDTH - 1000),
        (palette(TWO, [0, 0, 0], RED, GREEN), 2, 400),
        (palette(TWO, [0, 0, 0], RED, GREEN), (255, 0, 0), 600),
        (TWO.astype(np.uint16) * 300, 600, 400),
        (stacked((TWO == 1) * 255, (TWO == 2) * 255, 0), (0, 255, 0), 400),
        (stacked(TWO, TWO, TWO), 2, 400),
        (stacked((TWO == 1) * 255, (TWO == 2) * 255, 0, TARGET * 255), (0, 255, 0), 400),
        (stacked(9, 9, 9, TWO * 100), 200, 400),
    ],
)
def test_a_value_is_named(values: np.ndarray | Image.Image, value: MaskValue, pixels: int, tmp_path: Path) -> None:
    """A number, or a colour."""
    assert int(MaskFile(save(tmp_path / "mask.png", values), value).load().sum()) == pixels


@pytest.mark.parametrize(
    ("values", "value", "message"),
    [
        (TWO, 3, 'no pixel has the "mask_value" 3; it stores 0, 1, 2'),
        (TWO, 300, 'no pixel has the "mask_value" 300; it stores 0, 1, 2'),
        (stacked(TWO, 0, 0), (9, 0, 0), r"9, 0, 0\]; it stores \[0, 0, 0\], \[1, 0, 0\], \[2, 0, 0\]"),
        (TWO, (1, 0, 0), 'stores numbers, not colours: give "mask_value" as a number'),
    ],
)
def test_a_value_that_is_not_there(values: np.ndarray, value: MaskValue, message: str, tmp_path: Path) -> None:
    """The error lists the stored values."""
    with pytest.raises(DataError, match=message):
        MaskFile(save(tmp_path / "mask.png", values), value).load()


def test_own_data_names_the_value(tmp_path: Path) -> None:
    """One label map for several phrases; each phrase selects an object by its value."""
    save(tmp_path / "a.png", stacked(1, 2, 3))
    save(tmp_path / "labels.png", TWO)
    rows = [
        {"image": "a.png", "phrase": f"object {value}", "mask": "labels.png", "mask_value": value} for value in (1, 2)
    ]
    (tmp_path / "val.jsonl").write_text("\n".join(map(json.dumps, rows)))
    samples = open_dataset(tmp_path, "jsonl", "val")
    assert [int(sample.load_mask().sum()) for sample in samples] == [600, 400]
    for protocol in ("original", "gres"):
        share = target_mask(samples[0], PROTOCOLS[protocol]).mean()
        assert share == pytest.approx(600 / TARGET.size, rel=0.05)
