"""What the commands share: how they speak, check and wait."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from refersam.domain import domain_warning
from refersam.errors import DataError, first_of

if TYPE_CHECKING:
    from refersam.inference.predictor import ReferSamPredictor

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

out_console = Console()
err_console = Console(stderr=True)


class Dtype(StrEnum):
    """Precisions."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def say(text: str, style: str | None = None) -> None:
    """Print as it is: a path may hold what rich would read as markup, and is copied whole."""
    out_console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def say_domain(domain: str | None, on_stderr: bool = False) -> None:
    """Print the warning of a model that was trained on one kind of images only."""
    if domain is not None:
        console = err_console if on_stderr else out_console
        console.print(domain_warning(domain), style="dim", markup=False, highlight=False, soft_wrap=True)


def number_option(least: float, most: float, text: str) -> Any:
    """Declare an option that takes a number of a range, which neither nan nor inf is."""

    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not least <= number <= most:
            raise typer.BadParameter(f"{value} is not a number from {least:g} to {most:g}.")
        return number

    return typer.Option(parser=parse, metavar=f"{least:g}..{most:g}", help=text)


def _check_pixels(value: int) -> int:
    from refersam.image import MAX_PIXELS

    if value > MAX_PIXELS:
        raise typer.BadParameter(f"{value:,} pixels are more than the {MAX_PIXELS:,} that are ever read.")
    return value


OUT = Path("out")
"""Folder of results, unless another one is given."""
BATCH_SIZE = 8
"""Phrases in one forward pass, unless another number is given."""
MODEL_HELP = (
    "Model to use: a folder, a Hub id or an export (OpenVINO folder, .onnx); clipseg, grounded-sam or sam3 for a "
    "published model of photographs (docs/photographs.md). Without it: the bundled model."
)

# Options of several commands, declared once.
ModelOption = Annotated[str | None, typer.Option(help=MODEL_HELP)]
PixelsOption = Annotated[
    int, typer.Option(min=1, help="Largest image that is accepted, in pixels (width x height).", callback=_check_pixels)
]
DeviceOption = Annotated[
    str | None, typer.Option(help="Device to run on: cpu, cuda, cuda:1 or mps. Without it: the fastest available.")
]
DtypeOption = Annotated[Dtype, typer.Option(help="Precision of the weights.")]
ThresholdOption = Annotated[
    float, number_option(0, 1, "Mask threshold: a pixel belongs to the mask from this probability on.")
]
NoTargetOption = Annotated[
    float | None,
    number_option(
        0,
        1,
        "No-target threshold: nothing matches below this probability of a target. Without it: the model's own, 0.5 for "
        "ReferSAM.",
    ),
]
MinComponentOption = Annotated[
    float | None,
    number_option(
        0,
        1,
        "Drop parts of a mask with less than this fraction of its largest part's area; 0 keeps all. Without it: the "
        "model's own, 0.01 for ReferSAM.",
    ),
]
BatchSizeOption = Annotated[int, typer.Option(min=1, max=4096, help="Largest number of phrases in one forward pass.")]


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
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    hub_logging.disable_propagation()  # it prints its warnings itself
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
    """Its beginning on one line, if it is long or has several."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def warn_of_cut_phrases(left_out: Iterable[str], most: int) -> None:
    """Say what was left out of phrases that have more than `most` tokens."""
    for end in left_out:
        if end:
            _warn(f"the phrase is longer than {most} tokens; left out: {shorten(end)!r}")


def warn_of_unknown_parts(phrases: Iterable[str], unknown: Iterable[Sequence[str]]) -> None:
    """Say which parts of phrases the tokenizer does not know."""
    for phrase, parts in zip(phrases, unknown, strict=False):
        if parts:
            names = first_of([repr(shorten(part, 40)) for part in parts])
            _warn(f"the tokenizer does not know {names} in the phrase {shorten(phrase)!r}")


def _warn(text: str) -> None:
    err_console.print(f"Warning: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def _download(model: str) -> None:
    """Download a published model before a spinner hides the progress bar."""
    from refersam.checkpoints.published import find_published

    if (published := find_published(model)) is not None:
        published.fetch()


def load_predictor(model: str | None, device: str | None, dtype: str) -> ReferSamPredictor:
    """Load a model; the caller prints its domain by `say_domain`."""
    logging.getLogger("refersam.domain").setLevel(logging.ERROR)
    if model is not None:
        _download(model)
    with waiting("Loading the model"):
        from refersam.inference.predictor import ReferSamPredictor

        quiet_transformers()
        return ReferSamPredictor.from_pretrained(model, device=device, dtype=dtype)
