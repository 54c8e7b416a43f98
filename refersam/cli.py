"""The command line. The only part of the package that prints."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from refersam.errors import DataError, DeviceError, PhraseError, ReferSamError
from refersam.version import __version__

if TYPE_CHECKING:
    from refersam.predictor import ReferSamPredictor, Segmentation

NOT_FOR_PHOTOGRAPHS = (
    "The model in the box knows drawn scenes, not photographs: for photographs, train or convert a larger model "
    "(README, 'Photographs') and name it with --model."
)
EXIT_CODES = "Exit codes: 0 done; 1 something could not be read, written or computed; 2 the command was used wrongly."

app = typer.Typer(
    name="refersam",
    help="Referring image segmentation: a picture and a phrase in, the mask of exactly that out.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
data_app = typer.Typer(help="Data sets: draw the synthetic benchmark SceneRef.", no_args_is_help=True)
convert_app = typer.Typer(help="Weights from elsewhere, as a folder that from_pretrained loads.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(convert_app, name="convert")

out_console = Console()
err_console = Console(stderr=True)


class Split(StrEnum):
    """SceneRef's splits."""

    train = "train"
    val = "val"
    test = "test"
    compositional = "compositional"


class Preset(StrEnum):
    """Presets with published sizes."""

    base = "base"
    large = "large"
    huge = "huge"


class TextEncoder(StrEnum):
    """Text encoders."""

    bert = "bert"
    clip = "clip"


class Dtype(StrEnum):
    """Number formats."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def main() -> None:
    """Entry point: errors meant for the user become one sentence and an exit code."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a file's name may be in no encoding
    warnings.filterwarnings("ignore", module="PIL")  # of odd metadata; what cannot be read is an error of ours
    try:
        app(prog_name="refersam")
    except ReferSamError as error:
        err_console.print(f"Error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, DeviceError | PhraseError) else 1)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        err_console.print(f"Error: {what}.", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


def _version(value: bool) -> None:
    if value:
        out_console.print(f"refersam {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Shared by all commands."""


@app.command(epilog='Example: refersam segment photo.jpg "the dog on the left" "the red car" --out masks')
def segment(
    image: Annotated[Path, typer.Argument(help="The picture.", metavar="IMAGE", show_default=False)],
    phrases: Annotated[
        list[str],
        typer.Argument(help="What to find; each phrase gets its own mask.", metavar="PHRASE", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Folder for masks and overlays.")] = Path("out"),
    model: Annotated[str | None, typer.Option(help="Folder or Hub id. Without it: the model in the box.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps. Without it: the best there is.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Number format of the weights.")] = Dtype.float32,
    threshold: Annotated[
        float,
        typer.Option(min=0, max=1, callback=_probability, help="A pixel belongs to the mask from this probability on."),
    ] = 0.5,
    no_target_threshold: Annotated[
        float,
        typer.Option(min=0, max=1, callback=_probability, help="Nothing matches below this probability of a target."),
    ] = 0.5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Segment what each PHRASE means in IMAGE; writes NAME_mask.png and NAME_overlay.png for each."""
    _refuse_empty(phrases)
    _check_folder(out)
    from refersam.image import load_image

    picture = load_image(image)
    predictor = _load_predictor(model, device, dtype.value)
    _warn_of_cut_phrases(predictor, phrases)
    start = time.perf_counter()
    with _waiting("Segmenting"):
        results = predictor.predict(picture, phrases, threshold, no_target_threshold)
    milliseconds = 1000 * (time.perf_counter() - start) / len(results)
    files = save_results(results, out, image.stem)
    if as_json:
        rows = [_as_dict(result, *paths) for result, paths in zip(results, files, strict=True)]
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    table = result_table()
    for result in results:
        add_result(table, image.name, result, milliseconds)
    out_console.print(table)
    _say(f"Masks and overlays are in {out}/")
    if model is None:
        _say(NOT_FOR_PHOTOGRAPHS, style="dim")


@app.command(epilog="Example: refersam train recipes/tiny_sceneref.yaml --out run --set steps=1000")
def train(
    recipe: Annotated[Path, typer.Argument(help="YAML file with the settings.", metavar="RECIPE", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, log and the final model.")],
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting: optimizer.learning_rate=0.001")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in the folder.")] = False,
) -> None:
    """Train a model; the final one is OUT/model."""
    from refersam.training.settings import read_settings

    settings = read_settings(recipe, changes or [])
    _check_folder(out)
    from refersam.training.trainer import Trainer

    _quiet_transformers()
    with _waiting("Preparing"):
        trainer = Trainer(settings, out, resume)
    with _progress() as progress:
        bar = progress.add_task("training", total=settings.steps, completed=trainer.step)

        def report(step: int, values: dict[str, float]) -> None:
            shown = ("total", "mask", "dice", "rate", "samples/s", "mIoU")
            text = "  ".join(f"{name} {values[name]:.3g}" for name in shown if name in values)
            progress.update(bar, completed=step, description=text)

        try:
            metrics = trainer.run(report)
        except KeyboardInterrupt:
            progress.stop()
            _say(f"Stopped after step {trainer.step}. --resume goes on from the newest checkpoint in {out}/")
            raise typer.Exit(1) from None
    table = Table("metric", "value", title="Validation")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.2f}")
    out_console.print(table)
    _say(f"The model is in {out / 'model'}/")


@data_app.command("scenes")
def data_scenes(
    out: Annotated[Path, typer.Option(help="Data root: OUT/sceneref/ and OUT/images/scenes/ are written.")],
    split: Annotated[Split, typer.Option(help="Another split can be added to the same folder later.")] = Split.val,
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many pictures.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same scenes.")] = 0,
    width: Annotated[int, typer.Option(min=32, max=4096, help="Width of a picture in pixels.")] = 256,
    height: Annotated[int, typer.Option(min=32, max=4096, help="Height of a picture in pixels.")] = 256,
    phrases: Annotated[int, typer.Option(min=1, max=32, help="Phrases per picture.")] = 6,
) -> None:
    """Draw SceneRef, the synthetic benchmark, in gRefCOCO's format."""
    from refersam.data.sceneref import SceneRefSettings, write_sceneref

    _check_folder(out)
    settings = SceneRefSettings(width=width, height=height, phrases_per_scene=phrases)
    with _progress() as progress:
        bar = progress.add_task("drawing", total=count)
        try:
            statistics = write_sceneref(
                out, split.value, count, seed, settings, lambda done: progress.update(bar, completed=done)
            )
        except (ValueError, RuntimeError) as error:  # a folder of something else; a picture without room
            raise DataError(str(error)) from error
    table = Table("", "value", title=f"SceneRef, split {split.value}")
    for name, value in statistics.items():
        if isinstance(value, dict):
            for key, inner in value.items():
                table.add_row(f"{name}: {key}", f"{inner:.2f}" if isinstance(inner, float) else str(inner))
        else:
            table.add_row(name, str(value))
    out_console.print(table)


@convert_app.command("official")
def convert_official(
    weights: Annotated[
        Path, typer.Argument(help="The authors' checkpoint (.pth, or .safetensors).", metavar="WEIGHTS")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the model.")],
    preset: Annotated[Preset | None, typer.Option(help="Sizes of the model.")] = None,
    text: Annotated[TextEncoder, typer.Option(help="Text encoder of the model, with --preset.")] = TextEncoder.bert,
    config: Annotated[Path | None, typer.Option(help="JSON file with sizes instead of a preset.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Folder or Hub id of the text encoder's tokenizer.")] = None,
    image_size: Annotated[
        int, typer.Option(min=32, max=4096, help="Side of the network's input, a multiple of 32.")
    ] = 448,
) -> None:
    """Convert the authors' ReferSAM weights; nothing in the file is ever executed."""
    if (preset is None) == (config is None):
        raise typer.BadParameter("Give either --preset or --config.")
    if image_size % 32:
        raise typer.BadParameter(f"--image-size must be a multiple of 32, but is {image_size}.")
    _check_folder(out)
    from refersam.convert import convert_official_checkpoint, read_authors_config

    _quiet_transformers()
    with _waiting("Converting"):
        from refersam.config import ReferSamConfig

        sizes = (
            read_authors_config(config) if config else ReferSamConfig.from_preset(preset.value, text.value)  # type: ignore[union-attr]
        )
        count = convert_official_checkpoint(weights, sizes, out, tokenizer, image_size)
    _say(f"{count} weights converted into {out}/")
    if tokenizer is None:
        _say(
            f"The tokenizer is missing: the weights load with ReferSamModel.from_pretrained({str(out)!r}), but phrases "
            "need one. Convert again with --tokenizer naming the text encoder's (google-bert/bert-base-uncased, "
            "openai/clip-vit-base-patch16, or a folder)."
        )


def result_table() -> Table:
    """An empty table for `add_result`."""
    table = Table("picture", "phrase")
    for name in ("score", "box", "area", "ms"):
        table.add_column(name, justify="right")
    return table


def add_result(table: Table, picture: str, result: Segmentation, milliseconds: float) -> None:
    """One row: picture, phrase, score, box, area, milliseconds."""
    box = "nothing matches" if result.no_target else "-" if result.box is None else " ".join(map(str, result.box))
    table.add_row(
        Text(picture), Text(result.phrase), f"{result.score:.2f}", box, str(result.area), f"{milliseconds:.0f}"
    )


def save_results(results: Sequence[Segmentation], out: Path, stem: str) -> list[tuple[Path, Path]]:
    """Write mask and overlay of each result; returns their paths."""
    from refersam.files import write_atomically

    files: list[tuple[Path, Path]] = []
    taken: set[str] = set()
    for result in results:
        base = f"{_short(stem)}_{_slug(result.phrase)}"
        name = next(n for n in (base, *(f"{base}_{i}" for i in range(2, len(results) + 2))) if n not in taken)
        taken.add(name)
        mask, overlay = out / f"{name}_mask.png", out / f"{name}_overlay.png"
        result.save(mask)
        picture = result.overlay()
        write_atomically(overlay, lambda file, picture=picture: picture.save(file, format="PNG"))  # type: ignore[misc]
        files.append((mask, overlay))
    return files


def _slug(phrase: str) -> str:
    return _short(re.sub(r"[^\w]+", "-", phrase.lower()).strip("-")[:40]) or "phrase"


def _short(name: str, most: int = 80) -> str:
    """Not more than so many bytes: file systems allow 255 in all."""
    return name.encode(errors="ignore")[:most].decode(errors="ignore")


def _as_dict(result: Segmentation, mask: Path, overlay: Path) -> dict[str, Any]:
    return {
        "phrase": result.phrase,
        "score": round(result.score, 4),
        "no_target": result.no_target,
        "box": result.box,
        "area": result.area,
        "rle": result.to_rle(),
        "mask": str(mask),
        "overlay": str(overlay),
    }


def _say(text: str, style: str | None = None) -> None:
    """Print as it is: a path may hold what rich would read as markup, and is copied whole."""
    out_console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _probability(value: float) -> float:
    if not 0 <= value <= 1:  # not a number, too, which compares with nothing
        raise typer.BadParameter(f"{value} is not a number from 0 to 1.")
    return value


def _check_folder(out: Path) -> None:
    """Before long work, not after it."""
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise DataError(f"{nearest} is a file: --out names a folder.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise DataError(f"{nearest} may not be written to: name another folder with --out.")


def _quiet_transformers() -> None:
    """Its reports of loading and its progress bars: what they say, this package says in its own errors."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def _refuse_empty(phrases: Sequence[str]) -> None:
    for phrase in phrases:
        if not phrase.strip():
            raise PhraseError("A phrase must have at least one word, but one is empty.")


def _warn_of_cut_phrases(predictor: ReferSamPredictor, phrases: Sequence[str]) -> None:
    for phrase in phrases:
        rest = predictor.processor.cut_off(phrase)
        if rest:
            err_console.print(
                f"Warning: the phrase is longer than {predictor.processor.max_text_tokens} tokens; left out: {rest!r}",
                style="yellow",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def _load_predictor(model: str | None, device: str | None, dtype: str) -> ReferSamPredictor:
    with _waiting("Loading the model"):
        from refersam.predictor import ReferSamPredictor

        _quiet_transformers()
        return ReferSamPredictor.from_pretrained(model, device=device, dtype=dtype)


@contextmanager
def _waiting(what: str) -> Iterator[None]:
    """A spinner on a terminal."""
    with err_console.status(f"{what} ..."):
        yield


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=err_console)


if __name__ == "__main__":
    main()
