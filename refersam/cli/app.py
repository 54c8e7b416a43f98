"""The command line's groups; each module of commands adds to them."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from refersam.cli.console import out_console
from refersam.version import __version__

EXIT_CODES = (
    "Exit codes: 0 done; 1 something could not be read, written or computed; 2 wrong usage; 130 stopped by Ctrl-C."
)

ANSWER_PANEL = "Answer phrases"
TRAIN_PANEL = "Train and evaluate"
DATA_PANEL = "Data sets"
SERVE_PANEL = "Serve and export"
ORDER = (
    *("segment", "segment-many", "video", "info"),
    *("recipes", "train", "ablate", "evaluate"),
    *("data", "prepare", "check", "show", "from-coco", "scenes"),
    *("demo", "serve", "convert", "export"),
)
"""Commands in the order of use, as the help lists them."""


class OrderedGroup(TyperGroup):
    """Lists its commands in `ORDER`, unknown ones last."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of use."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


app = typer.Typer(
    name="refersam",
    cls=OrderedGroup,
    help="Referring image segmentation: an image and a phrase in, the mask of what the phrase means out.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
data_app = typer.Typer(
    cls=OrderedGroup,
    help="Prepare, check, show and convert data sets; render the synthetic benchmark SceneRef.",
    no_args_is_help=True,
)
convert_app = typer.Typer(help="Convert weights of other formats into a model folder.", no_args_is_help=True)
export_app = typer.Typer(help="Export models as files that run without torch.", no_args_is_help=True)
app.add_typer(export_app, name="export", rich_help_panel=SERVE_PANEL)
app.add_typer(data_app, name="data", rich_help_panel=DATA_PANEL)
app.add_typer(convert_app, name="convert", rich_help_panel=SERVE_PANEL)


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
