"""Tables of measurements: shown, and put into the documentation.

    python benchmarks/report.py out/bench README.md docs/*.md    # what `make bench` does last

Benchmarks with `--table FILE.md` write their table there as Markdown. Called by itself, this puts each FOLDER/NAME.md
between the lines `<!-- NAME -->` and `<!-- /NAME -->` of the pages that have them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from refersam.inference.devices import is_emulated
from refersam.training.environment import device_name


def add_option(parser: argparse.ArgumentParser) -> None:
    """`--table`, for `report`."""
    parser.add_argument("--table", type=Path, metavar="FILE.md", help="also write the table here, as Markdown")


def machine(device: str = "cpu", threads: int | None = None) -> str:
    """What it was measured on, in words."""
    where = device_name(torch.device(device))
    if not device.startswith("cuda"):
        where = f"cpu ({where}, {threads or torch.get_num_threads()} threads)"
    return f"{where}, torch {torch.__version__}"


def dtypes(device: str = "cpu") -> list[str]:
    """float32, and bfloat16 where the machine has instructions for it."""
    return ["float32", *([] if is_emulated(torch.device(device), torch.bfloat16) else ["bfloat16"])]


def report(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], path: Path | None) -> None:
    """Show a table, and write it where `--table` said."""
    table = Table(*header, title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)
    if path is not None:
        lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([*lines, "", f"{title}."]) + "\n", encoding="utf-8")


def fill(page: str, tables: Path) -> str:
    """A page with the tables of a folder between its markers; where a table is missing the page stays as it is."""

    def table(found: re.Match[str]) -> str:
        file = tables / f"{found[1]}.md"
        return (
            f"<!-- {found[1]} -->\n\n{file.read_text(encoding='utf-8')}\n<!-- /{found[1]} -->"
            if file.is_file()
            else found[0]
        )

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", table, page, flags=re.DOTALL)


def main() -> None:
    """Fill pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, help="folder")
    parser.add_argument("pages", type=Path, nargs="+")
    args = parser.parse_args()
    for path in args.pages:
        text = path.read_text(encoding="utf-8")
        filled = fill(text, args.tables)
        if filled != text:
            path.write_text(filled, encoding="utf-8")
            Console().print(f"{path} has new tables")


if __name__ == "__main__":
    main()
