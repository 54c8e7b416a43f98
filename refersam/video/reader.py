"""Reading of untrusted video files, one frame at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from refersam.errors import VideoError
from refersam.optional import require

MAX_PIXELS = 36_000_000
"""Default maximum width times height of a frame; 8K has 33 million pixels."""

FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif,ivf"
"""Container formats that are read. ffmpeg supports more, but playlists and file lists would open other files."""

_USUAL_RATE = 25.0


@dataclass(frozen=True, eq=False)
class Frame:
    """An upright RGB frame with its 0-based number and its time in seconds from the start of the video."""

    number: int
    time: float
    image: Image.Image


@dataclass(frozen=True)
class BrokenFrame:
    """A frame that cannot be decoded: its number (approximate after lost frames) and the reason as a sentence."""

    number: int
    reason: str


class VideoReader:
    """Iterator over the frames of a local file, one at a time. Use it as a context manager, and iterate once.

    Only the regular file `path` is opened; references to other files are ignored.

    Args:
        path: path of the video file.
        max_pixels: maximum width times height of a frame.
        max_frames: maximum number of frames.

    Attributes:
        rate: frames per second.
        expected_frames: number of frames from the file's header or duration; None if unknown.

    Raises:
        VideoError: the file does not exist, has no readable video, or exceeds a limit.
        MissingExtraError: PyAV is not installed.
    """

    def __init__(self, path: Path, max_pixels: int = MAX_PIXELS, max_frames: int = 100_000) -> None:
        self.path, self.max_pixels, self.max_frames = path, max_pixels, max_frames
        self._av: Any = require("av", "video", "Reading a video")
        if not path.is_file():
            raise VideoError(f"{path} is not a file." if path.exists() else f"No such file: {path}.")
        options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
        try:
            self._container = self._av.open(f"file:{path.absolute()}", options=options, metadata_errors="replace")
        except self._av.error.FFmpegError as error:
            kinds = "MP4, MKV, WebM, AVI, ...; no playlists or lists of files"
            raise VideoError(f"{path} is not a video that can be read ({kinds}), or is broken.") from error
        try:
            self._stream = self._first_stream()
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[Frame | BrokenFrame]:
        """Yield all frames in display order, including broken ones; raise VideoError beyond `max_frames`."""
        number = -1
        for number, found in enumerate(self._decoded()):
            if number >= self.max_frames:
                raise VideoError(_too_many(self.path, self.max_frames))
            yield BrokenFrame(number, found) if isinstance(found, str) else self._frame(number, found)
        if number + 1 < self._stored_frames:
            yield BrokenFrame(number + 1, f"the file ends here, but says that it has {self._stored_frames} frames")

    def _decoded(self) -> Iterator[Any]:
        """Yield frames of PyAV, and the reason as a string for each broken frame."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except self._av.error.FFmpegError as error:  # the following packets cannot be located
                yield f"the file is broken or cut off: {_reason(error)}"
                return
            try:
                yield from packet.decode()
            except self._av.error.EOFError:
                return
            except self._av.error.FFmpegError as error:
                yield f"it cannot be decoded: {_reason(error)}"

    def _frame(self, number: int, frame: Any) -> Frame | BrokenFrame:
        if frame.width * frame.height > self.max_pixels:
            return BrokenFrame(number, f"it has {frame.width} x {frame.height} pixels, more than {self.max_pixels:,}")
        if frame.is_corrupt:
            return BrokenFrame(number, "it was decoded with errors")
        time = number / self.rate if frame.time is None else frame.time - self._start
        try:
            image = frame.to_image()
        except (self._av.error.FFmpegError, ValueError) as error:
            return BrokenFrame(number, f"it cannot be converted to RGB: {_reason(error)}")
        # `rotation` is in degrees, counterclockwise
        return Frame(number, max(0.0, float(time)), image.rotate(frame.rotation, expand=True))

    def _first_stream(self) -> Any:
        streams = self._container.streams.video
        if not streams or streams[0].codec_context is None:
            raise VideoError(f"{self.path} has no video that can be decoded.")
        stream = streams[0]
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > self.max_pixels:
            raise VideoError(
                f"{self.path} has frames of {width} x {height} pixels, more than {self.max_pixels:,}: make it smaller."
            )
        stream.codec_context.options = {"max_pixels": str(self.max_pixels)}  # the size may change within the stream
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        self.rate = rate if 0 < rate <= 1000 else _USUAL_RATE
        seconds = float(stream.duration * stream.time_base) if stream.duration else None
        if seconds is None and self._container.duration:
            seconds = self._container.duration / self._av.time_base
        self._stored_frames = stream.frames
        if stream.frames > 10 * self.max_frames:
            raise VideoError(_too_many(self.path, self.max_frames))
        if stream.frames and "mp4" in self._container.format.name.split(","):
            # A file that was cut without re-encoding has hidden frames; its index marks them as discarded.
            shown = sum(not entry.is_discard for entry in stream.index_entries)
            self._stored_frames = min(stream.frames, shown or stream.frames)
        self.expected_frames = self._stored_frames or (None if seconds is None else round(seconds * self.rate))
        if self.expected_frames is not None and self.expected_frames > self.max_frames:
            raise VideoError(_too_many(self.path, self.max_frames))
        self._start = float(stream.start_time * stream.time_base) if stream.start_time else 0.0
        return stream


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).lower()


def _too_many(path: Path, most: int) -> str:
    return f"{path} has more than {most:,} frames: cut it, or allow more with --max-frames."
