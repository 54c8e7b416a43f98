"""Compare an exported model with the model that it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from refersam.export.graph import ExportError, output_names
from refersam.inference.runtimes import Model
from refersam.model.refersam import ReferSamModel, ReferSamOutput
from refersam.processor import ReferSamProcessor

TOLERANCE = 1e-4
"""Largest accepted `relative_error` of an output."""

Inputs = tuple[Tensor, Tensor, Tensor]
"""pixel_values, input_ids and attention_mask."""


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
    """Result of an export.

    Attributes:
        cases: the float32 graph against the model, for several numbers of images and phrases, and lengths of text.
        megabytes: of all files.
        quantized: number of operations in int8; 0 without int8.
        agreement: with int8, mean IoU of its masks with the model's; 1 without.
    """

    cases: tuple[Comparison, ...]
    megabytes: float
    quantized: int = 0
    agreement: float = 1.0


def example_inputs(
    model: ReferSamModel, processor: ReferSamProcessor, shapes: Iterable[tuple[int, int, int, int]]
) -> Iterator[Inputs]:
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


def compare_all(model: ReferSamModel, exported: Model, cases: Sequence[Inputs]) -> tuple[Comparison, ...]:
    """Compare all cases.

    Raises:
        ExportError: an output differs by more than `TOLERANCE`.
    """
    compared = tuple(compare(model, exported, case) for case in cases)
    worst = max(compared, key=lambda case: case.error)
    if not worst.error <= TOLERANCE:
        raise ExportError(
            f"The exported model differs from the model by {worst.error:.1e}, more than {TOLERANCE:.0e}, at "
            f"{worst.height} x {worst.width} px with {worst.phrases} phrases: nothing was written."
        )
    return compared


def compare(model: ReferSamModel, exported: Model, case: Inputs) -> Comparison:
    """Compare the outputs of one call."""
    with torch.inference_mode():
        expected, got = model(*case), exported(*case)
    error = max(relative_error(expected, got, name) for name in output_names(model))
    (images, _, height, width), (phrases, tokens) = case[0].shape, case[1].shape
    return Comparison(images, phrases, tokens, height, width, error)


def relative_error(expected: ReferSamOutput, got: ReferSamOutput, name: str) -> float:
    """Return an output's largest difference divided by its largest value; infinite for NaN or another shape."""
    ours, theirs = expected[name], got[name]
    if ours.shape != theirs.shape or not torch.isfinite(theirs).all():
        return float("inf")
    return float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1e-12))


def mask_agreement(model: Model, exported: Model, inputs: Iterable[dict[str, Any]]) -> float:
    """Return the mean IoU of two models' masks over all phrases of the inputs; 1 where both are empty."""
    overlaps: list[float] = []
    for each in inputs:
        with torch.inference_mode():
            ours, theirs = (one(**each).mask_logits >= 0 for one in (model, exported))
        shared, either = ((ours & theirs).flatten(1).sum(1), (ours | theirs).flatten(1).sum(1))
        overlaps += torch.where(either > 0, shared / either.clamp(min=1), 1.0).tolist()
    return sum(overlaps) / len(overlaps)


def megabytes(folder: Path) -> float:
    """Return the size of a folder's files."""
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6
