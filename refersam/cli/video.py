"""`refersam video`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from refersam.cli.app import app
from refersam.cli.console import (
    NOT_FOR_PHOTOGRAPHS,
    DeviceOption,
    Dtype,
    DtypeOption,
    MinComponentOption,
    ModelOption,
    NoTargetOption,
    ThresholdOption,
    check_folder,
    err_console,
    load_predictor,
    out_console,
    progress_bar,
    say,
    shorten,
    warn_of_cut_phrases,
    warn_of_unknown_parts,
)
from refersam.phrases import check_phrases

if TYPE_CHECKING:
    from refersam.video.run import VideoResult

_MOST_SHOWN = 10


@app.command(
    epilog="Example: refersam video clip.mp4 'the dog' 'the red car' --out out --every 5. "
    "Exit code 1 where a frame was broken."
)
def video(
    file: Annotated[Path, typer.Argument(help="The video.", metavar="FILE", show_default=False)],
    phrases: Annotated[
        list[str], typer.Argument(help="What to find in each frame.", metavar="PHRASE", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for the answers and the overlay.")] = Path("out"),
    every: Annotated[int, typer.Option(min=1, help="Segment one frame of so many.")] = 1,
    first: Annotated[int, typer.Option(min=0, help="Number of the first frame, from 0.")] = 0,
    last: Annotated[int | None, typer.Option(min=0, help="Number of the last. Without it: the video's.")] = None,
    model: ModelOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.float32,
    threshold: ThresholdOption = 0.5,
    no_target_threshold: NoTargetOption = 0.5,
    min_component_fraction: MinComponentOption = 0.01,
    max_frames: Annotated[int, typer.Option(min=1, help="Refuse a video with more.")] = 100_000,
) -> None:
    """Segment what each PHRASE means in the frames of a video; writes NAME.jsonl and NAME_overlay.mp4.

    NAME is the name of the video, the phrases, and eight digits of a hash of the video's path and the phrases.
    The same video and phrases replace their own files; others never share a name.
    """
    from refersam.video.reader import VideoReader

    if last is not None and last < first:
        raise typer.BadParameter(f"--last is {last}, before --first, {first}.")
    check_phrases(phrases)
    check_folder(out)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that nothing half done stays
    with VideoReader(file, max_frames=max_frames) as reader:
        predictor = load_predictor(model, device, dtype.value)
        from refersam.video.run import FrameChoice, segment_video

        choice = FrameChoice(first, last, every)
        total = None if reader.expected_frames is None else choice.count(reader.expected_frames)
        with progress_bar(transient=True) as progress:
            bar = progress.add_task("segmenting", total=total)
            try:
                result = segment_video(
                    predictor,
                    reader,
                    phrases,
                    out,
                    choice,
                    threshold,
                    no_target_threshold,
                    lambda: progress.advance(bar),
                    min_component_fraction,
                )
            except KeyboardInterrupt:
                progress.stop()
                say("Stopped: nothing was written.")
                raise typer.Exit(1) from None
    warn_of_cut_phrases(result.left_out, predictor.processor.max_text_tokens)
    warn_of_unknown_parts(phrases, result.unknown)
    _report(phrases, result)
    if model is None:
        say(NOT_FOR_PHOTOGRAPHS, style="dim")
    if result.broken:
        raise typer.Exit(1)


def _report(phrases: list[str], result: VideoResult) -> None:
    from refersam.video.writer import ENCODERS

    table = Table("phrase", "frames", "found in")
    for phrase, found in zip(phrases, result.found, strict=True):
        table.add_row(Text(shorten(phrase)), str(result.frames), str(found))
    out_console.print(table)
    say(f"Answers: {result.lines}; overlay: {result.overlay} ({ENCODERS[result.encoder]})")
    for frame in result.broken[:_MOST_SHOWN]:
        err_console.print(
            f"Frame {frame.number}: {frame.reason}.", style="yellow", markup=False, highlight=False, soft_wrap=True
        )
    if len(result.broken) > _MOST_SHOWN:
        err_console.print(f"... and {len(result.broken) - _MOST_SHOWN} more broken frames.", style="yellow")
