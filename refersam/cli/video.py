"""`refersam video`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from refersam.cli import console
from refersam.cli.app import ANSWER_PANEL, app
from refersam.phrases import check_phrases

if TYPE_CHECKING:
    from refersam.video.run import VideoResult

_MOST_SHOWN = 10


@app.command(
    rich_help_panel=ANSWER_PANEL,
    epilog="Example: refersam video clip.mp4 'the dog' 'the red car' --out out --every 5. "
    "Exit code 1 if a frame was broken.",
)
def video(
    file: Annotated[Path, typer.Argument(help="Video file.", metavar="FILE", show_default=False)],
    phrases: Annotated[
        list[str],
        typer.Argument(help="Phrase that names what to find in each frame.", metavar="PHRASE", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the answers and the overlay.")] = console.OUT,
    every: Annotated[int, typer.Option(min=1, help="Segment every N-th frame only.", metavar="N")] = 1,
    first: Annotated[int, typer.Option(min=0, help="Index of the first frame to segment, from 0.")] = 0,
    last: Annotated[
        int | None, typer.Option(min=0, help="Index of the last frame to segment. Without it: the last of the video.")
    ] = None,
    model: console.ModelOption = None,
    device: console.DeviceOption = None,
    dtype: console.DtypeOption = console.Dtype.float32,
    threshold: console.ThresholdOption = 0.5,
    no_target_threshold: console.NoTargetOption = None,
    max_frames: Annotated[
        int, typer.Option(min=1, help="Largest number of frames; a longer video is refused.")
    ] = 100_000,
    min_component_fraction: console.MinComponentOption = None,
) -> None:
    """Segment what each PHRASE means in the frames of a video; writes NAME.jsonl and NAME_overlay.mp4.

    NAME is the name of the video, the phrases, and eight digits of a hash of the video's path and the phrases.
    The same video and phrases replace their own files; others never share a name.
    """
    from refersam.video.reader import VideoReader

    if last is not None and last < first:
        raise typer.BadParameter(f"--last is {last}, before --first, {first}.")
    check_phrases(phrases)
    console.check_folder(out)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that nothing half done stays
    with VideoReader(file, max_frames=max_frames) as reader:
        predictor = console.load_predictor(model, device, dtype.value)
        from refersam.video.run import FrameChoice, segment_video

        choice = FrameChoice(first, last, every)
        total = None if reader.expected_frames is None else choice.count(reader.expected_frames)
        with console.progress_bar(transient=True) as progress:
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
                console.say("Stopped: nothing was written.")
                raise typer.Exit(console.INTERRUPTED) from None
    console.warn_of_cut_phrases(result.left_out, predictor.processor.max_text_tokens)
    console.warn_of_unknown_parts(phrases, result.unknown)
    _report(phrases, result)
    console.say_domain(predictor.domain)
    if result.broken:
        raise typer.Exit(1)


def _report(phrases: list[str], result: VideoResult) -> None:
    from refersam.video.writer import ENCODERS

    table = Table("phrase", "frames", "found in")
    for phrase, found in zip(phrases, result.found, strict=True):
        table.add_row(Text(console.shorten(phrase)), str(result.frames), str(found))
    console.out_console.print(table)
    console.say(f"Answers: {result.lines}; overlay: {result.overlay} ({ENCODERS[result.encoder]})")
    for frame in result.broken[:_MOST_SHOWN]:
        console.err_console.print(
            f"Frame {frame.number}: {frame.reason}.", style="yellow", markup=False, highlight=False, soft_wrap=True
        )
    if len(result.broken) > _MOST_SHOWN:
        console.err_console.print(f"... and {len(result.broken) - _MOST_SHOWN} more broken frames.", style="yellow")
