"""HEIC files of iPhones: decoded upright; unreadable and malicious files are reported in one sentence."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refersam.bulk.items import open_items
from refersam.data.mask_files import MaskFile
from refersam.errors import DataError, ImageError, ImageFormatError, ImageSizeError
from refersam.heif import check_heif, is_heif
from refersam.image import load_image, load_stored, read_size

pillow_heif = pytest.importorskip("pillow_heif", reason="pip install 'refersam[heif]'")

RED, BLUE = (200, 10, 20), (10, 20, 200)


def heic(image: Image.Image, **options: object) -> bytes:
    """Return the bytes of a HEIC file."""
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=90, **options)
    return buffer.getvalue()


def two_halves(width: int = 320, height: int = 200) -> Image.Image:
    """Return an image with a red left half and a blue right half."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def sized(content: bytes, old: tuple[int, int], new: tuple[int, int]) -> bytes:
    """Change the declared size (`ispe`) of all images of a size."""
    prefix = b"ispe\0\0\0\0"
    assert prefix + struct.pack(">II", *old) in content
    return content.replace(prefix + struct.pack(">II", *old), prefix + struct.pack(">II", *new))


def cropped(content: bytes, width: int, height: int) -> bytes:
    """Add a crop (`clap`) of the only image to its centre."""
    clap = struct.pack(">I4s8I", 40, b"clap", width, 1, height, 1, 0, 1, 0, 1)
    place = content.index(b"ipma") - 4
    count = content[place + 18]  # of the properties of the item
    changed = bytearray(content[:place] + clap + content[place:])
    changed[place + 40 + 18] = count + 1
    changed.insert(place + 40 + 19 + count, 0x80 | (count + 1))
    properties = len([kind for kind in (b"hvcC", b"colr", b"ispe", b"pixi") if kind in content[:place]])
    assert properties == count
    for box, more in ((b"meta", 41), (b"iprp", 41), (b"ipco", 40), (b"ipma", 1)):
        at = changed.index(box) - 4
        changed[at : at + 4] = struct.pack(">I", struct.unpack(">I", changed[at : at + 4])[0] + more)
    at = changed.index(b"iloc") + 22  # the offset of the pixels in the file
    changed[at : at + 4] = struct.pack(">I", struct.unpack(">I", changed[at : at + 4])[0] + 41)
    return bytes(changed)


@pytest.mark.parametrize("options", [{}, {"tile_size": 128}])
def test_a_real_file(options: dict[str, int], tmp_path: Path) -> None:
    """From a path and bytes; as one image, and in tiles as on iPhones."""
    content = heic(two_halves(), **options)
    assert (b"grid" in content[:400]) == bool(options)
    path = tmp_path / "a.HEIC"
    path.write_bytes(content)
    for source in (path, content):
        image = load_image(source)
        assert (image.size, image.mode) == ((320, 200), "RGB")
        pixels = np.asarray(image).astype(int)
        assert np.abs(pixels[:, :150] - RED).max() < 12
        assert np.abs(pixels[:, -150:] - BLUE).max() < 12
    assert read_size(path) == (320, 200)
    assert [item.image for item in open_items(str(tmp_path), ["x"], Path("out"))()] == ["a.HEIC"]


def test_transparency_grey_and_rotation() -> None:
    """Composited on white; converted to RGB; rotated once as declared, with and without EXIF."""
    clear = Image.new("RGBA", (64, 64), (*RED, 0))
    assert np.asarray(load_image(heic(clear))).min() > 250
    assert np.abs(np.asarray(load_image(heic(Image.new("L", (64, 64), 100)))).astype(int) - 100).max() < 4
    exif = Image.Exif()
    exif[0x0112] = 6  # the upper side is at the right
    turned = heic(two_halves(), exif=exif.tobytes())
    assert b"irot" in turned
    for apply in (True, False):
        image = load_image(turned, apply_exif_rotation=apply)
        assert image.size == (200, 320)
        assert np.abs(np.asarray(image)[:150].astype(int) - RED).max() < 12


def test_a_mask_in_heic_is_refused(tmp_path: Path) -> None:
    """Compression changes the values, unless the mask is all black."""
    path = tmp_path / "mask.heic"
    path.write_bytes(heic(two_halves()))
    with pytest.raises(DataError, match="HEIF does not keep values: save masks as PNG"):
        MaskFile(path).load()


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf", True),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", True),
        (b"\0\0\0\x14ftypmif1\0\0\0\0mif1", True),
        (b"\0\0\0\x1cftypmif1\0\0\0\0avifmif1miaf", False),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", False),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp41heic", False),
        (b"\xff\xd8\xff\xe0", False),
        (b"", False),
    ],
)
def test_how_it_is_recognised(head: bytes, expected: bool) -> None:
    """By its brands; AVIF and videos are not HEIC."""
    assert is_heif(head) is expected


def test_avif_is_still_read() -> None:
    """By Pillow, for any registered plugins."""
    load_image(heic(two_halves()))
    buffer = io.BytesIO()
    two_halves().save(buffer, "AVIF")
    assert load_image(buffer.getvalue()).size == (320, 200)


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one sentence with the package to install; folders still list such files, so that none is skipped silently."""
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(heic(two_halves()))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for source in (path, path.read_bytes()):
        with pytest.raises(
            ImageFormatError, match=r"is a HEIC image: .* pip install '\.\[heif\]' in a clone of the repository\. Or"
        ):
            load_image(source)
    with pytest.raises(ImageError, match=r"IMG_0001\.HEIC is a HEIC image"):
        read_size(path)
    assert len(list(open_items(str(tmp_path), ["x"], Path("out"))())) == 1


def test_other_images_do_not_load_the_plugin() -> None:
    """It is registered for the first HEIC file."""
    code = (
        "import sys; from PIL import Image; from refersam.image import image_suffixes, load_image;"
        "load_image(Image.new('RGB', (4, 4))); assert '.heic' in image_suffixes();"
        "assert 'pillow_heif' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_broken_files(tmp_path: Path) -> None:
    """One sentence for files truncated or changed at any position."""
    content = heic(two_halves())
    for length in (20, 100, 300, 500, len(content) - 10):
        with pytest.raises(ImageError, match="The image"):
            load_image(content[:length])
    numbers = np.random.default_rng(0)
    for _ in range(200):
        changed = bytearray(content)
        for place in numbers.integers(4, 420, 3):
            changed[place] = numbers.integers(256)
        with contextlib.suppress(ImageError):  # nothing else is raised
            load_image(bytes(changed))


def test_large_images_are_refused(tmp_path: Path) -> None:
    """By the declared size, before decoding; for all ways to open them."""
    content = sized(heic(two_halves()), (320, 200), (20_000, 20_000))
    path = tmp_path / "a.heic"
    path.write_bytes(content)
    for read in (load_image, load_stored, read_size):
        with pytest.raises(ImageError, match=r"a\.heic .*(20000 x 20000|pixels)"):
            read(path)
    with pytest.raises(ImageSizeError, match="320 x 200 pixels, more than the limit of 10,000"):
        load_image(heic(two_halves()), max_pixels=10_000)


def test_more_pixels_than_declared_are_not_decoded() -> None:
    """The decoder rejects them."""
    big = heic(Image.new("RGB", (2000, 1500)))
    with pytest.raises(ImageError, match=r"broken or cut off: .*exceeds the maximum"):
        load_image(sized(big, (2000, 1500), (64, 64)))


def test_a_crop_of_something_large_is_refused() -> None:
    """The hidden part is decoded, too."""
    big = cropped(heic(Image.new("RGB", (2000, 1500), RED)), 64, 64)
    assert load_image(big).size == (64, 64)
    with pytest.raises(ImageSizeError, match="holds an image of more than the limit of 2,000,000 pixels"):
        load_image(big, max_pixels=2_000_000)


def test_tiles_that_are_not_needed_are_refused() -> None:
    """A grid that shows a small part of many tiles, or with nested grids."""
    content = heic(two_halves(1536, 1024), tile_size=512)
    assert load_image(content, max_pixels=1536 * 1024).size == (1536, 1024)
    small = sized(content, (1536, 1024), (64, 64))
    grid = small.index(b"idat") + 8
    small = small[:grid] + struct.pack(">HH", 64, 64) + small[grid + 4 :]
    more = sized(small, (512, 512), (1024, 1024))
    with pytest.raises(ImageSizeError, match="in tiles of together more than 4 times the limit of 1,000,000 pixels"):
        check_heif(more, "x", 1_000_000)
    nested = content.replace(b"hvc1", b"grid", 1)
    with pytest.raises(ImageError, match="tiles that are made of tiles"):
        check_heif(nested, "x", 10_000_000)


@pytest.mark.parametrize("box", [b"iinf", b"iprp", b"ipma", b"meta"])
def test_boxes_that_come_twice_or_never_are_refused(box: bytes) -> None:
    """Readers differ in their choice of two boxes."""
    content = heic(two_halves())
    with pytest.raises(ImageError, match="in a way that no program writes"):
        check_heif(content.replace(box, b"skip"), "x", 10_000_000)
    at = content.index(box) - 4
    length = struct.unpack_from(">I", content, at)[0]
    twice = content[:at] + content[at : at + length] + content[at:]
    for parent in {b"iinf": (b"meta",), b"iprp": (b"meta",), b"ipma": (b"meta", b"iprp")}.get(box, ()):
        place = twice.index(parent) - 4
        twice = (
            twice[:place] + struct.pack(">I", struct.unpack_from(">I", twice, place)[0] + length) + twice[place + 4 :]
        )
    with pytest.raises(ImageError, match="in a way that no program writes"):
        check_heif(twice, "x", 10_000_000)
