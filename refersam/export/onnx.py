"""Writing an exported model, compared on the spot with the model it comes from."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from refersam.data.sample import ReferringImage
from refersam.export.graph import INLINE_BYTES, ExportError, output_names, recorded_forms, trace
from refersam.files import WriteLock, check_space, errors_named
from refersam.inference.onnx_model import CONFIG_KEY, FORMAT, FORMAT_KEY, PROCESSOR_KEYS, OnnxModel, load_onnx
from refersam.model.refersam import ReferSamModel, ReferSamOutput
from refersam.processor import ReferSamProcessor

TOLERANCE = 1e-4
"""Most `relative_error` of an output."""

LEAST_AGREEMENT = 0.9
"""An int8 model whose masks overlap less with the model's own is not written."""


@dataclass(frozen=True)
class Comparison:
    """One call of the exported model against the same call of the model.

    Attributes:
        images: I.
        phrases: B.
        tokens: S.
        height: of the input, in pixels.
        width: likewise.
        error: the largest of `relative_error` of the outputs.
    """

    images: int
    phrases: int
    tokens: int
    height: int
    width: int
    error: float


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how it compares.

    Attributes:
        cases: the float32 graph against the model, for several sizes, numbers of images and phrases, lengths of text.
        megabytes: of the file, or of the two.
        quantized: matrix products in int8; 0 without.
        agreement: with int8, mean IoU of its masks with the model's, over the phrases of the samples.
    """

    cases: tuple[Comparison, ...]
    megabytes: float
    quantized: int = 0
    agreement: float = 1.0


def export_onnx(
    model: ReferSamModel,
    processor: ReferSamProcessor,
    path: Path,
    *,
    any_size: bool = False,
    int8: bool = False,
    samples: Sequence[ReferringImage] = (),
) -> ExportReport:
    """Write a model as one .onnx file, with its settings and tokenizer inside.

    Weights beyond 1.8 GB lie in a second file, `NAME.onnx.data`. Nothing is left where a comparison fails.

    Args:
        model: in float32 on the CPU; put into evaluation mode.
        processor: of the model.
        path: ends in .onnx.
        any_size: for inputs of any size in multiples of 32; without it, of the processor's own, which is faster.
        int8: matrix products in int8 (see `refersam.export.quantization`).
        samples: with int8, images with phrases of the model's domain, on which its masks are compared.

    Raises:
        ExportError: the export computes something else.
        DataError: another process is writing the file.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        OSError: the disk has no room for the file; found before the work where its size is known.
        ValueError: another suffix, or int8 without samples.
    """
    if int8 and not samples:
        raise ValueError("int8 needs samples, images with phrases to compare masks on, but there are none.")
    if path.suffix != ".onnx":
        raise ValueError(f"The name of an exported model must end in .onnx, but is {path.name!r}.")
    weights = 4 * model.num_parameters()  # beside one another until the end: as float32, and as int8
    check_space(path, weights + weights // 2 if int8 else weights)
    model.eval()
    size = (processor.image_processor.size["height"], processor.image_processor.size["width"])
    shapes = [(1, 1, *size), (1, 3, *size), (2, 4, *size)]
    if any_size:
        shapes += [(1, 3, 64, 96), (2, 2, 160, 128), (2, 4, 96, 32)]
    cases = list(_cases(model, processor, shapes))
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
        written = Path(folder) / "float32" / path.name
        _save(graph, written)
        del graph
        compared = tuple(compare(model, load_onnx(written, "cpu")[0], case) for case in cases)
        _check(compared)
        report = ExportReport(compared, _megabytes(written.parent))
        if int8:
            from refersam.export.quantization import quantize

            smaller = Path(folder) / "int8" / path.name
            smaller.parent.mkdir()
            count = quantize(written, smaller)
            agreement = mask_agreement(model, load_onnx(smaller, "cpu")[0], processor, samples)
            if not agreement >= LEAST_AGREEMENT:
                raise ExportError(
                    f"The masks of the int8 model overlap with the model's by {agreement:.3f} only (mean IoU on "
                    f"{len(samples)} images), less than {LEAST_AGREEMENT}: nothing was written, export without int8."
                )
            report = ExportReport(compared, _megabytes(smaller.parent), count, agreement)
            written = smaller
        for file in sorted(written.parent.iterdir(), key=lambda file: file == written):  # weights before their graph
            file.replace(path.parent / file.name)
    return report


def mask_agreement(
    model: ReferSamModel, exported: OnnxModel, processor: ReferSamProcessor, samples: Iterable[ReferringImage]
) -> float:
    """Return the mean IoU of two models' masks over the phrases of the samples; 1 where both are empty."""
    overlaps: list[float] = []
    for sample in samples:
        inputs = processor(images=sample.image, text=sample.phrases)
        with torch.inference_mode():
            ours, theirs = (each(**inputs).mask_logits >= 0 for each in (model, exported))
        shared, either = ((ours & theirs).flatten(1).sum(1), (ours | theirs).flatten(1).sum(1))
        overlaps += torch.where(either > 0, shared / either.clamp(min=1), 1.0).tolist()
    return sum(overlaps) / len(overlaps)


def settings(model: ReferSamModel, processor: ReferSamProcessor) -> dict[str, str]:
    """The metadata of the file: what is needed to run it without anything else."""
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        files = {key: (Path(folder) / key).read_text(encoding="utf-8") for key in PROCESSOR_KEYS}
    config = json.dumps(model.config.to_dict(), default=str)
    return {FORMAT_KEY: FORMAT, CONFIG_KEY: config, "parameters": str(model.num_parameters()), **files}


def compare(model: ReferSamModel, exported: OnnxModel, case: tuple[Tensor, Tensor, Tensor]) -> Comparison:
    """Call both."""
    with torch.inference_mode():
        expected, got = model(*case), exported(*case)
    error = max(relative_error(expected, got, name) for name in output_names(model))
    (images, _, height, width), (phrases, tokens) = case[0].shape, case[1].shape
    return Comparison(images, phrases, tokens, height, width, error)


def relative_error(expected: ReferSamOutput, got: ReferSamOutput, name: str) -> float:
    """An output's largest difference by its largest value; infinite if it is missing."""
    ours, theirs = expected[name], got[name]
    if ours.shape != theirs.shape or not torch.isfinite(theirs).all():
        return float("inf")
    return float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1e-12))


def _check(compared: tuple[Comparison, ...]) -> None:
    worst = max(compared, key=lambda case: case.error)
    if not worst.error <= TOLERANCE:
        raise ExportError(
            f"The exported model differs from the model by {worst.error:.1e}, more than {TOLERANCE:.0e}, at "
            f"{worst.height} x {worst.width} px with {worst.phrases} phrases: nothing was written."
        )


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6


def _save(graph: Any, path: Path) -> None:
    from onnxscript import ir

    path.parent.mkdir()
    size = sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value is not None)
    ir.save(graph, path, external_data=f"{path.name}.data" if size > INLINE_BYTES else None)


def _cases(
    model: ReferSamModel, processor: ReferSamProcessor, shapes: Sequence[tuple[int, int, int, int]]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Inputs for (images, phrases, height, width), the longest text first, then shorter ones, some of them padded."""
    longest = min(processor.max_text_tokens, model.config.text_config.max_position_embeddings)
    random = torch.Generator().manual_seed(0)
    for index, (images, phrases, height, width) in enumerate(shapes):
        tokens = longest if index % 2 == 0 else min(5, longest)
        pixels = torch.randn(images, 3, height, width, generator=random)
        ids = torch.randint(model.config.text_config.vocab_size, (phrases, tokens), generator=random)
        lengths = torch.randint(3, tokens + 1, (phrases, 1), generator=random)
        lengths[0] = tokens
        yield pixels, ids, (torch.arange(tokens) < lengths).long()


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
