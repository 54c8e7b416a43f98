"""What the commands share: how they speak, check and wait."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from refersam.errors import DataError

if TYPE_CHECKING:
    from refersam.predictor import ReferSamPredictor

NOT_FOR_PHOTOGRAPHS = (
    "The model in the box knows drawn scenes, not photographs: for photographs, train or convert a larger model "
    "(README, 'Photographs') and name it with --model."
)

out_console = Console()
err_console = Console(stderr=True)


class Dtype(StrEnum):
    """Number formats."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def say(text: str, style: str | None = None) -> None:
    """Print as it is: a path may hold what rich would read as markup, and is copied whole."""
    out_console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def check_probability(value: float) -> float:
    if not 0 <= value <= 1:  # not a number, too, which compares with nothing
        raise typer.BadParameter(f"{value} is not a number from 0 to 1.")
    return value


def _probability(text: str) -> Any:
    return typer.Option(min=0, max=1, callback=check_probability, help=text)


def _check_pixels(value: int) -> int:
    from refersam.image import MAX_PIXELS

    if value > MAX_PIXELS:
        raise typer.BadParameter(f"{value:,} pixels are more than the {MAX_PIXELS:,} that are ever read.")
    return value


# What several commands ask alike, declared once.
ModelOption = Annotated[
    str | None, typer.Option(help="Folder, Hub id or exported .onnx file. Without it: the model in the box.")
]
PixelsOption = Annotated[int, typer.Option(min=1, help="Of a picture.", callback=_check_pixels)]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps. Without it: the best there is.")]
DtypeOption = Annotated[Dtype, typer.Option(help="Number format of the weights.")]
ThresholdOption = Annotated[float, _probability("A pixel belongs to the mask from this probability on.")]
NoTargetOption = Annotated[float, _probability("Nothing matches below this probability of a target.")]


def check_folder(out: Path, option: str = "--out") -> None:
    """Before long work, not after it."""
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists() or path.is_symlink())
    if not nearest.is_dir():
        raise DataError(f"{nearest} is a {'file' if nearest.exists() else 'broken link'}: {option} names a folder.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise DataError(f"{nearest} may not be written to: name another folder with {option}.")


def check_file(out: Path, inputs: Iterable[Path] = (), option: str = "--out") -> None:
    """As `check_folder`, for a file; it may be none of those that are read."""
    check_folder(out.parent, option)
    if out.is_dir():
        raise DataError(f"{out} is a folder, where a file is needed: name another one with {option}.")
    if out.exists() and any(path.exists() and out.samefile(path) for path in inputs):
        raise DataError(f"{out} is what is read, and would be lost: name another file with {option}.")


def quiet_transformers() -> None:
    """Its reports of loading and its progress bars: what they say, this package says in its own errors."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """A spinner on a terminal."""
    with err_console.status(f"{what} ..."):
        yield


def progress_bar(transient: bool = False, speed_seconds: float = 30.0) -> Progress:
    """Build a bar with numbers and times.

    Args:
        transient: leave nothing behind at the end.
        speed_seconds: length of the last stretch that the remaining time is estimated from; it must hold two updates.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=err_console, transient=transient, speed_estimate_period=speed_seconds)


def shorten(text: str, most: int = 80) -> str:
    """Its beginning, if it is long."""
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def warn_of_cut_phrases(left_out: Iterable[str], most: int) -> None:
    """Say what was left out of phrases that have more than `most` tokens."""
    for end in left_out:
        if end:
            err_console.print(
                f"Warning: the phrase is longer than {most} tokens; left out: {shorten(end)!r}",
                style="yellow",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def load_predictor(model: str | None, device: str | None, dtype: str) -> ReferSamPredictor:
    with waiting("Loading the model"):
        from refersam.predictor import ReferSamPredictor

        quiet_transformers()
        return ReferSamPredictor.from_pretrained(model, device=device, dtype=dtype)
