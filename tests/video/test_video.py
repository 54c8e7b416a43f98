"""Videos: reading, segmenting, writing, and errors."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

pytest.importorskip("av", reason="PyAV is not installed: pip install '.[video]'")

import av

from refersam import ReferSamPredictor
from refersam.errors import VideoError
from refersam.names import answer_name
from refersam.video.reader import BrokenFrame, Frame, VideoReader
from refersam.video.run import FrameChoice, segment_video
from refersam.video.writer import VideoWriter

Run = Callable[..., SimpleNamespace]
PHRASES = ["the red circle", "star"]
FRAMES = 8


def draw_video(path: Path, sizes: tuple[tuple[int, int], ...] = ((64, 48),) * FRAMES) -> Path:
    """Write ten frames per second of gray noise whose brightness increases with the frame index; all are key frames."""
    container = av.open(str(path), "w")
    stream = container.add_stream("mpeg4", rate=10)
    stream.width, stream.height = sizes[0]
    stream.pix_fmt, stream.gop_size = "yuv420p", 1
    for number, (width, height) in enumerate(sizes):
        noise = np.random.default_rng(number).integers(0, 30, (height, width, 3), dtype=np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(noise + np.uint8(20 * number), format="rgb24")))
    container.mux(stream.encode(None))
    container.close()
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A clip of 64 x 48 pixels."""
    return draw_video(tmp_path / "clip.mp4")


@pytest.fixture
def broken_clip(clip: Path) -> Path:
    """The fourth frame is zeros."""
    with av.open(str(clip)) as container:
        position, size = [(packet.pos, packet.size) for packet in container.demux(video=0)][3]
    data = bytearray(clip.read_bytes())
    data[position : position + size] = bytes(size)
    clip.write_bytes(data)
    return clip


@pytest.fixture(scope="module")
def predictor(tiny_model_folder: Path) -> ReferSamPredictor:
    """The random tiny model."""
    return ReferSamPredictor.from_pretrained(tiny_model_folder, device="cpu")


# -------------------------------------------------------------------------------------------------------------- reading


def test_frames_in_order(clip: Path) -> None:
    """Indices, times, size, brightness, and number of frames."""
    with VideoReader(clip) as reader:
        assert (reader.rate, reader.expected_frames) == (10, FRAMES)
        frames = list(reader)
    assert [frame.number for frame in frames] == list(range(FRAMES))
    assert [frame.time for frame in frames] == pytest.approx([n / 10 for n in range(FRAMES)])
    means = [np.asarray(frame.image).mean() for frame in frames]
    assert {frame.image.size for frame in frames} == {(64, 48)}
    assert np.allclose(np.diff(means), 20, atol=4)


@pytest.mark.parametrize(("codec", "gop"), [("mpeg4", 1), ("mpeg4", 4), ("libx264", 8)])
def test_a_trimmed_video_is_not_broken(codec: str, gop: int, tmp_path: Path) -> None:
    """Cut without re-encoding: frames before the cut are in the file, but not shown."""
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV was built without {codec}")
    path = tmp_path / "trimmed.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", gop
        images = [np.full((48, 64, 3), 20 * number, dtype=np.uint8) for number in range(FRAMES)]
        packets = [stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")) for image in images]
        for packet in itertools.chain(*packets, stream.encode(None)):
            shift = int(Fraction(3, 10) / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            container.mux(packet)
    with VideoReader(path) as reader:
        frames = list(reader)
        assert reader._stream.frames == FRAMES
        assert reader.expected_frames == len(frames) == FRAMES - 3
    assert not any(isinstance(frame, BrokenFrame) for frame in frames)


def test_one_frame_at_a_time(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a frame does not decode the others."""
    with VideoReader(clip) as reader:
        decoded = []
        take = reader._decoded

        def counted() -> Iterator[Any]:
            for frame in take():
                decoded.append(frame)
                yield frame

        monkeypatch.setattr(reader, "_decoded", counted)
        next(iter(reader))
        assert len(decoded) == 1


def test_turned_upright(clip: Path) -> None:
    """The file contains a rotation for display."""
    with VideoReader(clip) as reader:
        plain = next(iter(reader)).image
    data = bytearray(clip.read_bytes())
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    clip.write_bytes(data)
    with VideoReader(clip) as reader:
        turned = next(iter(reader)).image
    assert turned.size == (48, 64)
    np.testing.assert_array_equal(np.asarray(turned), np.rot90(np.asarray(plain), -1))


def test_a_broken_frame_does_not_stop_the_others(broken_clip: Path) -> None:
    """The broken frame is reported."""
    with VideoReader(broken_clip) as reader:
        frames = list(reader)
    assert [frame.number for frame in frames if isinstance(frame, BrokenFrame)] == [3]
    assert len([frame for frame in frames if isinstance(frame, Frame)]) == FRAMES - 1
    assert "cannot be decoded" in frames[3].reason


def test_limits(clip: Path) -> None:
    """Limits of pixels and frames apply before decoding."""
    with pytest.raises(VideoError, match="frames of 64 x 48 pixels, more than 1,000"):
        VideoReader(clip, max_pixels=1000)
    with pytest.raises(VideoError, match="more than 5 frames: cut it, or allow more with --max-frames"):
        VideoReader(clip, max_frames=5)


def test_a_file_that_hides_its_frames_is_stopped(tmp_path: Path) -> None:
    """A file that declares too few frames."""
    path = draw_video(tmp_path / "clip.mp4")
    with VideoReader(path, max_frames=FRAMES) as reader:
        reader.max_frames = 5
        with pytest.raises(VideoError, match="more than 5 frames"):
            list(reader)
    with VideoReader(path) as reader:
        reader.max_pixels = 100
        assert all(isinstance(frame, BrokenFrame) for frame in reader)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nclip.mp4\n#EXT-X-ENDLIST\n"),
        ("list.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"),
        ("list.ffconcat", "ffconcat version 1.0\nfile clip.mp4\n"),
        ("text.mp4", "no video"),
        ("empty.mp4", ""),
    ],
)
def test_what_is_no_video_is_refused(clip: Path, name: str, content: str) -> None:
    """Also playlists, since ffmpeg would open the files that they name."""
    path = clip.with_name(name)
    path.write_text(content)
    with pytest.raises(VideoError, match="is not a video that can be read"):
        VideoReader(path)


def test_only_regular_files(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No URL, no folder, no pipe."""
    monkeypatch.chdir(clip.parent)
    os.mkfifo("pipe.mp4")
    for name in ("http://127.0.0.1:9/x.mp4", "concat:clip.mp4|clip.mp4", "file:clip.mp4", "nowhere.mp4"):
        with pytest.raises(VideoError, match="No such file"):
            VideoReader(Path(name))
    for name in ("pipe.mp4", "."):
        with pytest.raises(VideoError, match="is not a file"):
            VideoReader(Path(name))


# ------------------------------------------------------------------------------------------------------------- writing


def test_written_and_read_again(tmp_path: Path) -> None:
    """Sizes become even; each frame keeps its time."""
    images = [Image.new("RGB", (33, 21), (20 * n, 90, 90)) for n in range(5)]
    times = [0, 0.1, 0.4, 0.5, 0.9]
    with VideoWriter(tmp_path / "x.mp4", 10, (33, 21)) as writer:
        for image, time in zip(images, times, strict=True):
            writer.add(image, time)
    with VideoReader(tmp_path / "x.mp4") as reader:
        frames = list(reader)
    assert [frame.time for frame in frames] == pytest.approx(times, abs=1e-3)
    for frame, image in zip(frames, images, strict=True):
        assert frame.image.size == (34, 22)
        assert np.abs(np.asarray(frame.image, int)[:18, :30] - np.asarray(image, int)[:18, :30]).mean() < 12


# ------------------------------------------------------------------------------------------------------------- choosing


@pytest.mark.parametrize(
    ("choice", "numbers"),
    [
        (FrameChoice(), [0, 1, 2, 3, 4, 5, 6, 7]),
        (FrameChoice(every=3), [0, 3, 6]),
        (FrameChoice(first=2, last=5, every=2), [2, 4]),
        (FrameChoice(first=7, last=100), [7]),
        (FrameChoice(first=9), []),
    ],
)
def test_choice(choice: FrameChoice, numbers: list[int]) -> None:
    """The count refers to the frames."""
    assert [number for number in range(FRAMES) if number in choice] == numbers
    assert choice.count(FRAMES) == len(numbers)


# ---------------------------------------------------------------------------------------------------------- the command


def test_video(run: Run, clip: Path, tiny_model_folder: Path, predictor: ReferSamPredictor) -> None:
    """Results equal the predictor's for each frame; the overlay has the same frames and times."""
    options = ["--every", "3", "--threshold", "0.4", "--no-target-threshold", "0", "--model", tiny_model_folder]
    done = run("video", clip, *PHRASES, "--out", "a/b", "--device", "cpu", *options)
    assert done.code == 0, done.err
    assert re.search(r"the red circle\W+3\W+3", done.out)
    name = answer_name(clip, PHRASES)
    assert sorted(path.name for path in Path("a/b").iterdir()) == [f"{name}.jsonl", f"{name}_overlay.mp4"]
    lines = [json.loads(line) for line in Path(f"a/b/{name}.jsonl").read_text().splitlines()]
    assert [(line["frame"], line["time"]) for line in lines] == [(0, 0), (3, 0.3), (6, 0.6)]
    with VideoReader(clip) as reader:
        images = {frame.number: frame.image for frame in reader}
    for line in lines:
        expected = predictor.predict(images[line["frame"]], PHRASES, 0.4, 0)
        assert [result["phrase"] for result in line["results"]] == PHRASES
        for result, answer in zip(line["results"], expected, strict=True):
            np.testing.assert_array_equal(coco_mask.decode(result["rle"]).astype(bool), answer.mask)
            assert result["box"] == (list(answer.box) if answer.box else None)
            assert result["score"] == pytest.approx(answer.score, abs=1e-3)
    with VideoReader(Path(f"a/b/{name}_overlay.mp4")) as reader:
        overlays = list(reader)
    assert [frame.time for frame in overlays] == pytest.approx([0, 0.3, 0.6], abs=1e-3)
    assert overlays[0].image.size == (64, 48)
    assert "H.264" in done.out or "MPEG-4" in done.out


def test_broken_frames_are_reported_at_the_end(run: Run, broken_clip: Path, tiny_model_folder: Path) -> None:
    """Exit code 1; the rest is written."""
    done = run("video", broken_clip, "star", "--device", "cpu", "--model", tiny_model_folder, "--first", "2")
    assert (done.code, "Traceback" in done.err) == (1, False)
    assert re.search("Frame 3: it cannot be decoded: .*", done.err)
    (lines,) = Path("out").glob("clip_star_*.jsonl")
    assert [json.loads(line)["frame"] for line in lines.read_text().splitlines()] == [2, 4, 5, 6, 7]


def test_answers_never_replace_others(clip: Path, predictor: ReferSamPredictor) -> None:
    """Other phrases about a video, or another video of the same name; equal queries replace their own files."""
    other = clip.parent / "other" / clip.name
    other.parent.mkdir()
    shutil.copy(clip, other)
    out = clip.parent / "out"
    for path, phrases in ((clip, ["star"]), (clip, ["circle"]), (clip, ["circle", "star"]), (other, ["star"])) * 2:
        with VideoReader(path) as reader:
            segment_video(predictor, reader, phrases, out, FrameChoice(last=0))
    assert len(list(out.iterdir())) == 8


def test_nothing_half_written(clip: Path, predictor: ReferSamPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error, existing files are unchanged."""
    out = clip.parent / "out"
    out.mkdir()
    before = out / f"{answer_name(clip, PHRASES)}.jsonl"
    before.write_text("before")
    add, calls = VideoWriter.add, []

    def full(self: VideoWriter, *arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        add(self, *arguments)

    monkeypatch.setattr(VideoWriter, "add", full)
    with VideoReader(clip) as reader, pytest.raises(OSError, match="No space left"):
        segment_video(predictor, reader, PHRASES, out)
    assert list(out.iterdir()) == [before]
    assert before.read_text() == "before"


def test_frames_of_another_size_are_left_out(
    clip: Path, predictor: ReferSamPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are reported."""
    frames = [Frame(n, n / 10, Image.new("RGB", (64, 48) if n != 1 else (32, 32))) for n in range(3)]
    monkeypatch.setattr(VideoReader, "__iter__", lambda _self: iter(frames))
    with VideoReader(clip) as reader:
        result = segment_video(predictor, reader, ["star"], clip.parent / "out")
    assert (result.frames, [frame.number for frame in result.broken]) == (2, [1])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere.mp4", "star"], 1, r"No such file: nowhere\.mp4"),
        (["clip.mp4", "star", "--first", "100"], 1, "has no frame to segment among those asked for"),
        (["clip.mp4", " "], 2, "at least one word"),
        (["clip.mp4", "star", "--max-frames", "3"], 1, "more than 3 frames"),
    ],
)
def test_refused(run: Run, clip: Path, tiny_model_folder: Path, arguments: list[str], code: int, message: str) -> None:
    """One sentence, and no files."""
    done = run("video", *arguments, "--model", tiny_model_folder, "--device", "cpu")
    assert (done.code, "Traceback" in done.err) == (code, False)
    assert re.search(message, done.err), done.err
    assert not Path("out").exists() or not list(Path("out").iterdir())


def test_used_wrongly(run: Run, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2; without PyAV, the extra is named."""
    assert run("video", clip, "star", "--first", "5", "--last", "4").code == 2
    assert run("video", clip).code == 2
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    done = run("video", clip, "star")
    assert (done.code, "pip install '.[video]'" in done.err) == (1, True)


def test_a_rate_is_a_fraction(tmp_path: Path) -> None:
    """Such as 30000/1001."""
    with VideoWriter(tmp_path / "x.mp4", 30000 / 1001, (16, 16)) as writer:
        assert writer._stream.codec_context.framerate == Fraction(30000, 1001)
        writer.add(Image.new("RGB", (16, 16)), 0)


def test_lines_carry_the_domain(clip: Path, predictor: ReferSamPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The domain of the model, if it has one."""
    for domain in (None, "chest X-rays"):
        monkeypatch.setattr(predictor.model.config, "domain", domain)
        with VideoReader(clip) as reader:
            result = segment_video(predictor, reader, ["star"], clip.parent / "out", FrameChoice(last=1))
        rows = [json.loads(line) for line in result.lines.read_text().splitlines()]
        assert [row.get("domain") for row in rows] == [domain] * 2
