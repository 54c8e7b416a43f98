"""`refersam segment`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from refersam.cli.app import ANSWER_PANEL, app
from refersam.cli.console import (
    OUT,
    DeviceOption,
    Dtype,
    DtypeOption,
    MinComponentOption,
    ModelOption,
    NoTargetOption,
    ThresholdOption,
    check_file,
    check_folder,
    load_predictor,
    out_console,
    say,
    say_domain,
    shorten,
    waiting,
    warn_of_cut_phrases,
    warn_of_unknown_parts,
)
from refersam.phrases import check_phrases

if TYPE_CHECKING:
    from refersam.inference.predictor import Segmentation

POINT, BOX = "X,Y", "LEFT,TOP,RIGHT,BOTTOM"


def _numbers(text: str, form: str) -> Any:
    """Parse numbers between commas, as many as `form` has."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != form.count(",") + 1:
        raise typer.BadParameter(f"{text!r} is not {form}, numbers of pixels between commas.")
    return numbers


def _points(values: list[str] | None) -> list[Any]:
    return [_numbers(value, POINT) for value in values or []]


def _check_png(path: Path | None) -> Path | None:
    if path is not None and (path.suffix.lower() != ".png" or path.is_dir()):
        raise typer.BadParameter(f"{path} is not the name of a PNG file, which a label map is.")
    return path


@app.command(
    rich_help_panel=ANSWER_PANEL,
    epilog='Example: refersam segment photo.jpg "the dog on the left" "the red car" --out masks',
)
def segment(
    image: Annotated[Path, typer.Argument(help="Image file.", metavar="IMAGE", show_default=False)],
    phrases: Annotated[
        list[str],
        typer.Argument(
            help="Phrase that names what to find; each phrase gets its own mask.", metavar="PHRASE", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for masks and overlays.")] = OUT,
    model: ModelOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.float32,
    threshold: ThresholdOption = 0.5,
    no_target_threshold: NoTargetOption = None,
    min_component_fraction: MinComponentOption = None,
    point: Annotated[
        list[str] | None,
        typer.Option(help="Pixel that belongs to what PHRASE means; may be repeated.", metavar=POINT),
    ] = None,
    exclude_point: Annotated[
        list[str] | None,
        typer.Option(help="Pixel that does not belong to it; may be repeated.", metavar=POINT),
    ] = None,
    box: Annotated[str | None, typer.Option(help="Box around it.", metavar=BOX)] = None,
    label_map: Annotated[
        Path | None,
        typer.Option(
            help="PNG file to write as well, with all phrases: 0 for none, 1 for the first, 2 for the second, ...",
            metavar="FILE",
            callback=_check_png,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Segment what each PHRASE means in IMAGE; writes NAME_mask.png and NAME_overlay.png for each.

    NAME is the name of the image, the phrase, and eight digits of a hash of the image's path and the phrase.
    The same image and phrase replace their own files; others never share a name.

    Points and a box correct the answer to a single PHRASE; they are in pixels of the image, from the top left corner.
    """
    check_phrases(phrases)
    added, removed = _points(point), _points(exclude_point)
    corners = None if box is None else _numbers(box, BOX)
    check_folder(out)
    if label_map is not None:
        check_file(label_map, [image], "--label-map")
    from refersam.image import load_image

    rgb = load_image(image)
    predictor = load_predictor(model, device, dtype.value)
    start = time.perf_counter()
    with waiting("Segmenting"):
        results = predictor.predict(
            rgb,
            phrases,
            threshold,
            no_target_threshold,
            min_component_fraction,
            points=[*added, *removed],
            point_labels=[1] * len(added) + [0] * len(removed),
            box=corners,
        )
    milliseconds = 1000 * (time.perf_counter() - start) / len(results)
    warn_of_cut_phrases((result.left_out for result in results), predictor.processor.max_text_tokens)
    warn_of_unknown_parts(phrases, (result.unknown for result in results))
    files = save_results(results, out, image)
    if label_map is not None:
        _save_label_map(results, label_map)
    if as_json:
        rows = [_as_dict(result, *paths, predictor.domain) for result, paths in zip(results, files, strict=True)]
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        say_domain(predictor.domain, on_stderr=True)
        return
    table = result_table()
    for result in results:
        add_result(table, image.name, result, milliseconds)
    out_console.print(table)
    say(f"Masks and overlays are in {out}/" + (f", the label map is {label_map}" if label_map is not None else ""))
    say_domain(predictor.domain)


def result_table() -> Table:
    """An empty table for `add_result`."""
    table = Table("image", "phrase")
    for name in ("score", "box", "area", "ms"):
        table.add_column(name, justify="right")
    return table


def add_result(table: Table, image: str, result: Segmentation, milliseconds: float) -> None:
    """One row: image, phrase, score, box, area, milliseconds."""
    box = "nothing matches" if result.no_target else "-" if result.box is None else " ".join(map(str, result.box))
    names = Text(shorten(image)), Text(shorten(result.phrase))
    table.add_row(*names, f"{result.score:.2f}", box, str(result.area), f"{milliseconds:.0f}")


def save_results(results: Sequence[Segmentation], out: Path, image: Path) -> list[tuple[Path, Path]]:
    """Write mask and overlay of each result about an image; returns their paths, named by `answer_name`."""
    from refersam.files import save_png
    from refersam.names import answer_name

    files: list[tuple[Path, Path]] = []
    for result in results:
        name = answer_name(image, [result.phrase])
        mask, overlay = out / f"{name}_mask.png", out / f"{name}_overlay.png"
        result.save(mask)
        save_png(result.overlay(), overlay)
        files.append((mask, overlay))
    return files


def _save_label_map(results: Sequence[Segmentation], path: Path) -> None:
    """8 bits a pixel, or 16 where the phrases are more than 255."""
    from refersam.files import save_png
    from refersam.inference.labels import label_image

    save_png(label_image(results), path)


def _as_dict(result: Segmentation, mask: Path, overlay: Path, domain: str | None) -> dict[str, Any]:
    row = {**result.as_dict(), "mask": str(mask), "overlay": str(overlay)}
    return row if domain is None else {**row, "domain": domain}
