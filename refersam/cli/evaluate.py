"""`refersam evaluate`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import TaskID
from rich.table import Table

from refersam.cli import console
from refersam.cli.app import TRAIN_PANEL, app
from refersam.cli.data import Root, SplitBy
from refersam.errors import DataError, counted
from refersam.files import WriteLock

if TYPE_CHECKING:
    from refersam.data.index import ReferringDataset
    from refersam.evaluate.processes import Processes
    from refersam.inference.predictor import ReferSamPredictor
    from refersam.metrics import Protocol


class TextField(StrEnum):
    """Texts of the benchmarks' sentences."""

    sent = "sent"
    raw = "raw"


MODEL_OPTIONS = ("model", "batch_size", "device", "dtype", "no_target_threshold", "clicks", "max_text_tokens")
"""Without a meaning where the masks are there already."""
FILES = ("metrics.json", "predictions.jsonl", "report.html")


@app.command(
    rich_help_panel=TRAIN_PANEL,
    epilog="Example: refersam evaluate --model MODEL --data-root DATA --dataset refcoco --split testA --out results",
)
def evaluate(
    context: typer.Context,
    data_root: Root,
    dataset: Annotated[
        str,
        typer.Option(
            help="Data set: refcoco, refcoco+, refcocog, grefcoco, refzom, refcoco-m, sceneref, or jsonl for own data.",
            show_default=False,
        ),
    ],
    split: Annotated[str, typer.Option(help="Split of the data set: val, testA, testB, test, ...", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of metrics.json, predictions.jsonl, report.html.")] = console.OUT,
    model: console.ModelOption = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="JSON lines file with the masks of any tool, scored instead of a model (docs/evaluation.md)."
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Protocol of the scores: original, lavt, caris, cris, evf, gres, ref-zom or sceneref. Without it: the "
            "data set's own."
        ),
    ] = None,
    split_by: SplitBy = None,
    text_field: Annotated[
        TextField, typer.Option(help="Text of a benchmark that is the phrase: sent, cleaned; raw, as it was typed.")
    ] = TextField.sent,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Number of phrases to score, the first ones. Without it: all.")
    ] = None,
    batch_size: console.BatchSizeOption = console.BATCH_SIZE,
    device: console.DeviceOption = None,
    dtype: console.DtypeOption = console.Dtype.float32,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, max=256, help="Number of processes that decode images. Without it: at most 8, one per further core."
        ),
    ] = None,
    no_target_threshold: console.NoTargetOption = None,
    min_pixels: Annotated[
        int,
        typer.Option(
            min=0,
            help="Smallest mask in pixels; a smaller one counts as no target if the model has no such decision "
            "(gRefCOCO: 0 or 50).",
        ),
    ] = 0,
    boundary: Annotated[
        bool,
        typer.Option(
            "--boundary", help="Compute mBIoU, too, the mean boundary IoU: how well masks follow the targets' outlines."
        ),
    ] = False,
    clicks: Annotated[
        int,
        typer.Option(
            min=0,
            max=100,
            help="Number of automatic clicks that correct each mask; adds mIoU and oIoU after each, NoC@85 and NoC@90.",
        ),
    ] = 0,
    max_text_tokens: Annotated[
        int | None,
        typer.Option(
            min=3, help="Longest phrase in tokens; longer ones are cut. Without it: as the model was trained."
        ),
    ] = None,
) -> None:
    """Score a model, or any tool's masks, on a data set by a published protocol.

    Also under torchrun or accelerate launch, on several processes.
    """
    _check_options(context, predictions is not None, min_pixels, protocol)
    console.check_folder(out)
    if predictions is not None:
        for name in FILES:
            console.check_file(out / name, [predictions])
    with console.waiting("Reading the data set"):
        from refersam.data import open_dataset
        from refersam.evaluate import evaluate_model, evaluate_predictions
        from refersam.evaluate.output import write_evaluation
        from refersam.evaluate.processes import join_processes, leave_processes

        data = open_dataset(data_root, dataset, split, split_by, text_field=text_field.value)
        chosen = _choose_protocol(protocol, data)
        _check_judged(min_pixels, chosen)
    samples = data[:limit]
    workers = max(0, min(8, (os.cpu_count() or 1) - 1)) if workers is None else workers
    processes, lock = join_processes(device), WriteLock(out)
    predictor: ReferSamPredictor | None = None
    shared: dict[str, Any] = {
        "workers": workers, "min_pixels": min_pixels, "boundary": boundary, "processes": processes
    }  # fmt: skip
    try:
        if processes.is_main:
            lock.acquire()
        if predictions is None:
            predictor = console.load_predictor(model, processes.device or device, dtype.value)
            _set_text_limit(predictor, max_text_tokens)
        with _progress(processes) as tell:
            if predictions is not None:
                others = [sample.sample_id for sample in data]
                evaluation = evaluate_predictions(predictions, samples, chosen, others=others, progress=tell, **shared)
            elif predictor is not None:
                shared |= {"batch_size": batch_size, "no_target_threshold": no_target_threshold, "clicks": clicks}
                evaluation = evaluate_model(predictor, samples, chosen, progress=tell, **shared)
        if not processes.is_main:
            return
        source = {
            "model": None if predictions else model or "the bundled model",
            "predictions": str(predictions) if predictions else None,
            "data_root": str(data_root),
            "dataset": dataset,
            "split": split,
            "split_by": data.split_by,
            "text_field": text_field.value,
            "limit": limit,
        }
        with console.waiting("Writing the report"):
            document = write_evaluation(evaluation, source, out)
        _print_summary(document)
        console.say(f"{out}/ holds {', '.join(FILES)}")
        if predictor is not None and dataset != "sceneref":
            console.say_domain(predictor.domain)
    finally:
        lock.release()
        leave_processes()


def _check_options(context: typer.Context, has_predictions: bool, min_pixels: int, protocol: str | None) -> None:
    """Refuse what would be without effect."""
    sources = {name: getattr(context.get_parameter_source(name), "name", "") for name in MODEL_OPTIONS}
    idle = [name for name in MODEL_OPTIONS if has_predictions and sources[name] == "COMMANDLINE"]
    if idle:
        raise typer.BadParameter(f"--{idle[0].replace('_', '-')} is about a model, and --predictions is given.")
    if protocol is not None:
        from refersam.metrics import get_protocol

        _check_judged(min_pixels, get_protocol(protocol))


def _check_judged(min_pixels: int, protocol: Protocol) -> None:
    from refersam.metrics import PROTOCOLS

    if min_pixels and not protocol.judged:
        able = " or ".join(name for name, each in PROTOCOLS.items() if each.judged)
        raise typer.BadParameter(f"--min-pixels has a meaning for the protocol {able}, not for {protocol.name}.")


def _choose_protocol(name: str | None, data: ReferringDataset) -> Protocol:
    """The named one or the data set's own; before long work, one that cannot judge the data is refused."""
    from refersam.metrics import check_protocol, default_protocol, get_protocol

    flags = [sample.has_target for sample in data]
    protocol = default_protocol(data.name, flags) if name is None else get_protocol(name)
    check_protocol(protocol, flags)
    return protocol


def _set_text_limit(predictor: ReferSamPredictor, max_text_tokens: int | None) -> None:
    if max_text_tokens is None:
        return
    room = predictor.model.config.text_config.max_position_embeddings
    if max_text_tokens > room:
        raise DataError(f"--max-text-tokens is {max_text_tokens}, but the model has room for {room}: give fewer.")
    predictor.processor.max_text_tokens = max_text_tokens


@contextmanager
def _progress(processes: Processes) -> Iterator[Callable[[str, int, int], None]]:
    """Bars on a terminal, of the main process, whose share stands for all."""
    progress, bars = console.progress_bar(), dict[str, TaskID]()

    def tell(what: str, done: int, total: int) -> None:
        if processes.is_main:
            if not bars:
                progress.start()
            if what not in bars:
                bars[what] = progress.add_task(what, total=total)
            progress.update(bars[what], completed=done)

    try:
        yield tell
    finally:
        if bars:
            progress.stop()


def _print_summary(document: dict[str, Any]) -> None:
    source, counts = document["settings"], document["counts"]
    where = " ".join(filter(None, (source["dataset"], source["split_by"], source["split"])))
    asked = f"{counted(counts['phrases'], 'phrase')} about {counted(counts['images'], 'image')}"
    console.say(f"Protocol {document['protocol']}, {where}: {asked}")
    table = Table("metric")
    table.add_column("%", justify="right")
    for name, value in document["metrics"].items():
        table.add_row(name, f"{value:.2f}")
    console.out_console.print(table)
    if "clicks" in document:
        _print_clicks(document["clicks"])
    for note in document["notes"]:
        console.err_console.print(f"Note: {note}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def _print_clicks(curve: dict[str, Any]) -> None:
    table = Table("clicks")
    for name in ("mIoU", "oIoU"):
        table.add_column(f"{name}, %", justify="right")
    for count, values in enumerate(zip(curve["mIoU"], curve["oIoU"], strict=True)):
        table.add_row(str(count), *(f"{value:.2f}" for value in values))
    console.out_console.print(table)
    for name in (name for name in curve if name.startswith("NoC")):
        failed = counted(curve[name.replace("NoC", "failures")], "phrase")
        console.say(
            f"{name}: {curve[name]:.2f} clicks ({failed} of {curve['phrases']:,} not with {curve['most_clicks']})"
        )
