"""`refersam export ...`."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from refersam.cli.app import export_app
from refersam.cli.console import check_file, check_folder, out_console, quiet_transformers, say, waiting
from refersam.errors import DataError

if TYPE_CHECKING:
    from refersam.export.comparison import ExportReport
    from refersam.export.openvino import Samples

MAX_CALIBRATION_IMAGES = 128
"""Number of images that int8 is calibrated on, the first ones."""
NUM_SCENES = 96
"""Synthetic scenes that int8 of the bundled model is calibrated on."""
CALIBRATION_PHRASES = ("the person on the left", "the largest object", "the small object in the background")
"""Phrases for calibration images without phrases."""

ExportedModel = Annotated[
    str | None, typer.Option("--model", help="Model to export: a folder or a Hub id. Without it: the bundled model.")
]


@export_app.command("onnx", epilog="Example: refersam export onnx --model MODEL --out model.onnx")
def export_onnx(
    out: Annotated[Path, typer.Option(help="File to write, ending in .onnx.")],
    model: ExportedModel = None,
    any_size: Annotated[
        bool,
        typer.Option(
            "--any-size", help="Accept inputs of any size. Without it: only the model's own size, which is faster."
        ),
    ] = False,
) -> None:
    """Export a model as one .onnx file that runs without torch; its output is compared with the model's."""
    if out.suffix != ".onnx":
        raise typer.BadParameter(f"--out must name a file that ends in .onnx, but is {out.name!r}.")
    if model is not None and model.endswith(".onnx"):
        raise typer.BadParameter("--model names an exported file already: give the folder or Hub id it came from.")
    check_file(out)
    from refersam.checkpoints.folders import BUNDLED_CHECKPOINT, load_model
    from refersam.export.onnx import export_onnx as write

    quiet_transformers()
    with waiting("Exporting"):
        loaded, processor = load_model(model or str(BUNDLED_CHECKPOINT))
        report = write(loaded, processor, out, any_size=any_size)
    _print_report(report, str(out))


@export_app.command("openvino", epilog="Example: refersam export openvino --out exported --int8")
def export_openvino(
    out: Annotated[Path, typer.Option(help="New folder for the exported model; an earlier export in it is replaced.")],
    model: ExportedModel = None,
    int8: Annotated[bool, typer.Option("--int8", help="Compute most products in int8, calibrated on images.")] = False,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Images for --int8, like those that the model will be used for: a folder, a pattern, own data (a "
            "folder with train.jsonl), or a .jsonl, .csv or .json file with images and phrases. Without it: for the "
            "bundled model, synthetic scenes."
        ),
    ] = None,
) -> None:
    """Export a model for OpenVINO, the fastest engine on CPUs; its output is compared with the model's."""
    if calibration is not None and not int8:
        raise typer.BadParameter("--calibration goes with --int8.")
    if int8 and calibration is None and model is not None:
        raise typer.BadParameter("--int8 needs --calibration: images like those that the model will be used for.")
    check_folder(out)
    from refersam.checkpoints.folders import BUNDLED_CHECKPOINT, load_model
    from refersam.export.openvino import export_openvino as write

    quiet_transformers()
    with waiting("Exporting"):
        loaded, processor = load_model(model or str(BUNDLED_CHECKPOINT))
        samples = _calibration(calibration) if int8 else None
        report = write(loaded, processor, out, calibration=samples)
    _print_report(report, f"{out}/")


def _calibration(images: str | None) -> Samples:
    """Read images with phrases, or render scenes where no images are given."""
    if images is None:
        from sceneref import SceneRefSettings, generate_scene

        settings = SceneRefSettings(width=256, height=256, phrases_per_scene=6)
        scenes = (generate_scene(settings, "train", 0, index) for index in range(NUM_SCENES))
        return [(scene.image, scene.phrases) for scene in (s.to_referring_image("") for s in scenes)]
    from refersam.bulk.items import LIST_SUFFIXES, open_items

    path = Path(images)
    if (path / "train.jsonl").is_file():
        path = path / "train.jsonl"
    listed = path.suffix.lower() in LIST_SUFFIXES
    source = open_items(None if listed else images, [str(path)] if listed else CALIBRATION_PHRASES, Path("-"))
    samples = [(item.path, item.phrases) for item in islice(source(), MAX_CALIBRATION_IMAGES)]
    if not samples:
        raise DataError(f"{images} holds no image to calibrate on.")
    return samples


def _print_report(report: ExportReport, out: str) -> None:
    table = Table("images", "phrases", "tokens", "px", "largest difference")
    for case in report.cases:
        size = f"{case.height} x {case.width}"
        table.add_row(str(case.images), str(case.phrases), str(case.tokens), size, f"{case.error:.1e}")
    out_console.print(table)
    say(f"{out}: computes what the model does, {report.megabytes:.0f} MB")
    if report.quantized:
        say(
            f"{report.quantized} products are in int8. Its masks agree with the model's by {report.agreement:.4f} "
            "(mean IoU on calibration images that were left out)."
        )
