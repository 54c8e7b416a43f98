"""`refersam recipes`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from refersam.cli.app import TRAIN_PANEL, app
from refersam.cli.console import check_file, out_console, say, shorten
from refersam.errors import DataError, did_you_mean


@app.command(
    rich_help_panel=TRAIN_PANEL, epilog="Example: refersam recipes refcoco/base --copy my_recipe.yaml, then edit it"
)
def recipes(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Recipe to print. Without it: list the names of all recipes.", metavar="[NAME]", show_default=False
        ),
    ] = None,
    copy: Annotated[
        Path | None,
        typer.Option("--copy", help="Write the recipe NAME to this new YAML file instead.", metavar="FILE"),
    ] = None,
) -> None:
    """List the recipes of the package, or print or copy one; `refersam train` takes names and files."""
    from refersam.training.bundled import bundled_recipes

    known = bundled_recipes()
    if name is None:
        if copy is not None:
            raise typer.BadParameter("--copy needs the NAME of a recipe.")
        table = Table("name", "description")
        for recipe in known.values():
            command = "refersam ablate: " if recipe.is_suite else ""
            table.add_row(Text(recipe.name), Text(f"{command}{shorten(recipe.description, 100)}"))
        out_console.print(table)
        return
    if name not in known:
        raise typer.BadParameter(f"no recipe {name!r} comes with the package{did_you_mean(name, known) or '.'}")
    if copy is None:
        sys.stdout.write(known[name].text)
        return
    if copy.suffix not in (".yaml", ".yml"):
        raise typer.BadParameter(f"--copy must end in .yaml, but is {copy}.")
    check_file(copy, option="--copy")
    if copy.exists():
        raise DataError(f"{copy} exists already: name a new file with --copy.")
    from refersam.files import write_atomically

    write_atomically(copy, lambda file: file.write(known[name].to_copy().encode()))
    command = "ablate" if known[name].is_suite else "train"
    say(f"{copy} is a copy of {name}. Edit it, then: refersam {command} {copy} --out DIR")
