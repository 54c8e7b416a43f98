"""Reading images: every mode and shape as displayed, and one sentence for every error."""

from __future__ import annotations

import io
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refersam.errors import ImageError, ImageFormatError, ImageSizeError
from refersam.image import count_scans, load_image, resize_to_array

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow's words on damaged metadata

RED, BLUE = (200, 10, 20), (10, 20, 200)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def two_halves() -> Image.Image:
    """Return 4 x 2 pixels: the left half red, the right half blue."""
    image = Image.new("RGB", (4, 2), RED)
    image.paste(BLUE, (2, 0, 4, 2))
    return image


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    """Return one pixel of an RGB image."""
    assert image.mode == "RGB"
    return tuple(int(value) for value in np.asarray(image)[y, x])


# ---------------------------------------------------------------------------------------------- where it comes from


def test_every_source_gives_the_same_image(tmp_path: Path) -> None:
    """Path, str, bytes, PIL image and array."""
    image = two_halves()
    path = tmp_path / "an image with spaces.png"
    path.write_bytes(encoded(image))
    expected = np.asarray(image)
    for source in (path, str(path), path.read_bytes(), image, expected):
        np.testing.assert_array_equal(np.asarray(load_image(source)), expected)


def test_the_callers_image_is_left_alone() -> None:
    """A given PIL image is not changed."""
    image = Image.new("RGBA", (3, 2), (*RED, 100))
    load_image(image)
    assert (image.mode, image.getpixel((0, 0))) == ("RGBA", (*RED, 100))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (13, 1), (17, 5), (3000, 3), (3, 3000)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    """One pixel, and extreme aspect ratios."""
    assert load_image(encoded(Image.new("RGB", size, RED))).size == size


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("BMP", {})])
def test_common_formats(kind: str, options: dict[str, object]) -> None:
    """Formats of cameras, browsers and scanners; JPEG within a tolerance."""
    read = np.asarray(load_image(encoded(Image.new("RGB", (16, 16), RED), kind, **options))).astype(int)
    assert np.abs(read - RED).max() <= 3


# ------------------------------------------------------------------------------------------------------------- modes


def test_grey_modes() -> None:
    """8 bits, 1 bit, and 16 bits: 65535 is white, 257 times v is v."""
    assert pixel(load_image(Image.new("L", (2, 2), 77))) == (77, 77, 77)
    assert pixel(load_image(Image.new("1", (2, 2), 1))) == (255, 255, 255)
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    read = load_image(encoded(Image.fromarray(values)))
    assert [pixel(read, x) for x in range(3)] == [(0, 0, 0), (100, 100, 100), (255, 255, 255)]


def test_floating_point_tiff_in_zero_to_one_is_not_black() -> None:
    """1 is white in floating-point images, and NaN is black."""
    values = np.array([[0.0, 0.5, 1.0, np.nan]], dtype=np.float32)
    read = load_image(encoded(Image.fromarray(values), "TIFF"))
    assert [pixel(read, x)[0] for x in range(4)] == [0, 128, 255, 0]


def test_transparency_lies_over_white() -> None:
    """RGBA, gray with alpha, and both kinds of premultiplied alpha."""
    clear = Image.new("RGBA", (2, 2), (*RED, 0))
    assert pixel(load_image(encoded(clear))) == (255, 255, 255)
    assert pixel(load_image(Image.new("RGBA", (2, 2), (*RED, 255)))) == RED
    # Half of black over white: 255 * (1 - 128 / 255) = 127.
    assert pixel(load_image(Image.new("RGBA", (2, 2), (0, 0, 0, 128)))) == (127, 127, 127)
    assert pixel(load_image(encoded(Image.new("LA", (2, 2), (0, 128))))) == (127, 127, 127)
    assert pixel(load_image(Image.new("LA", (2, 2), (0, 128)).convert("La"))) == (127, 127, 127)


def test_palette_with_and_without_transparency() -> None:
    """Entry 1 is red; declared as transparent it is white."""
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, *RED])
    assert pixel(load_image(encoded(image))) == RED
    assert pixel(load_image(encoded(image, transparency=1))) == (255, 255, 255)
    assert pixel(load_image(encoded(image, transparency=0))) == RED


def test_a_transparent_colour_of_an_rgb_png_is_white() -> None:
    """PNG's tRNS chunk without an alpha channel."""
    data = encoded(two_halves(), transparency=RED)
    assert (pixel(load_image(data), 0), pixel(load_image(data), 3)) == ((255, 255, 255), BLUE)


def test_cmyk() -> None:
    """No ink is white, all black ink is black."""
    assert pixel(load_image(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "TIFF"))) == (255, 255, 255)
    assert pixel(load_image(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "TIFF"))) == (0, 0, 0)
    assert load_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")).mode == "RGB"


def test_exif_rotation_on_and_off() -> None:
    """Orientation 6 is displayed with a rotation by 90 degrees clockwise: left becomes top."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(two_halves(), exif=exif)
    upright = load_image(data)
    assert upright.size == (2, 4)
    assert (pixel(upright, 0, 0), pixel(upright, 0, 3)) == (RED, BLUE)
    stored = load_image(data, apply_exif_rotation=False)
    assert stored.size == (4, 2)
    assert (pixel(stored, 0, 0), pixel(stored, 3, 0)) == (RED, BLUE)


# ------------------------------------------------------------------------------------------------------------ arrays


def test_arrays_of_all_accepted_shapes() -> None:
    """(H, W), (H, W, 1), RGB, RGBA; uint8 or float in [0, 1]; any memory layout."""
    grey = np.full((2, 3), 100, np.uint8)
    assert pixel(load_image(grey)) == (100, 100, 100)
    assert pixel(load_image(grey[:, :, None])) == (100, 100, 100)
    assert pixel(load_image(np.zeros((2, 3, 4), np.uint8))) == (255, 255, 255)  # all transparent
    assert load_image(grey).size == (3, 2)
    for kind in (np.float16, np.float32, np.float64):
        assert pixel(load_image(np.full((2, 3, 3), 0.2, kind))) == (51, 51, 51)
    halves = np.asarray(two_halves())
    assert pixel(load_image(halves[:, ::-1])) == BLUE


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 2, 3), 1.5), r"finite values in \[0, 1\]"),
        (np.full((2, 2, 3), -0.1, np.float32), r"finite values in \[0, 1\]"),
        (np.full((2, 2), np.nan), r"finite values in \[0, 1\]"),
        (np.full((2, 2), np.inf), r"finite values in \[0, 1\]"),
        (np.zeros((2, 2, 3), np.int64), "uint8, or float.*int64"),
        (np.zeros((2, 2), bool), "uint8, or float.*bool"),
        (np.zeros((2, 2, 3), complex), "uint8, or float.*complex"),
        (np.array([["a"]]), "uint8, or float.*<U1"),
        (np.array([[None]]), "uint8, or float.*object"),
        (np.zeros((2, 2, 2), np.uint8), r"\(H, W, 3\).*\(2, 2, 2\)"),
        (np.zeros((3, 20, 20), np.uint8), r"\(H, W, 3\).*\(3, 20, 20\)"),
        (np.zeros((1, 2, 2, 3), np.uint8), r"\(H, W, 3\).*\(1, 2, 2, 3\)"),
        (np.zeros(5, np.uint8), r"\(H, W, 3\).*\(5,\)"),
        (np.zeros((0, 5, 3), np.uint8), r"\(H, W, 3\).*\(0, 5, 3\)"),
        (np.array(3, np.uint8), r"\(H, W, 3\).*\(\)"),
    ],
)
def test_arrays_that_are_refused(array: np.ndarray, message: str) -> None:
    """The error has the expected and the found value."""
    with pytest.raises(ImageError, match=message):
        load_image(array)


def test_an_array_with_too_many_pixels_is_refused() -> None:
    """The limit applies to arrays, too: 100 pixels with a limit of 99."""
    with pytest.raises(ImageError, match="20 x 5 pixels"):
        load_image(np.zeros((5, 20), np.uint8), max_pixels=99)
    assert load_image(np.zeros((5, 20), np.uint8), max_pixels=100).size == (20, 5)


@pytest.mark.parametrize("source", [None, 3, ["a.png"], bytearray(b"x")])
def test_other_things_are_refused(source: object) -> None:
    """The error lists the accepted types."""
    with pytest.raises(ImageError, match=f"path, bytes, a PIL image or a numpy array.*{type(source).__name__}"):
        load_image(source)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------- broken files


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_files(kind: str, share: float, tmp_path: Path) -> None:
    """Truncated in the header or in the pixels: an ImageError with the file name, not a partial image."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ImageError, match=r"cut\.\w+ is (broken or cut off|not an image)"):
        load_image(path)


@pytest.mark.parametrize("content", [b"", b"this is text\n" * 50, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a"])
def test_files_that_are_no_images(content: bytes, tmp_path: Path) -> None:
    """Empty, text, and only a signature."""
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"image\.png is not an image that can be read \(PNG, JPEG"):
        load_image(path)
    with pytest.raises(ImageError, match="The image is not an image that can be read"):
        load_image(content)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    """Two different messages."""
    with pytest.raises(ImageError, match=r"No such file: .*missing\.png"):
        load_image(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="is not a file"):
        load_image(tmp_path)
    with pytest.raises(ImageError):
        load_image("x" * 5000)


def test_a_web_address_is_not_fetched() -> None:
    with pytest.raises(ImageError, match=r"example\.com/a\.jpg is a web address, which is not fetched: download it"):
        load_image("https://example.com/a.jpg")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF", "GIF", "BMP", "JPEG2000", "TGA"])
def test_damaged_files_never_raise_anything_else(kind: str) -> None:
    """Bytes overwritten at random: an image, or an ImageError."""
    rng = np.random.default_rng(1)
    try:
        whole = encoded(Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)), kind)
    except (OSError, KeyError):
        pytest.skip(f"this Pillow does not write {kind}")
    refused = 0
    for _ in range(40):
        data = bytearray(whole)
        for place in rng.integers(0, min(len(data), 200), 4):
            data[place] = rng.integers(256)
        try:
            assert load_image(bytes(data)).mode == "RGB"
        except ImageError:
            refused += 1
    if kind != "TGA":  # which has no signature and no checksum
        assert refused


def test_postscript_is_not_run() -> None:
    """Pillow would start Ghostscript: EPS is not among the formats."""
    data = encoded(Image.new("RGB", (8, 8)), "EPS")
    with pytest.raises(ImageError, match="not an image that can be read"):
        load_image(data)


# ---------------------------------------------------------------------------------------------------------- too large


def png_that_claims(width: int, height: int) -> bytes:
    """Return a PNG of a hundred bytes whose header declares any size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(60_000, 60_000), (10_001, 10_000), (2_000_000_000, 3)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    """A hundred bytes that declare gigabytes are rejected by the declaration."""
    start = time.perf_counter()
    with pytest.raises(ImageError, match=r"too large to be decoded safely|more than the limit of 100,000,000"):
        load_image(png_that_claims(*size))
    assert time.perf_counter() - start < 1


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """Repetitions of the last scan of a progressive file: a few bytes each, but time for all pixels."""
    file = io.BytesIO()
    Image.new("L", (64, 64), 90).save(file, format="JPEG", progressive=True)
    jpeg = file.getvalue()
    last, end = jpeg.rindex(b"\xff\xda"), jpeg.rindex(b"\xff\xd9")
    assert 1 < count_scans(jpeg) < 20
    behind = jpeg + jpeg[last:end] * 1000  # not part of the image: a video or another file appended to it
    assert count_scans(behind) == count_scans(jpeg)
    assert load_image(behind).size == (64, 64)
    bomb = jpeg[:end] + jpeg[last:end] * 1000 + jpeg[end:]
    hidden = jpeg[:end] + b"\xff\x02\xff\xff" + jpeg[last:end] * 1000 + jpeg[end:]  # a marker that has no length
    endless = jpeg[:end] + b"\xff\x01" * 20_000 + jpeg[end:]
    (tmp_path / "bomb.jpg").write_bytes(bomb)
    for source in (bomb, hidden, endless, tmp_path / "bomb.jpg", Image.open(io.BytesIO(bomb))):
        with pytest.raises(ImageError, match="is a JPEG of more than 100 scans, which no program writes: save it anew"):
            load_image(source)
    with (tmp_path / "bomb.jpg").open("rb") as file:
        closed = Image.open(file)
    with pytest.raises(ImageError, match="is broken or cut off"):
        load_image(closed)


def tiled(*entries: tuple[int, int, int], side: int, order: str = "<") -> bytes:
    """Return a TIFF of 16 x 16 pixels in one tile; entries are additional tags, types and values."""
    data = zlib.compress(bytes(side * side), 9)
    data += b"\0" * (len(data) % 2)
    usual = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 324: 8, 325: len(data)}
    tags = sorted([*((tag, 4, value) for tag, value in usual.items()), *entries], key=lambda entry: entry[0])
    table = struct.pack(order + "H", len(tags)) + b"".join(struct.pack(order + "HHII", t, k, 1, v) for t, k, v in tags)
    head = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(data))
    return head + data + table + struct.pack(order + "I", 0)


@pytest.mark.parametrize("order", "<>")
def test_tiles_larger_than_their_image_are_refused(order: str) -> None:
    """A TIFF of 16 x 16 pixels in one tile of 4,000 x 4,000: a few kilobytes."""
    tiff = tiled((322, 4, 4_000), (323, 4, 4_000), side=4_000, order=order)
    assert load_image(tiff).size == (16, 16)
    with pytest.raises(ImageSizeError, match="stored in tiles of 4000 x 4000 pixels, more than the limit of 9,000,000"):
        load_image(tiff, max_pixels=9_000_000)


@pytest.mark.parametrize(
    "entries",
    [
        [(322, 4, 4_000), (322, 4, 16), (323, 4, 4_000), (323, 4, 16)],  # libtiff takes the first, Pillow the last
        [(322, 17, 4_000), (323, 17, 4_000)],  # a kind that Pillow passes over
        [(322, 1, 16), (323, 1, 16)],
    ],
)
def test_tiles_that_two_programs_read_differently(entries: list[tuple[int, int, int]]) -> None:
    """The checked size would differ from the decoded one."""
    with pytest.raises(ImageError, match="the size of its tiles in a way that no program writes"):
        load_image(tiled(*entries, side=4_000))


def test_tiffs_of_several_images_and_of_both_sizes() -> None:
    """The checked directory is that of the image."""
    for big in (False, True):
        file = io.BytesIO()
        images = [Image.new("L", (9, 7)), Image.new("L", (5, 4))]
        images[0].save(file, format="TIFF", save_all=True, append_images=images[1:], big_tiff=big)
        opened = Image.open(file)
        for number, image in enumerate(images):
            opened.seek(number)
            assert load_image(opened).size == image.size


def test_icons_are_not_read() -> None:
    """Pillow would decompress it to find its size."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, format="ICO")
    with pytest.raises(ImageFormatError):
        load_image(file.getvalue())


def test_the_limit_is_inclusive() -> None:
    """100 pixels are accepted with a limit of 100."""
    data = encoded(Image.new("RGB", (20, 5)))
    assert load_image(data, max_pixels=100).size == (20, 5)
    with pytest.raises(ImageError, match="20 x 5 pixels, more than the limit of 99"):
        load_image(data, max_pixels=99)


# ------------------------------------------------------------------------------------------------------------ resizing


def test_resize_is_pillows_bilinear_with_antialiasing() -> None:
    """4 x 1 -> 2 x 1 by hand: triangle filter of radius 2 around 1 and 3, weights 3 3 1 and 1 3 3, over 7."""
    row = np.array([[0, 70, 140, 210]], np.uint8)
    # (3*0 + 3*70 + 1*140) / 7 = 50; (1*70 + 3*140 + 3*210) / 7 = 160.
    np.testing.assert_array_equal(resize_to_array(row, 1, 2), [[50, 160]])
    image = two_halves()
    np.testing.assert_array_equal(resize_to_array(image, 2, 4), np.asarray(image))
    assert resize_to_array(image, 32, 64).shape == (32, 64, 3)
