"""A ReferSAM model as one graph, for any number of images, phrases and tokens, and, if wanted, any size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from refersam.config import SIZE_MULTIPLE
from refersam.errors import ReferSamError
from refersam.inference.onnx_model import OUTPUTS
from refersam.model.attention import AttentionProjections
from refersam.model.fast import reassociation
from refersam.model.refersam import ReferSamModel
from refersam.optional import require
from refersam.processor import MAX_SIDE

INLINE_BYTES = 1_800_000_000
"""Larger weights are in a second file beside the .onnx file, which cannot exceed 2 GB."""

OPSET = 20
"""ONNX operator set: the first whose GridSample, GELU and the rest need no help."""

MAX_COUNT = 1024
"""Most images, and most phrases, in a batch; a bound that the exporter wants named."""


class ExportError(ReferSamError, RuntimeError):
    """A model that cannot be exported, or whose export computes something else."""


class NamedOutputs(nn.Module):
    """The model with its outputs as a tuple, in the order of `names`.

    Args:
        model: in evaluation mode.
        names: of fields of `ReferSamOutput`.
    """

    def __init__(self, model: ReferSamModel, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """As the model's."""
        output = self.model(pixel_values, input_ids, attention_mask)
        return tuple(output[name] for name in self.names)


def output_names(model: ReferSamModel) -> tuple[str, ...]:
    """Those that an exported file of the model has: all but the coarse mask, which only the loss sees."""
    has_score = model.config.object_score_head
    return tuple(
        name for name in OUTPUTS if name != "coarse_mask_logits" and (has_score or name != "object_score_logits")
    )


@contextmanager
def recorded_forms(model: nn.Module) -> Iterator[None]:
    """Calls of the model inside settle which form each attention has in an exported graph: the one it takes here."""

    def record(attention: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        known = cast(AttentionProjections, attention)
        known.reassociated_in_export = reassociation.pays(known, inputs[0].shape[1], inputs[1].shape[1])

    attentions = [part for part in model.modules() if isinstance(part, AttentionProjections)]
    hooks = [part.register_forward_pre_hook(record) for part in attentions]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def trace(model: ReferSamModel, size: tuple[int, int] | None) -> Any:
    """The model as an `onnxscript.ir.Model`.

    Args:
        model: in evaluation mode, in float32 on the CPU, its forms recorded.
        size: (height, width) of its images; None for any multiples of 32.

    Raises:
        MissingExtraError: onnx or onnxscript is not installed.
    """
    for package in ("onnx", "onnxscript"):
        require(package, "onnx", "Exporting a model")
    open_size = torch.export.Dim
    most_tokens = model.config.text_config.max_position_embeddings
    dimensions: dict[int, Any] = {}
    if size is None:
        size, most = (
            (4 * SIZE_MULTIPLE, 5 * SIZE_MULTIPLE),
            MAX_SIDE // SIZE_MULTIPLE,
        )  # an example with sides that differ
        rows, columns = (open_size(name, min=1, max=most) for name in ("rows", "columns"))
        dimensions = {2: SIZE_MULTIPLE * rows, 3: SIZE_MULTIPLE * columns}
    images, phrases = (open_size(name, min=1, max=MAX_COUNT) for name in ("images", "phrases"))
    tokens = open_size("tokens", min=1, max=most_tokens)
    ids = torch.ones(4, most_tokens, dtype=torch.long)  # several images, and several phrases for each
    names = output_names(model)
    with torch.no_grad():
        program = torch.export.export(
            NamedOutputs(model, names),
            (torch.zeros(2, 3, *size), ids, ids.clone()),  # one tensor twice would become one input
            dynamic_shapes=({0: images, **dimensions}, {0: phrases, 1: tokens}, {0: phrases, 1: tokens}),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        exported = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, output_names=names, optimize=False, verbose=False
        )
    if exported is None:
        raise RuntimeError("torch.onnx.export gave no program.")
    _tidy(exported.model)
    return exported.model


def _tidy(graph: Any) -> None:
    """Inline functions and compute what is constant; ONNX Runtime fuses the rest when it loads the file.

    Transposed weights, too, are stored as they are multiplied: loading is faster. The exporter's own optimisation is
    left out: its search for patterns takes minutes, growing with the graph's square.
    """
    from onnxscript import ir, optimizer

    optimizer.inline(graph)
    optimizer.fold_constants(graph, should_fold=lambda node: True if node.op_type == "Transpose" else None)
    optimizer.remove_unused_nodes(graph)
    optimizer.remove_unused_functions(graph)
    common = ir.passes.common
    common.RemoveUnusedOpsetsPass()(graph)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
    common.DeduplicateInitializersPass()(graph)
    common.NameFixPass()(graph)
    for node in graph.graph:  # the exporter notes every call with the paths of its machine
        node.metadata_props.clear()
