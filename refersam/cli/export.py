"""`refersam export ...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from refersam.cli.app import export_app
from refersam.cli.console import check_file, out_console, quiet_transformers, say, waiting

if TYPE_CHECKING:
    from refersam.data.sample import ReferringImage

NUM_SCENES = 8
"""Rendered scenes on which the masks of an int8 model are compared."""


@export_app.command("onnx", epilog="Example: refersam export onnx --model MODEL --out model.onnx")
def export_onnx(
    out: Annotated[Path, typer.Option(help="File to write, ending in .onnx.")],
    model: Annotated[
        str | None, typer.Option(help="Model to export: a folder or a Hub id. Without it: the bundled model.")
    ] = None,
    any_size: Annotated[
        bool,
        typer.Option(
            "--any-size", help="Accept inputs of any size. Without it: only the model's own size, which is faster."
        ),
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Compute matrix products in int8: a smaller and, on most CPUs, faster model.")
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
    samples: list[ReferringImage] = []
    if int8:
        from sceneref import SceneRefSettings, generate_scene

        scenes = SceneRefSettings(width=256, height=256, phrases_per_scene=6)
        samples = [
            generate_scene(scenes, "val", 0, index).to_referring_image(str(index)) for index in range(NUM_SCENES)
        ]
    with waiting("Exporting"):
        loaded, processor = load_model(model or str(BUNDLED_CHECKPOINT))
        report = write(loaded, processor, out, any_size=any_size, int8=int8, samples=samples)
    table = Table("images", "phrases", "tokens", "px", "largest difference")
    for case in report.cases:
        table.add_row(
            str(case.images),
            str(case.phrases),
            str(case.tokens),
            f"{case.height} x {case.width}",
            f"{case.error:.1e}",
        )
    out_console.print(table)
    say(f"{out}: computes what the model does, {report.megabytes:.0f} MB")
    if int8:
        say(
            f"{report.quantized} matrix products are in int8. Its masks overlap with the model's by "
            f"{report.agreement:.3f} (mean IoU on synthetic scenes)."
        )
