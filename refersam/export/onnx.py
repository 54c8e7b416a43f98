"""Write an exported model as one .onnx file, compared on the spot with the model it comes from."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from refersam.export.comparison import ExportReport, compare_all, example_inputs, megabytes
from refersam.export.graph import INLINE_BYTES, recorded_forms, trace
from refersam.files import WriteLock, check_space, errors_named
from refersam.inference.onnx_model import CONFIG_KEY, FORMAT, FORMAT_KEY, PROCESSOR_KEYS, load_onnx
from refersam.model.refersam import ReferSamModel
from refersam.processor import ReferSamProcessor


def export_onnx(
    model: ReferSamModel, processor: ReferSamProcessor, path: Path, *, any_size: bool = False
) -> ExportReport:
    """Write a model as one .onnx file, with its settings and tokenizer inside.

    Weights beyond 1.8 GB lie in a second file, `NAME.onnx.data`. Nothing is left where a comparison fails.

    Args:
        model: in float32 on the CPU; put into evaluation mode.
        processor: of the model.
        path: ends in .onnx.
        any_size: for inputs of any size in multiples of 32; without it, of the processor's own, which is faster.

    Raises:
        ExportError: the export computes something else.
        DataError: another process is writing the file.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        OSError: the disk has no room for the file; found before the work where its size is known.
        ValueError: another suffix.
    """
    if path.suffix != ".onnx":
        raise ValueError(f"The name of an exported model must end in .onnx, but is {path.name!r}.")
    check_space(path, 4 * model.num_parameters())
    model.eval()
    size = (processor.image_processor.size["height"], processor.image_processor.size["width"])
    shapes = [(1, 1, *size), (1, 3, *size), (2, 4, *size)]
    if any_size:
        shapes += [(1, 3, 64, 96), (2, 2, 160, 128), (2, 4, 96, 32)]
    cases = list(example_inputs(model, processor, shapes))
    with torch.inference_mode(), recorded_forms(model):
        model(*cases[0])
    with _quiet():
        graph = trace(model, None if any_size else size)
    graph.metadata_props.update(settings(model, processor))
    with (
        WriteLock.for_path(path),
        tempfile.TemporaryDirectory(prefix=f".{path.name[:40]}.", dir=path.parent) as folder,
        errors_named(path, folder),
    ):
        written = Path(folder) / path.name
        _save(graph, written)
        del graph
        report = ExportReport(compare_all(model, load_onnx(written, "cpu")[0], cases), megabytes(written.parent))
        for file in sorted(written.parent.iterdir(), key=lambda file: file == written):  # weights before their graph
            file.replace(path.parent / file.name)
    return report


def settings(model: ReferSamModel, processor: ReferSamProcessor) -> dict[str, str]:
    """The metadata of the file: what is needed to run it without anything else."""
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        files = {key: (Path(folder) / key).read_text(encoding="utf-8") for key in PROCESSOR_KEYS}
    config = json.dumps(model.config.to_dict(), default=str)
    return {FORMAT_KEY: FORMAT, CONFIG_KEY: config, "parameters": str(model.num_parameters()), **files}


def _save(graph: Any, path: Path) -> None:
    from onnxscript import ir

    size = sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value is not None)
    ir.save(graph, path, external_data=f"{path.name}.data" if size > INLINE_BYTES else None)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of its progress and of its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
