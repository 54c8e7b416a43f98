"""`refersam train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from refersam.cli.app import app
from refersam.cli.console import check_folder, out_console, progress_bar, quiet_transformers, say, waiting


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
    check_folder(out)
    from refersam.training.trainer import Trainer

    quiet_transformers()
    with waiting("Preparing"):
        trainer = Trainer(settings, out, resume)
    with progress_bar() as progress:
        bar = progress.add_task("training", total=settings.steps, completed=trainer.step)

        def report(step: int, values: dict[str, float]) -> None:
            shown = ("total", "mask", "dice", "rate", "samples/s", "mIoU")
            text = "  ".join(f"{name} {values[name]:.3g}" for name in shown if name in values)
            progress.update(bar, completed=step, description=text)

        try:
            metrics = trainer.run(report)
        except KeyboardInterrupt:
            progress.stop()
            say(f"Stopped after step {trainer.step}. --resume goes on from the newest checkpoint in {out}/")
            raise typer.Exit(1) from None
    table = Table("metric", "value", title="Validation")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.2f}")
    out_console.print(table)
    say(f"The model is in {out / 'model'}/")
