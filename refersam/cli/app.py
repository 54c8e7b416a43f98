"""The command line's groups; each module of commands adds to them."""

from __future__ import annotations

from typing import Annotated

import typer

from refersam.cli.console import out_console
from refersam.version import __version__

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
data_app = typer.Typer(
    help="Data sets: lay out, check, show and convert them, and draw the synthetic benchmark SceneRef.",
    no_args_is_help=True,
)
convert_app = typer.Typer(help="Weights from elsewhere, as a folder that from_pretrained loads.", no_args_is_help=True)
export_app = typer.Typer(help="Models as files that run without torch.", no_args_is_help=True)
app.add_typer(export_app, name="export")
app.add_typer(data_app, name="data")
app.add_typer(convert_app, name="convert")


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
