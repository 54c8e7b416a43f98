"""HEIF files, such as HEIC from iPhones: detection, and protection against excessive decoding cost."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import Image

from refersam.errors import ImageError, ImageFormatError, ImageSizeError, MissingExtraError
from refersam.optional import require

FORMAT = "HEIF"
"""Format name in Pillow after registration of pillow-heif."""
SUFFIXES = (".heic", ".heics", ".heif", ".heifs", ".hif")
HEAD_BYTES = 512
"""Number of leading bytes that suffice to detect HEIF."""

_HEVC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_ANY_CODEC = {b"mif1", b"msf1"}
_TILED = {b"grid", b"iovl"}
_DERIVED = {*_TILED, b"iden", b"tmap"}
_WORK = 4
"""Limit for the pixels of all tiles, as a multiple of the image limit. A grid exceeds its image by less than a tile."""
_USUAL_TILE = 1024 * 1024


def is_heif(head: bytes) -> bool:
    """Return whether the first `HEAD_BYTES` of a file are HEIF, but not AVIF, which Pillow supports itself."""
    if head[4:8] != b"ftyp":
        return False
    length = min(int.from_bytes(head[:4], "big"), len(head))
    major, others = head[8:12], {head[place : place + 4] for place in range(16, length - 3, 4)}
    return major in _HEVC or (major in _ANY_CODEC and not others & {b"avif", b"avis"})


def register(name: str) -> None:
    """Register pillow-heif with Pillow; raise ImageFormatError, beginning with `name`, if it is not installed."""
    try:
        plugin = require("pillow_heif", "heif", f"{name} is a HEIC image: reading it")
    except MissingExtraError as error:
        raise ImageFormatError(f"{error} Or save it as JPEG.") from error
    if FORMAT not in Image.OPEN:
        plugin.register_heif_opener()


def check_heif(content: bytes, name: str, max_pixels: int) -> None:
    """Validate that decoding a file needs no more pixels than its image size suggests.

    A crop (`clap`) hides decoded pixels, and a grid may have tiles outside the image. libheif itself rejects more
    pixels than declared.

    Raises ImageSizeError for an image of more than `max_pixels`, or tiles of more than four such images, and ImageError
    for an unknown structure. `name` begins the message.
    """
    limit = max(max_pixels, _USUAL_TILE)
    try:
        items = _read_items(content)
        if max((area for item in items.values() for area in item.areas), default=0) > limit:
            raise ImageSizeError(
                f"{name} holds an image of more than the limit of {max_pixels:,} pixels: save it anew."
            )
        for item in items.values():
            tiles = [items[number] for number in item.parts]
            if item.kind in _TILED and any(tile.kind in _DERIVED for tile in tiles):
                raise ImageError(f"{name} has tiles that are made of tiles, which no camera writes: save it anew.")
            if sum(max(tile.areas, default=limit) for tile in tiles) > _WORK * limit:
                raise ImageSizeError(
                    f"{name} is stored in tiles of together more than {_WORK} times the limit of {max_pixels:,} "
                    "pixels: save it anew."
                )
    except (struct.error, IndexError, KeyError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(
            f"{name} is cut off, or describes its images in a way that no program writes: save it anew."
        ) from error


@dataclass(slots=True)
class _Item:
    """Item of a file, such as an image: its type, declared pixel counts, and the ids of its parts."""

    kind: bytes
    areas: list[int] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)


def _boxes(content: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, content start, content end) of each box."""
    while start + 8 <= end:
        length, kind = struct.unpack_from(">I4s", content, start)
        inside = start + 8
        if length == 1:
            length = struct.unpack_from(">Q", content, inside)[0]
            inside += 8
        stop = end if length == 0 else start + length
        if not inside <= stop <= end:
            raise ValueError("a box ends outside of its parent")
        yield kind, inside, stop
        start = stop


def _only(content: bytes, start: int, end: int) -> dict[bytes, tuple[int, int]]:
    """Return (start, end) of boxes by type; reject duplicates, which readers resolve differently."""
    found: dict[bytes, tuple[int, int]] = {}
    for kind, inside, stop in _boxes(content, start, end):
        if kind in found and kind in (b"meta", b"iinf", b"iref", b"iprp", b"ipco", b"ipma"):
            raise ValueError("a box comes twice")
        found[kind] = (inside, stop)
    return found


def _read_items(content: bytes) -> dict[int, _Item]:
    top = _only(content, 0, len(content))
    meta, end = top[b"meta"]
    boxes = _only(content, meta + 4, end)
    start, end = boxes[b"iinf"]
    items: dict[int, _Item] = {}
    for _, at, _ in _boxes(content, start + (6 if content[start] == 0 else 8), end):
        number, at = _number(content, at + 4, wide=content[at] >= 3)
        items[number] = _Item(content[at + 2 : at + 6])
    _read_sizes(content, *boxes[b"iprp"], items)
    if b"iref" in boxes:
        start, end = boxes[b"iref"]
        wide = content[start] > 0
        for kind, at, _ in _boxes(content, start + 4, end):
            number, at = _number(content, at, wide)
            count, at = _number(content, at, wide=False)
            for _ in range(count):
                part, at = _number(content, at, wide)
                if kind == b"dimg":
                    items[number].parts.append(part)
    return items


def _read_sizes(content: bytes, start: int, end: int, items: dict[int, _Item]) -> None:
    properties = _only(content, start, end)
    areas: list[int | None] = []
    for kind, at, _ in _boxes(content, *properties[b"ipco"]):
        width, height = struct.unpack_from(">II", content, at + 4) if kind == b"ispe" else (0, 0)
        areas.append(width * height if kind == b"ispe" else None)
    at, end = properties[b"ipma"]
    wide, long = content[at] > 0, content[at + 3] & 1
    count = struct.unpack_from(">I", content, at + 4)[0]
    at += 8
    for _ in range(count):
        number, at = _number(content, at, wide)
        for place in range(content[at]):
            one = at + 1 + place * (2 if long else 1)
            index = (struct.unpack_from(">H", content, one)[0] & 0x7FFF) if long else content[one] & 0x7F
            area = areas[index - 1] if index else None
            if area is not None:
                items[number].areas.append(area)
        at += 1 + content[at] * (2 if long else 1)


def _number(content: bytes, at: int, wide: bool) -> tuple[int, int]:
    """Read a number of four bytes (`wide`) or two; return it and the next offset."""
    if wide:
        return struct.unpack_from(">I", content, at)[0], at + 4
    return struct.unpack_from(">H", content, at)[0], at + 2
