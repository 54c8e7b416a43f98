"""`refersam train` and `refersam ablate`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import TaskID
from rich.table import Table

from refersam.cli import console
from refersam.cli.app import TRAIN_PANEL, app

if TYPE_CHECKING:
    from refersam.training.trainer import Trainer

_SHOWN = (
    "pretraining",
    "shape accuracy",
    "total",
    "mask",
    "dice",
    "iou",
    "object",
    "learning rate",
    "samples/s",
    "memory GiB",
    "mIoU",
    "gIoU",
    "oIoU",
)

_SPEED_SECONDS = 3600.0
"""The remaining time is estimated from the last hour, or its last 1000 steps: a step may take a minute."""

Changes = Annotated[
    list[str] | None, typer.Option("--set", help="Setting to change (repeatable): optimizer.learning_rate=0.001")
]


@app.command(rich_help_panel=TRAIN_PANEL, epilog="Example: refersam train smoke --out run --set steps=20")
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="Settings: a YAML file, or a name that `refersam recipes` lists.", metavar="RECIPE", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, log and the final model.")],
    changes: Changes = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the newest checkpoint in OUT.")] = False,
) -> None:
    """Train a model; the final one is OUT/model.

    SIGTERM, SIGUSR1 and Ctrl-C make it write a checkpoint and end, with exit code 130 after Ctrl-C, else 0.
    """
    from refersam.training.recipe import read_settings

    settings = read_settings(recipe, changes or [])
    console.check_folder(out)
    from refersam.evaluate.processes import leave_processes
    from refersam.training.trainer import Trainer

    console.quiet_transformers()
    with console.waiting("Preparing"):
        trainer = Trainer(settings, out, resume)
    try:
        metrics = run_with_progress(trainer, "training")
    except KeyboardInterrupt:
        if trainer.accelerator.is_main_process:
            console.say(f"Stopped after step {trainer.step}. --resume goes on from the newest checkpoint in {out}/")
        if trainer.stopped_by:  # all processes have stopped together
            leave_processes()
        raise typer.Exit(console.INTERRUPTED) from None
    leave_processes()
    if not trainer.accelerator.is_main_process:
        return
    if trainer.stopped_by:
        console.say(
            f"Stopped by {trainer.stopped_by} after step {trainer.step}, with a checkpoint: --resume goes on from it."
        )
        return
    table = Table("metric", "value", title="Validation")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.2f}" if isinstance(value, float) else str(value))
    console.out_console.print(table)
    console.say(f"The model is in {out / 'model'}/, the curves are in {out / 'curves.png'}")


@app.command(rich_help_panel=TRAIN_PANEL, epilog="Example: refersam ablate ablations/tiny --out ablations")
def ablate(
    suite: Annotated[
        str,
        typer.Argument(
            help="Runs to compare: a YAML file, or a name that `refersam recipes` lists.",
            metavar="SUITE",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the runs, the table and the plots.")],
    changes: Changes = None,
) -> None:
    """Train the runs of a suite with each of its seeds and compare them; with the same OUT it goes on where it was.

    Signals end it as they end `refersam train`.
    """
    from refersam.training.ablation import Suite, read_suite

    plan: Suite = read_suite(suite, changes or [])
    console.check_folder(out)
    from accelerate import PartialState

    from refersam.evaluate.processes import leave_processes
    from refersam.training.ablation import run_suite

    console.quiet_transformers()
    try:
        summary = run_suite(plan, out, run_with_progress)
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":  # of torchrun's processes
            console.say(f"Stopped. The same command goes on from the newest checkpoint in {out}/")
        raise typer.Exit(console.INTERRUPTED) from None
    is_main = PartialState().is_main_process
    leave_processes()
    if not is_main:
        return
    if summary is None:
        console.say("Stopped by a signal, with a checkpoint: the same command goes on from it.")
        return
    table = Table("run", "seeds", *summary.metrics, title="Mean and standard deviation over the seeds")
    for row in summary.rows():
        table.add_row(*row)
    console.out_console.print(table)
    console.say(f"Table and plot are in {out / 'ablation.md'} and {out / 'ablation.png'}")
    if summary.has_curves:
        console.say(f"Curves are in {out / 'curves.png'}")


def run_with_progress(trainer: Trainer, what: str) -> dict[str, float]:
    """Run with bars on a terminal that move with every step, and else with a line for each line of the log."""
    is_main = trainer.accelerator.is_main_process
    pretraining_steps = trainer.pretraining_steps
    with console.progress_bar(speed_seconds=_SPEED_SECONDS) as progress:
        bar = progress.add_task(what, total=trainer.steps, completed=trainer.step)
        pretraining: TaskID | None = None

        def advance(pretrained: int, step: int) -> None:
            nonlocal pretraining
            if pretrained and not step and pretraining is None:
                pretraining = progress.add_task("pretraining", total=pretraining_steps)
            if pretraining is not None:
                progress.update(pretraining, completed=pretrained)
            progress.update(bar, completed=step)

        def report(step: int, values: dict[str, float]) -> None:
            text = "  ".join(f"{name} {values[name]:.3g}" for name in _SHOWN if name in values)
            progress.update(bar, completed=step, description=f"{what}  {text}")
            if not console.err_console.is_terminal:
                rest = progress.tasks[0].time_remaining
                left = "" if rest is None else f"  {rest / 60:.0f} min left"
                console.err_console.print(f"{what} {step}/{trainer.steps}  {text}{left}", markup=False, highlight=False)

        return trainer.run(report, advance) if is_main else trainer.run()
