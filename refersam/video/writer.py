"""Writing of videos, one image at a time."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from refersam.optional import require

ENCODERS = {"libx264": "H.264", "libopenh264": "H.264", "mpeg4": "MPEG-4"}
"""PyAV's encoder names with their common names; the first available one is used."""

_TICKS = 60_000  # per second; MPEG-4 allows at most 65,535
_OPTIONS = {"libx264": {"crf": "20", "preset": "veryfast"}}


class VideoWriter:
    """Writer of an MP4 file, one image at a time. Use it as a context manager; its exit completes the file.

    Args:
        path: path of the MP4 file.
        rate: approximate images per second; each image has a timestamp of its own.
        size: (width, height) of all images in pixels; odd sides are padded by one black line.

    Attributes:
        encoder: encoder in use, a key of `ENCODERS`.

    Raises:
        MissingExtraError: PyAV is not installed.
    """

    def __init__(self, path: Path, rate: float, size: tuple[int, int]) -> None:
        self._av: Any = require("av", "video", "Writing a video")
        self.encoder = next(name for name in ENCODERS if self._is_there(name))
        self._size = size[0] + size[0] % 2, size[1] + size[1] % 2
        self._container = self._av.open(f"file:{path.absolute()}", "w", format="mp4")
        self._stream = self._container.add_stream(
            self.encoder, rate=Fraction(rate).limit_denominator(1001), options=_OPTIONS.get(self.encoder, {})
        )
        self._stream.width, self._stream.height = self._size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, _TICKS)
        self._last = -1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()

    def add(self, image: Image.Image, time: float) -> None:
        """Append an RGB image; `time` is its start in seconds from the start of the video, in ascending order."""
        canvas = image
        if image.size != self._size:
            canvas = Image.new("RGB", self._size)
            canvas.paste(image)
        frame = self._av.VideoFrame.from_image(canvas)
        self._last = max(self._last + 1, round(time * _TICKS))
        frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
        self._container.mux(self._stream.encode(frame))

    def _is_there(self, name: str) -> bool:
        try:
            self._av.Codec(name, "w")
        except ValueError:
            return False
        return True
