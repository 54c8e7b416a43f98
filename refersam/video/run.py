"""Video segmentation: answers per frame, and a video with overlaid masks."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from refersam.drawing import draw_overlays
from refersam.errors import VideoError
from refersam.inference.predictor import ReferSamPredictor
from refersam.names import answer_name
from refersam.video.reader import BrokenFrame, Frame, VideoReader
from refersam.video.writer import VideoWriter

COLOURS = ((255, 40, 120), (0, 170, 255), (255, 190, 0), (60, 200, 90), (160, 90, 255), (255, 110, 40))
"""Overlay colours of the phrases, in cyclic order."""


@dataclass(frozen=True)
class FrameChoice:
    """Frames to segment: each `every`-th from `first` (0-based) to `last` (inclusive; None for the last frame)."""

    first: int = 0
    last: int | None = None
    every: int = 1

    def __contains__(self, number: int) -> bool:
        return (
            number >= self.first
            and (self.last is None or number <= self.last)
            and (number - self.first) % self.every == 0
        )

    def count(self, frames: int) -> int:
        """Return the number of chosen frames in a video of `frames` frames."""
        last = frames - 1 if self.last is None else min(self.last, frames - 1)
        return max(0, (last - self.first) // self.every + 1)


@dataclass
class VideoResult:
    """Output files and statistics.

    Attributes:
        lines: path of the JSON Lines file, one line per segmented frame.
        overlay: path of the video of the segmented frames with their masks.
        encoder: encoder of `overlay`, a key of `ENCODERS`.
        frames: number of segmented frames.
        found: number of frames with a match, per phrase.
        broken: frames that could not be read, or whose size differs from the first frame.
        left_out: truncated end of each phrase; see `Answer`.
        unknown: parts of each phrase outside the tokenizer's vocabulary; see `Answer`.
    """

    lines: Path
    overlay: Path
    encoder: str = ""
    frames: int = 0
    found: list[int] = field(default_factory=list)
    broken: list[BrokenFrame] = field(default_factory=list)
    left_out: tuple[str, ...] = ()
    unknown: tuple[tuple[str, ...], ...] = ()


def segment_video(
    predictor: ReferSamPredictor,
    reader: VideoReader,
    phrases: Sequence[str],
    out: Path,
    choice: FrameChoice = FrameChoice(),
    threshold: float = 0.5,
    no_target_threshold: float | None = None,
    on_frame: Callable[[], object] = lambda: None,
    min_component_fraction: float | None = None,
) -> VideoResult:
    """Segment the frames of a video independently, one in memory at a time.

    NAME.jsonl and NAME_overlay.mp4 (see `answer_name`) are moved to `out` when both are complete.

    Args:
        predictor: predictor for the frames.
        reader: open reader of the video.
        phrases: one or more phrases.
        out: output directory, created if missing.
        choice: frames to segment.
        threshold: as in `ReferSamPredictor.predict`.
        no_target_threshold: as in `ReferSamPredictor.predict`.
        on_frame: callback after each segmented frame.
        min_component_fraction: as in `ReferSamPredictor.predict`.

    Raises:
        VideoError: no frame could be segmented, or the video exceeds the reader's frame limit.
        PhraseError: there is no phrase, or a phrase has no word.
        OSError: the disk is full or not writable.
    """
    settings = (threshold, no_target_threshold, min_component_fraction)
    name = answer_name(reader.path, phrases)
    result = VideoResult(out / f"{name}.jsonl", out / f"{name}_overlay.mp4", found=[0] * len(phrases))
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".video.", dir=out) as folder:
        lines, overlay = Path(folder) / "lines", Path(folder) / "overlay.mp4"
        with ExitStack() as stack:
            file = stack.enter_context(lines.open("w", encoding="utf-8"))
            writer: VideoWriter | None = None
            start = 0.0
            for frame in _chosen(reader, choice, result.broken):
                if writer is None:
                    start = frame.time
                    writer = stack.enter_context(VideoWriter(overlay, reader.rate / choice.every, frame.image.size))
                    result.encoder = writer.encoder
                answers = predictor.predict(frame.image, list(phrases), *settings)
                results = [answer.as_dict() for answer in answers]
                line = {"frame": frame.number, "time": round(frame.time, 4), "results": results}
                if predictor.domain is not None:
                    line["domain"] = predictor.domain
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                layers = zip((answer.mask for answer in answers), cycle(COLOURS), strict=False)
                writer.add(draw_overlays(frame.image, layers), frame.time - start)
                result.frames += 1
                result.left_out = tuple(answer.left_out for answer in answers)
                result.unknown = tuple(answer.unknown for answer in answers)
                result.found = [count + (not a.no_target) for count, a in zip(result.found, answers, strict=True)]
                on_frame()
        if not result.frames:
            reason = f" Frame {result.broken[0].number}: {result.broken[0].reason}." if result.broken else ""
            raise VideoError(f"{reader.path} has no frame to segment among those asked for.{reason}")
        lines.replace(result.lines)
        overlay.replace(result.overlay)
    return result


def _chosen(reader: VideoReader, choice: FrameChoice, broken: list[BrokenFrame]) -> Iterator[Frame]:
    """Yield the chosen frames, all of one size; append unusable frames to `broken`."""
    size: tuple[int, int] | None = None
    for frame in reader:
        if choice.last is not None and frame.number > choice.last:
            return
        if frame.number < choice.first:
            continue
        if isinstance(frame, BrokenFrame):
            broken.append(frame)
        elif frame.number in choice:
            size = size or frame.image.size
            if frame.image.size == size:
                yield frame
            else:
                broken.append(BrokenFrame(frame.number, "it has another size than the frames before it"))
