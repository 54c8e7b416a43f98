"""`refersam data ...`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from refersam.cli.app import data_app
from refersam.cli.console import check_folder, out_console, progress_bar
from refersam.errors import DataError


class Split(StrEnum):
    """SceneRef's splits."""

    train = "train"
    val = "val"
    test = "test"
    compositional = "compositional"


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

    check_folder(out)
    settings = SceneRefSettings(width=width, height=height, phrases_per_scene=phrases)
    with progress_bar() as progress:
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
