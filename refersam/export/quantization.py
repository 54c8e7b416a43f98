"""An exported model in int8: weights per output channel, activations by their range at every call."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from refersam.export.graph import INLINE_BYTES, SCOPES_KEY, ExportError
from refersam.optional import require

KEPT_IN_FLOAT = ("text_encoder", "sampling_offsets", "attention_weights", "prompter", "mask_decoder", "object_score")
"""Modules whose rounding is seen in the masks, and whose share of the work is small."""


def quantize(source: Path, target: Path, kept: Iterable[str] = KEPT_IN_FLOAT) -> int:
    """Write an exported model again with int8 matrix products.

    Args:
        source: what `export_onnx` wrote; stays as it is.
        target: the new file.
        kept: modules, by a part of their names, that stay in float32.

    Returns:
        How many matrix products are in int8 now.

    Raises:
        ExportError: there is none.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    onnx = require("onnx", "onnx", "Exporting a model")
    require("onnxruntime", "onnx", "Exporting a model")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load_model(source, load_external_data=False)
    # A matrix for each head, as folded attention has them, has no scale per channel in ONNX Runtime.
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    chosen = [
        node.name
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm")
        and node.input[1] in weights
        and not any(name in _scopes(node) for name in kept)
    ]
    if not chosen:  # an empty list would mean all of them
        raise ExportError(f"{source} holds no matrix product that could be in int8.")
    large = source.stat().st_size > INLINE_BYTES or source.with_name(f"{source.name}.data").exists()
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a preparation that the exporter has done
    try:
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=chosen,
            use_external_data_format=large,
        )
    finally:
        root.setLevel(level)
    return len(chosen)


def _scopes(node: Any) -> str:
    return next((entry.value for entry in node.metadata_props if entry.key == SCOPES_KEY), "")
