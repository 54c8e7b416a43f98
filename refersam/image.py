"""Safe reader for untrusted images in many formats, with conversion to upright 8-bit RGB."""

from __future__ import annotations

import io
import os
import re
import struct
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin

from refersam import heif
from refersam.errors import ImageError, ImageFormatError, ImageSizeError

MAX_PIXELS = 100_000_000
"""Limit for image pixels, checked before decoding: a small file can decompress to more than the available memory."""

FORMATS = (
    "PNG",
    "JPEG",
    "JPEG2000",
    "GIF",
    "BMP",
    "DIB",
    "TIFF",
    "WEBP",
    "AVIF",
    "PPM",
    "TGA",
    "PCX",
    "SGI",
    heif.FORMAT,
)
"""Supported formats; HEIF requires the extra `heif`.

Other formats of Pillow are unsafe: PostScript starts other programs, and ICO is decompressed to read its size.
"""

_READ_AS_JPEG = "MPO"
"""Format name of JPEG files with several images."""

MAX_SCANS = 100
"""Limit for the scans of a JPEG; common files have about ten. A scan of few bytes costs a pass over all pixels."""

_TILE_SIDES = (322, 323)
_TIFF_NUMBERS = (3, 4, 16)  # SHORT, LONG, LONG8
_USUAL_TILE = 1024 * 1024
_MOST_TAGS = 10_000
_MOST_MARKERS = 10_000
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)  # other bytes follow FF in entropy-coded data

ImageSource: TypeAlias = str | os.PathLike | bytes | Image.Image | np.ndarray


def load_image(source: ImageSource, *, apply_exif_rotation: bool = True, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image as 8-bit RGB.

    Grey, palette, CMYK and 16-bit images are converted. Transparency is composited over white. EXIF rotation is
    applied.

    Args:
        source: path, bytes of an image file, PIL image, or array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA,
            uint8 or float in [0, 1].
        apply_exif_rotation: whether to apply the EXIF rotation; False for COCO, whose masks match the stored pixels.
        max_pixels: limit on width times height.

    Raises:
        ImageError: the file is missing, not an image, broken, or too large.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if not isinstance(source, str | os.PathLike | bytes | Image.Image):
        raise ImageError(
            f"An image must be a path, bytes, a PIL image or a numpy array, but is a {type(source).__name__}."
        )
    name = "The image" if isinstance(source, bytes | Image.Image) else os.fspath(source)
    image = source if isinstance(source, Image.Image) else _open(source, name)
    _check_size(image, name, max_pixels)
    try:
        _check_decoding(image, name, max_pixels)
        image.load()
        if apply_exif_rotation:
            image = ImageOps.exif_transpose(image)
        return _to_rgb(image)
    except (MemoryError, ImageError):
        raise
    except Exception as error:  # Pillow raises many types for broken files
        raise ImageError(f"{name} is broken or cut off: {error}.") from error


def load_stored(path: Path, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image file in its stored mode, without conversion or rotation.

    Raises ImageError for a missing, broken or too large file, or for more bits than Pillow can represent.
    """
    with _open(path, str(path)) as image:
        _check_size(image, str(path), max_pixels)
        layouts = [str(tile[3][0] if isinstance(tile[3], tuple) else tile[3]) for tile in getattr(image, "tile", ())]
        if any(";16" in layout and not layout.startswith(("I;16", "F;16")) for layout in layouts):
            raise ImageError(
                f"{path} stores 16 bits in each of several channels, of which 8 would be lost: save it with one "
                "channel, or with 8 bits."
            )
        try:
            _check_decoding(image, str(path), max_pixels)
            image.load()
        except (MemoryError, ImageError):
            raise
        except Exception as error:  # Pillow raises many types for broken files
            raise ImageError(f"{path} is broken or cut off: {error}.") from error
        return image


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    if not (image.width and image.height):
        raise ImageError(f"{name} has {image.width} x {image.height} pixels: it is empty.")
    if image.width * image.height > max_pixels:
        raise ImageSizeError(
            f"{name} has {image.width} x {image.height} pixels, more than the limit of {max_pixels:,}: make it smaller."
        )


def _check_decoding(image: Image.Image, name: str, max_pixels: int) -> None:
    """Validate that decoding a file needs no more memory or time than its image size suggests."""
    file = image.fp if isinstance(image, ImageFile.ImageFile) else None
    if file is None:
        return
    place = file.tell()
    try:
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            _check_tiles(image.tag_v2, file, name, max_pixels)
        elif image.format == heif.FORMAT:
            file.seek(0)
            heif.check_heif(file.read(), name, max_pixels)
        elif image.format in ("JPEG", _READ_AS_JPEG):
            file.seek(0)
            if count_scans(file.read()) > MAX_SCANS:
                raise ImageError(
                    f"{name} is a JPEG of more than {MAX_SCANS} scans, which no program writes: save it anew."
                )
    finally:
        file.seek(place)


def _check_tiles(tags: TiffImagePlugin.ImageFileDirectory_v2, file: IO[bytes], name: str, max_pixels: int) -> None:
    """Validate the size of TIFF tiles, which are decoded as a whole even if the image is smaller."""
    sides = [tags[tag] for tag in _TILE_SIDES if tag in tags]
    kinds = [kind for tag, kind in _tiff_entries(tags, file) if tag in _TILE_SIDES]
    # libtiff uses the first of two entries, and number types that Pillow ignores
    if len(kinds) != len(sides) or not all(kind in _TIFF_NUMBERS for kind in kinds):
        raise ImageError(f"{name} says the size of its tiles in a way that no program writes: save it anew.")
    if len(sides) == len(_TILE_SIDES) and sides[0] * sides[1] > max(max_pixels, _USUAL_TILE):
        raise ImageSizeError(
            f"{name} is stored in tiles of {sides[0]} x {sides[1]} pixels, more than the limit of {max_pixels:,}: save "
            "it anew."
        )


def _tiff_entries(tags: TiffImagePlugin.ImageFileDirectory_v2, file: IO[bytes]) -> list[tuple[int, int]]:
    """Return (tag, number type) of each directory entry as stored in the file."""
    order = "<" if tags.prefix == b"II" else ">"
    file.seek(2)
    is_big = file.read(2) in (b"+\0", b"\0+")  # 43; 42 else
    count, entry = ("Q", 20) if is_big else ("H", 12)
    file.seek(tags.offset or 0)
    number = struct.unpack(order + count, file.read(struct.calcsize(order + count)))[0]
    entries = file.read(entry * min(number, _MOST_TAGS))
    return [struct.unpack_from(order + "HH", entries, at) for at in range(0, len(entries) - 3, entry)]


def count_scans(jpeg: bytes) -> int:
    """Count the scans of a JPEG file; return `MAX_SCANS` + 1 for more scans or too many markers."""
    place = scans = 0
    for _ in range(_MOST_MARKERS):
        found = _MARKER.search(jpeg, place)
        if found is None or found.group() == b"\xff\xd9":  # end of the image; other data may follow
            return scans
        scans += found.group() == b"\xff\xda"
        if scans > MAX_SCANS:
            return scans
        place = found.end()
        if found.group()[1] >= 0xC0 and found.group() != b"\xff\xd8":  # the others have no length
            place += max(2, int.from_bytes(jpeg[place : place + 2], "big"))
    return MAX_SCANS + 1


_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)
"""EXIF orientation tag, and its values that swap width and height."""


def read_size(path: Path, *, apply_exif_rotation: bool = False, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (width, height) in pixels without decoding a JPEG file's pixels.

    Args:
        path: image file.
        apply_exif_rotation: whether to return the size after EXIF rotation instead of the stored size.
        max_pixels: limit on width times height.

    Raises:
        ImageError: the file is missing, not an image, or too large.
    """
    with _open(path, str(path)) as image:
        if image.width * image.height > max_pixels:
            raise ImageSizeError(
                f"{path} has {image.width} x {image.height} pixels, more than the limit of {max_pixels:,}."
            )
        if apply_exif_rotation:
            try:
                _check_decoding(image, str(path), max_pixels)
                orientation = image.getexif().get(_ORIENTATION)  # decodes a PNG
            except (MemoryError, ImageError):
                raise
            except Exception as error:  # Pillow raises many types for broken files
                raise ImageError(f"{path} is broken or cut off: {error}.") from error
            if orientation in _SIDEWAYS:
                return image.height, image.width
        return image.size


def _open(source: str | os.PathLike | bytes, name: str) -> Image.Image:
    Image.init()
    try:
        if isinstance(source, bytes):
            head = source[: heif.HEAD_BYTES]
        else:
            path = Path(source)
            if not path.exists():
                if path.parts and path.parts[0].lower() in ("http:", "https:"):
                    raise ImageError(f"{name} is a web address, which is not fetched: download it and name the file.")
                raise ImageError(f"No such file: {name}.")
            if not path.is_file():
                raise ImageError(f"{name} is not a file.")
            with path.open("rb") as file:
                head = file.read(heif.HEAD_BYTES)
        if heif.is_heif(head):
            heif.register(name)
        formats = [kind for kind in FORMATS if kind in Image.OPEN]  # formats of the installed Pillow
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else path, formats=formats)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageSizeError(
            f"{name} is too large to be decoded safely: it has more than {MAX_PIXELS:,} pixels."
        ) from error
    except PermissionError as error:
        raise ImageError(f"{name} cannot be read: permission denied.") from error
    except Exception as error:  # Pillow raises many types for broken files
        raise ImageFormatError(
            f"{name} is not an image that can be read (PNG, JPEG, WebP, HEIC, TIFF, GIF, BMP, ...)."
        ) from error


def image_suffixes() -> tuple[str, ...]:
    """Return the suffixes of all supported formats, such as ".png", in lower case and sorted.

    HEIF suffixes are always included: without the extra, the error for such a file names the package to install.
    """
    Image.init()
    kinds = {*FORMATS, _READ_AS_JPEG} & {*Image.OPEN, _READ_AS_JPEG}
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in kinds}
    return tuple(sorted({*known, *heif.SUFFIXES}))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        # 16-bit grey, in any mode of Pillow. 32-bit files usually have 16-bit values; larger values are scaled down.
        # Floating point (TIFF) is in [0, 1] or [0, 255] if all values are in this range.
        tops = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
        top = next((top for top in tops if values.max(initial=0) <= top), float(values.max()))
        return Image.fromarray(np.clip(values / top * 255, 0, 255).round().astype(np.uint8)).convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _from_array(array: np.ndarray, max_pixels: int) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(f"An array must be (H, W), (H, W, 3) RGB or (H, W, 4) RGBA, but has the shape {array.shape}.")
    if array.shape[0] * array.shape[1] > max_pixels:
        raise ImageSizeError(f"The array has {array.shape[1]} x {array.shape[0]} pixels, more than {max_pixels:,}.")
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            low, high = array.min(), array.max()
            raise ImageError(
                f"An array of floats must hold finite values in [0, 1], but holds {low:g} to {high:g}: scale them."
            )
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise ImageError(f"An array must be uint8, or float in [0, 1], but is {array.dtype}.")
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)))


def resize_to_array(image: Image.Image | np.ndarray, height: int, width: int) -> Any:
    """Resize an RGB or grey image with Pillow, bilinear with antialiasing; results are identical on all machines.

    Returns:
        (height, width, 3) uint8, or (height, width) for grey.
    """
    pil = image if isinstance(image, Image.Image) else Image.fromarray(image)
    if pil.size != (width, height):
        pil = pil.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(pil)
