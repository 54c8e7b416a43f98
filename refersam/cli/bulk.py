"""`refersam segment-many`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refersam.cli import console
from refersam.cli.app import ANSWER_PANEL, app
from refersam.errors import DataError, counted

if TYPE_CHECKING:
    from refersam.bulk.results import ResultFolder
    from refersam.bulk.run import BulkSettings, Engine

_MOST_SHOWN = 10


class Format(StrEnum):
    """What is written beside results.jsonl."""

    png = "png"
    coco = "coco"
    own_data = "own-data"


class EngineName(StrEnum):
    """Where the work is done."""

    local = "local"
    ray = "ray"


@app.command(
    "segment-many",
    rich_help_panel=ANSWER_PANEL,
    epilog="Example: refersam segment-many --images photos --phrases 'the dog' --phrases 'a car' --out out. "
    "Exit code 1 if any image failed; the same command again does what is missing.",
)
def segment_many(
    phrases: Annotated[
        list[str],
        typer.Option(
            help="Phrase to find in every image (repeat the option for more), or one file: .txt, a phrase per line; "
            ".csv or .jsonl, with image and phrase; .json, a COCO file with captions or categories.",
            metavar="FILE|TEXT",
            show_default=False,
        ),
    ],
    images: Annotated[
        str | None,
        typer.Option(
            help="Folder of the images, searched with its subfolders, or a quoted pattern. If --phrases is a file that "
            "names images: the folder that the names start from (without it: the file's folder).",
            metavar="DIR|GLOB",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = console.OUT,
    formats: Annotated[
        list[Format] | None,
        typer.Option(
            "--format",
            help="Further output beside results.jsonl: png, a mask file per phrase; coco, instances.json; own-data, "
            "train.jsonl and val.jsonl to train on.",
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        console.number_option(
            0,
            1,
            "Lowest score of a mask in --format own-data; an answer without target is kept up to a score of 1 minus "
            "this. Without it: all answers.",
        ),
    ] = None,
    model: console.ModelOption = None,
    device: console.DeviceOption = None,
    dtype: console.DtypeOption = console.Dtype.float32,
    threshold: console.ThresholdOption = 0.5,
    no_target_threshold: console.NoTargetOption = None,
    batch_size: console.BatchSizeOption = console.BATCH_SIZE,
    min_component_fraction: console.MinComponentOption = None,
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            max=1024,
            help="Number of threads that read images; with --engine ray, of processes with a model each.",
        ),
    ] = 2,
    engine: Annotated[
        EngineName,
        typer.Option(help="Where to run: local, in this process; ray, on a Ray cluster (RAY_ADDRESS) or this machine."),
    ] = EngineName.local,
) -> None:
    """Segment many images; resume where it stopped, and report what failed at the end."""
    from refersam.bulk.items import IMAGE_SUFFIXES, open_items
    from refersam.bulk.results import COCO, OWN_DATA, SETTINGS, ResultFolder
    from refersam.bulk.run import BulkSettings

    own_data = Format.own_data in (formats or ())
    if min_score is not None and not own_data:
        raise typer.BadParameter("--min-score belongs to --format own-data, which is not given.")
    console.check_folder(out)
    settings = BulkSettings(
        model,
        device,
        dtype.value,
        threshold,
        no_target_threshold,
        min_component_fraction,
        batch_size=batch_size,
        workers=workers,
    )
    source = open_items(images, phrases, out)
    for name in (COCO, *(OWN_DATA if own_data else ())):
        console.check_file(out / name, map(Path, phrases))
    for path in (out / name for name in OWN_DATA if own_data):
        if path.exists() and not (out / SETTINGS).exists():
            raise DataError(f"{path} was not written by this command, and would be lost: name another --out.")
    with ResultFolder(out, settings.lasting(), masks=Format.png in (formats or ())) as folder:
        with console.waiting("Counting the images"):
            todo = [item.key not in folder.done for item in source()]
        if not todo:
            where = images or phrases[0]
            skipped = f" Skipped: {source.skipped}." if str(source.skipped) else ""
            raise DataError(
                f"No image was found in {where}: folders are searched for {', '.join(IMAGE_SUFFIXES)}.{skipped}"
            )
        if str(source.skipped):
            console.say(f"Skipped: {source.skipped}", style="dim")
        cut = unknown = 0
        domain: str | None = None
        with console.progress_bar() as progress:
            bar = progress.add_task("segmenting", total=len(todo), completed=todo.count(False))
            if any(todo):
                try:
                    for line in _open_engine(engine, settings)(folder.missing(source())):
                        folder.add(line)
                        cut += sum("left_out" in answer for answer in line.get("results", ()))
                        unknown += sum("unknown" in answer for answer in line.get("results", ()))
                        domain = line.get("domain", domain)
                        progress.advance(bar)
                except KeyboardInterrupt:
                    progress.stop()
                    console.say(f"Stopped. The same command goes on with what is missing in {out}/")
                    raise typer.Exit(console.INTERRUPTED) from None
                except OSError:  # such as a full disk
                    progress.stop()
                    console.say(f"Stopped by an error. The same command goes on with what is missing in {out}/")
                    raise
        folder.finish()
        _report(folder, formats or (), todo.count(False))
        if own_data:
            from refersam.bulk.own_data import write_own_data

            with console.waiting("Writing own data"):
                counts = write_own_data(out, source.root, min_score or 0.0)
            console.say(f"{out}/ has own data: {counts}")
        if cut:
            console.say(
                f"Longer than the model reads: {counted(cut, 'phrase')}; the results say what was left out.",
                style="yellow",
            )
        if unknown:
            console.say(
                f"With parts that the tokenizer does not know: {counted(unknown, 'phrase')}; the results name them.",
                style="yellow",
            )
    console.say_domain(domain)
    if folder.failures:
        raise typer.Exit(1)


def _open_engine(name: EngineName, settings: BulkSettings) -> Engine:
    if name is EngineName.ray:
        from refersam.bulk.ray_engine import RayEngine

        console.quiet_transformers()
        return RayEngine(settings)
    from refersam.bulk.run import LocalEngine

    return LocalEngine(console.load_predictor(settings.model, settings.device, settings.dtype), settings)


def _report(folder: ResultFolder, formats: Sequence[Format], before: int) -> None:
    from refersam.bulk.coco import write_coco
    from refersam.bulk.results import COCO, FAILURES, RESULTS, read_results

    results = folder.out / RESULTS
    console.say(f"Results are in {results}" + (f" ({counted(before, 'image')} done before)" if before else ""))
    if Format.png in formats:
        console.say(f"Masks are in {folder.out / 'masks'}/")
    if Format.coco in formats:
        path = folder.out / COCO
        with console.waiting("Writing COCO"):
            count = write_coco(read_results(results), path)
        console.say(f"{path} has {counted(count, 'annotation')}.")
    if folder.failures:
        failures = folder.out / FAILURES
        console.say(f"{counted(folder.failures, 'image')} failed; the same command tries again:", style="red")
        for _, line in zip(range(_MOST_SHOWN), read_results(failures), strict=False):
            console.say(f"  {line['error']}")
        if folder.failures > _MOST_SHOWN:
            console.say(f"  ... all of them are in {failures}")
