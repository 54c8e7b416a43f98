"""`refersam data ...`."""

from __future__ import annotations

import os
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from refersam.cli.app import data_app
from refersam.cli.console import OUT, check_file, check_folder, out_console, progress_bar, say, waiting
from refersam.errors import DataError, counted

if TYPE_CHECKING:
    from refersam.data.check import DatasetReport

Root = Annotated[Path, typer.Option(help="Folder that holds the data sets and their images.", show_default=False)]
Dataset = Annotated[
    str,
    typer.Option(
        help="Data set: refcoco, refcoco+, refcocog, grefcoco, refzom, refcoco-m, sceneref; mixed, the training splits "
        "of the first three; or jsonl, own data in DATA_ROOT/SPLIT.jsonl.",
        show_default=False,
    ),
]
SplitBy = Annotated[
    str | None,
    typer.Option(help="Published partition of the data set. Without it: unc; umd for refcocog; final for refzom."),
]


class Split(StrEnum):
    """SceneRef's splits."""

    train = "train"
    val = "val"
    test = "test"
    compositional = "compositional"


@data_app.command("scenes")
def data_scenes(
    out: Annotated[Path, typer.Option(help="Data root to write to: OUT/sceneref/ and OUT/images/scenes/.")],
    split: Annotated[
        Split, typer.Option(help="Split to render. Further splits can be added to the same folder later.")
    ] = Split.val,
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of images.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Random seed: the same seed gives the same scenes.")] = 0,
    width: Annotated[int, typer.Option(min=32, max=4096, help="Width of an image in pixels.")] = 256,
    height: Annotated[int, typer.Option(min=32, max=4096, help="Height of an image in pixels.")] = 256,
    phrases: Annotated[int, typer.Option(min=1, max=32, help="Number of phrases per image.")] = 6,
) -> None:
    """Render SceneRef, the synthetic benchmark, in gRefCOCO's format."""
    from sceneref import SceneRefSettings, write_sceneref

    check_folder(out)
    settings = SceneRefSettings(width=width, height=height, phrases_per_scene=phrases)
    with progress_bar() as progress:
        bar = progress.add_task("drawing", total=count)
        try:
            statistics = write_sceneref(
                out, split.value, count, seed, settings, lambda done: progress.update(bar, completed=done)
            )
        except (ValueError, RuntimeError) as error:  # a folder of something else; an image without room
            raise DataError(str(error)) from error
    table = Table("", "value", title=f"SceneRef, split {split.value}")
    for name, value in statistics.items():
        if isinstance(value, dict):
            for key, inner in value.items():
                table.add_row(f"{name}: {key}", f"{inner:.2f}" if isinstance(inner, float) else str(inner))
        else:
            table.add_row(name, str(value))
    out_console.print(table)


@data_app.command("check", epilog="Exit code 1 if anything was found that is more than a note.")
def data_check(
    data_root: Root,
    dataset: Dataset,
    split_by: SplitBy = None,
    decode: Annotated[
        bool,
        typer.Option(
            "--decode/--no-decode", help="Decode every image and mask, or only check that the files exist (seconds)."
        ),
    ] = True,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Number of processes that decode images.")] = min(
        8, os.cpu_count() or 1
    ),
) -> None:
    """Find all problems of a data set before it is used: counts, missing and broken files, contradictions."""
    from refersam.data.check import check_dataset

    with progress_bar(transient=True) as progress:
        bar = progress.add_task("reading", total=None)
        report = check_dataset(
            data_root,
            dataset,
            split_by,
            decode=decode,
            workers=workers,
            progress=lambda done, of: progress.update(bar, description="decoding", completed=done, total=of),
        )
    _show_counts(report)
    for (severity, kind), group in groupby(report.findings, key=lambda finding: (finding.severity, finding.kind)):
        messages = [finding.message for finding in group]
        say(f"{severity.name.capitalize()}: {kind} ({len(messages)})", style="bold")
        for message in messages:
            say(f"  {message}")
    if report.is_good:
        say("Nothing wrong was found." if decode else "Nothing wrong was found; images were not decoded.")
    else:
        raise typer.Exit(1)


def _show_counts(report: DatasetReport) -> None:
    table = Table("split", title=f"{report.name} ({report.split_by})" if report.split_by else report.name)
    published = any(number is not None for split in report.counts for number in split.published)
    for column in ("refs", "images", "phrases"):
        table.add_column(column, justify="right")
        if published:
            table.add_column("published", justify="right", style="dim")
    for split in report.counts:
        here = (split.refs, split.images, split.expressions)
        numbers = [n for pair in zip(here, split.published, strict=True) for n in pair] if published else here
        table.add_row(Text(split.split), *("-" if number is None else str(number) for number in numbers))
    out_console.print(table)


@data_app.command("show", epilog="Example: refersam data show --data-root data --dataset refcoco --split val")
def data_show(
    data_root: Root,
    dataset: Dataset,
    split: Annotated[str, typer.Option(help="Full name of the split, such as val.", show_default=False)],
    split_by: SplitBy = None,
    count: Annotated[int, typer.Option(min=1, max=400, help="Number of phrases to show.")] = 16,
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed of the choice: the same seed shows the same phrases.")
    ] = 0,
    out: Annotated[Path, typer.Option(help="PNG file to write.")] = OUT / "sheet.png",
) -> None:
    """Draw a sheet of images with their phrases and masks, to see that they belong together."""
    import random

    from refersam.data import open_dataset
    from refersam.drawing import contact_sheet, draw_overlay
    from refersam.files import save_png

    if out.suffix.lower() != ".png":
        raise typer.BadParameter(f"--out must end in .png, but is {out}.")
    check_file(out)
    with waiting("Reading"):
        samples = open_dataset(data_root, dataset, split, split_by)
    check_file(out, (sample.image.path for sample in samples))
    chosen = sorted(random.Random(seed).sample(range(len(samples)), min(count, len(samples))))
    tiles = []
    for sample in (samples[index] for index in chosen):
        caption = sample.phrase if sample.has_target else f"{sample.phrase} (no target)"
        tiles.append((caption, draw_overlay(sample.image.load(), sample.load_mask())))
    sheet = contact_sheet(tiles)
    save_png(sheet, out)
    say(f"{out} shows {len(tiles)} of {len(samples)} phrases.")


@data_app.command("prepare")
def data_prepare(
    data_root: Root,
    dataset: Annotated[str | None, typer.Option(help="Benchmark to prepare. Without it: all benchmarks.")] = None,
    downloads: Annotated[
        Path | None,
        typer.Option("--from", help="Folder with the downloaded files, which are laid out in the data root."),
    ] = None,
) -> None:
    """Show where each benchmark comes from, and lay out downloaded files. Downloads nothing itself."""
    from refersam.data.prepare import SOURCES, find_items, lay_out, missing_files, verify_index

    if dataset is not None and dataset not in SOURCES:
        raise typer.BadParameter(f"{dataset!r} is none of {', '.join(SOURCES)}.")
    names = [dataset] if dataset else list(SOURCES)
    if downloads is not None:
        check_folder(data_root, "--data-root")
        items = find_items(downloads, dataset)
        if not items:
            raise DataError(f"{downloads} holds no file of {', '.join(names)} that is known by its name.")
        with progress_bar(transient=True) as progress:
            bar = progress.add_task("laying out", total=len(items))
            written, there = lay_out(items, data_root, lambda done: progress.update(bar, completed=done))
        with waiting("Reading what was laid out"):
            counts = {name: verify_index(data_root, name) for name in names}
        say(f"{counted(written, 'file')} written into {data_root}/, {counted(there, 'file')} there already.")
        for name, count in counts.items():
            if count:
                say(f"{name}: {count} refs, readable.")
    for name in names:
        source = SOURCES[name]
        missing = missing_files(data_root, name)
        say(f"{name}: " + ("missing" if missing else "complete"), style="bold")
        if not missing:
            say(f"  Now: refersam data check --data-root {data_root} --dataset {name}")
            continue
        for path in missing:
            say(f"  expected: {path}")
        say(f"  authors:  {source.page}")
        for what in source.annotations:
            say(f"  download: {what}")
        for what in source.images:
            say(f"  download: {what}")
    if downloads is None:
        say("Put what you download into one folder, and name it with --from: it is verified and laid out.")


@data_app.command("from-coco")
def data_from_coco(
    instances: Annotated[
        Path, typer.Argument(help="COCO annotation file (instances.json).", metavar="INSTANCES", show_default=False)
    ],
    phrases: Annotated[
        Path,
        typer.Argument(
            help="Phrases, as JSON lines or CSV with a header line: phrase, and ann_id or ann_ids; image instead if "
            "nothing matches.",
            metavar="PHRASES",
            show_default=False,
        ),
    ],
    images: Annotated[Path, typer.Option(help="Folder of the images.", show_default=False)],
    out: Annotated[Path, typer.Option(help="JSON lines file to write: DATA_ROOT/SPLIT.jsonl.", show_default=False)],
) -> None:
    """Make own data from COCO annotations and a list of phrases."""
    from refersam.data.from_coco import convert_coco

    if out.suffix != ".jsonl":
        raise typer.BadParameter(f"--out must end in .jsonl, but is {out}.")
    check_file(out, [instances, phrases])
    with waiting("Reading"):
        count = convert_coco(instances, phrases, images, out)
    say(f"{out} has {counted(count, 'phrase')}.")
    say(f"Now: refersam data check --data-root {out.parent} --dataset jsonl")
