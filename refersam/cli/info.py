"""`refersam info`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from refersam.cli.app import ANSWER_PANEL, app
from refersam.cli.console import out_console, quiet_transformers, waiting

if TYPE_CHECKING:
    from refersam.inference.description import Description, PublishedDescription


@app.command(rich_help_panel=ANSWER_PANEL, epilog="Example: refersam info path/to/model --json")
def info(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Model to describe: a folder, a Hub id, a checkpoint of the authors (.pth), an export (OpenVINO, "
            ".onnx), clipseg, grounded-sam or sam3. Without it: the bundled model.",
            metavar="[MODEL]",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Describe a model: sizes, parameters by part, precision, input, heads, licence."""
    with waiting("Reading the model"):
        from refersam.checkpoints.folders import BUNDLED_CHECKPOINT
        from refersam.inference.description import PublishedDescription, describe_model

        quiet_transformers()
        description = describe_model(str(BUNDLED_CHECKPOINT) if model is None else model)
    if as_json:
        sys.stdout.write(json.dumps(asdict(description), indent=2) + "\n")
        return
    table = Table(show_header=False)
    if isinstance(description, PublishedDescription):
        rows = _published_rows(description)
    else:
        rows = _rows(description, model is None)
    for name, value in rows:
        table.add_row(name, Text(value))
    out_console.print(table)


def _published_rows(description: PublishedDescription) -> list[tuple[str, str]]:
    about, rows = "about " if description.approximate else "", [("model", description.model)]
    rows += [("kind", description.family), ("domain", "photographs"), ("method", description.method)]
    for each in description.weights:
        gated = ", gated: access needs an account" if each.gated else ""
        size = f"{about}{each.megabytes:,} MB, {about}{each.parameters / 1e6:.3g} M parameters"
        rows.append((each.repository, f"{size}, licence: {each.licence}{gated}"))
    total = sum(each.megabytes for each in description.weights)
    rows.append(("download" if description.approximate else "weights' files", f"{about}{total:,} MB"))
    if description.access is not None:
        rows.append(("access", description.access))
    return rows


def _rows(description: Description, is_bundled: bool) -> list[tuple[str, str]]:
    parts, heads = dict(description.parameters), description.heads
    total = parts.pop("total")
    size = description.input_size
    return [
        ("model", "bundled model" if is_bundled else description.model),
        ("domain", "general" if description.domain is None else f"{description.domain} only"),
        ("sizes of preset", description.preset or "none: its own"),
        ("text encoder", description.text_encoder),
        ("image encoder", description.image_encoder),
        *([("left out", ", ".join(description.left_out))] if description.left_out else []),
        *((f"parameters, {part}", f"{count:,}") for part, count in parts.items()),
        ("parameters", f"{total:,}"),
        ("dtype", ", ".join(f"{name} ({count:,})" for name, count in description.dtypes.items())),
        ("weights' files", f"{description.file_bytes:,} bytes"),
        ("input", "unknown: no processor" if size is None else f"{size[1]} x {size[0]} px"),
        ("longest phrase", "unknown: no processor" if size is None else f"{description.max_text_tokens} tokens"),
        ("masks' upsampling", description.upsampling),
        ("says that nothing matches", "yes" if heads["no_target"] else "no: it always answers with a mask"),
        ("score", "expected IoU, trained" if heads["iou"] else "mean probability inside the mask"),
        ("trained with clicks", "yes" if description.supports_clicks else "no"),
        ("licence", description.licence or "not told"),
    ]
