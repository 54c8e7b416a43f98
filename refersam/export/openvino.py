"""Write a model as a folder with two graphs for OpenVINO, in float32 or int8, compared with the model it comes from."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from refersam.checkpoints.folders import OPENVINO_FILE
from refersam.errors import DataError
from refersam.export.comparison import ExportReport, compare_all, example_inputs, mask_agreement, megabytes
from refersam.export.graph import MAX_COUNT, ExportError, output_names, recorded_forms
from refersam.files import WriteLock, check_space, errors_named, replace_folder
from refersam.image import ImageSource
from refersam.inference.openvino_model import (
    EXTRA,
    FEATURES,
    FORMAT,
    GRAPHS,
    GUIDE,
    TEXT,
    OpenVinoModel,
    import_openvino,
    is_openvino,
    load_openvino,
)
from refersam.model.interactor import ImageFeatures
from refersam.model.pyramid import PyramidGeometry
from refersam.model.refersam import ReferSamModel
from refersam.optional import require
from refersam.processor import ReferSamProcessor

LEAST_AGREEMENT = 0.9
"""An int8 model whose masks overlap less with the model's own is not written."""

QUANTISED = ("vision_encoder", "pyramid_ffn", "value_proj", "level_projections")
"""Modules, by a part of their names, whose linear layers are in int8: most of the work. Rounding others changes masks
(docs/performance.md)."""
LINEAR = "aten.linear.default/MatMul"
"""End of the names of linear layers' products. The others are between activations, as in attention."""
KEPT_TYPES = ("Convolution", "ConvolutionBackpropData", "Interpolate", "ScaledDotProductAttention")
"""Operations that lose the masks in int8: convolutions of the spatial prior, whose norms see a whole map; the guided
filter's functions; and attention with relative positions as channels of wide ranges."""
WHAT = "Exporting for OpenVINO"
HELD_OUT = 8
"""Every so many-th calibration image is left out of the calibration, to compare masks on."""

Samples = Sequence[tuple[ImageSource, Sequence[str]]]
"""Images with phrases."""


class ImageEncoder(nn.Module):
    """`ReferSamModel.encode_image` with a tuple of tensors as its output."""

    def __init__(self, model: ReferSamModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Return the `FEATURES`."""
        features = self.model.encode_image(pixel_values)
        return tuple(getattr(features, name) for name in FEATURES)


class Decoder(nn.Module):
    """`ReferSamModel.forward` with the `FEATURES`, and the guide where it is used, as further inputs.

    Args:
        model: in evaluation mode.
        size: (height, width) of the images.
    """

    def __init__(self, model: ReferSamModel, size: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.size = model, size

    def forward(
        self,
        patches: Tensor,
        pyramid: Tensor,
        detail: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        *guide: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the outputs in the order of `output_names`."""
        geometry = PyramidGeometry.of_image(*self.size, patches.device)
        features = ImageFeatures(geometry, patches, pyramid, detail, *guide)
        output = self.model(None, input_ids, attention_mask, image_features=features)
        return tuple(output[name] for name in output_names(self.model))


def export_openvino(
    model: ReferSamModel, processor: ReferSamProcessor, folder: Path, *, calibration: Samples | None = None
) -> ExportReport:
    """Write a model as a folder for OpenVINO: two graphs, configuration, processor and tokenizer.

    Nothing is written where a comparison with the model fails.

    Args:
        model: in float32 on the CPU; put into evaluation mode.
        processor: of the model; its size is that of the images.
        folder: new, empty, or with an earlier export, which is replaced.
        calibration: for int8, images with phrases like those that the model will be used for, a hundred or so; None
            for float32.

    Raises:
        ExportError: the export computes something else.
        DataError: other files are in the folder, or another process is writing it.
        MissingExtraError: openvino or nncf is not installed.
        OSError: the disk has no room for the files; found before the work where their size is known.
        ValueError: calibration is empty.
    """
    if calibration is not None and not calibration:
        raise ValueError("int8 needs images with phrases for calibration, but there are none.")
    if folder.exists() and not (is_openvino(folder) or (folder.is_dir() and not any(folder.iterdir()))):
        raise DataError(f"{folder} exists and holds no earlier export: name a new folder.")
    import_openvino(WHAT)
    check_space(folder, 4 * model.num_parameters() * (1 if calibration is None else 2))
    model.eval()
    size = (processor.image_processor.size["height"], processor.image_processor.size["width"])
    cases = list(example_inputs(model, processor, [(1, 1, *size), (1, 3, *size), (2, 4, *size)]))
    with torch.inference_mode(), recorded_forms(model):
        model(*cases[0])
    graphs = convert(model, size)
    with (
        WriteLock.for_path(folder),
        tempfile.TemporaryDirectory(prefix=f".{folder.name[:40]}.", dir=folder.parent) as temporary,
        errors_named(folder, temporary),
    ):
        written = Path(temporary) / "float32"
        _save(model, processor, graphs, written)
        exported, _ = load_openvino(written, "cpu")
        report = ExportReport(compare_all(model, exported, cases), megabytes(written))
        if calibration is not None:
            inputs = [processor(images=image, text=list(phrases)) for image, phrases in calibration]
            graphs, count = quantize(graphs, exported, inputs)
            written = Path(temporary) / "int8"  # OpenVINO may still read the other one
            _save(model, processor, graphs, written)
            agreement = mask_agreement(model, load_openvino(written, "cpu")[0], inputs[::HELD_OUT])
            if not agreement >= LEAST_AGREEMENT:
                raise ExportError(
                    f"The masks of the int8 model overlap with the model's by {agreement:.3f} only (mean IoU), less "
                    f"than {LEAST_AGREEMENT}: nothing was written, export without int8."
                )
            report = ExportReport(report.cases, megabytes(written), count, agreement)
        replace_folder(written, folder)
    return report


def _save(model: ReferSamModel, processor: ReferSamProcessor, graphs: Sequence[Any], folder: Path) -> None:
    openvino = import_openvino(WHAT)
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    for graph, name in zip(graphs, GRAPHS, strict=True):
        openvino.save_model(graph, folder / f"{name}.xml", compress_to_fp16=False)
    settings = {"format": FORMAT, "parameters": model.num_parameters()}
    (folder / OPENVINO_FILE).write_text(json.dumps(settings), encoding="utf-8")


def convert(model: ReferSamModel, size: tuple[int, int]) -> list[Any]:
    """Convert a model into the `GRAPHS`, as `openvino.Model`, for any number of images, phrases and tokens.

    Args:
        model: in evaluation mode, in float32 on the CPU, its attention forms recorded.
        size: (height, width) of the images.
    """
    openvino = import_openvino(WHAT)
    images, phrases = (torch.export.Dim(name, min=1, max=MAX_COUNT) for name in ("images", "phrases"))
    longest = model.config.text_config.max_position_embeddings
    text_axes = {0: phrases, 1: torch.export.Dim("tokens", min=1, max=longest)}
    pixels, ids = torch.zeros(2, 3, *size), torch.ones(4, longest, dtype=torch.long)
    guide = [pixels] if model.upsampler.uses_guide else []
    graphs = []
    with torch.no_grad():
        features = ImageEncoder(model)(pixels)
        inputs = (*features, ids, ids.clone(), *guide)  # one tensor twice would become one input
        axes = ({0: images}, {0: images}, {0: images}, text_axes, text_axes, tuple({0: images} for _ in guide))
        for module, arguments, dimensions, names in (
            (ImageEncoder(model), (pixels,), ({0: images},), (("pixel_values",), FEATURES)),
            (Decoder(model, size), inputs, axes, ((*FEATURES, *TEXT, GUIDE), output_names(model))),
        ):
            program = torch.export.export(
                module,
                arguments,
                dynamic_shapes=dimensions,
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
            graph = openvino.convert_model(program)
            _name(graph, program, names)
            shapes = [[-1, *([-1] if each.dtype == torch.long else each.shape[1:])] for each in arguments]
            graph.reshape({index: openvino.PartialShape(shape) for index, shape in enumerate(shapes)})
            graphs.append(graph)
    return graphs


def _name(graph: Any, program: torch.export.ExportedProgram, names: tuple[Sequence[str], Sequence[str]]) -> None:
    """Name inputs and outputs, and each operation by the module that it comes from."""
    for ends, given in zip((graph.inputs, graph.outputs), names, strict=True):
        for end, name in zip(ends, given, strict=False):
            end.get_tensor().set_names({name})
    modules = {
        node.name: list(node.meta["nn_module_stack"].values())[-1][0]
        for node in program.graph.nodes
        if node.meta.get("nn_module_stack")
    }
    for operation in graph.get_ops():
        name = operation.get_friendly_name()
        if (module := modules.get(name.split("/")[0])) is not None:
            operation.set_friendly_name(f"{module}/{name}")


def quantize(
    graphs: Sequence[Any], exported: OpenVinoModel, inputs: Sequence[dict[str, Tensor]]
) -> tuple[list[Any], int]:
    """Quantise both graphs to int8: weights per channel, activations by their ranges on the inputs.

    Args:
        graphs: of `convert`.
        exported: the same, compiled: computes the decoder's inputs.
        inputs: of the model; every `HELD_OUT`-th is left out.

    Returns:
        The graphs, and the number of operations in int8.

    Raises:
        MissingExtraError: nncf is not installed.
    """
    nncf = require("nncf", EXTRA, "Exporting in int8")
    used = [each for index, each in enumerate(inputs) if index % HELD_OUT] or list(inputs)

    def decoder_inputs(each: dict[str, Tensor]) -> dict[str, Any]:
        return {**exported.encode_image(each["pixel_values"]).arrays, **{name: each[name].numpy() for name in TEXT}}

    quantised = []
    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # progress bars
        for graph, transform in zip(
            graphs, (lambda each: {"pixel_values": each["pixel_values"].numpy()}, decoder_inputs), strict=True
        ):
            quantised.append(
                nncf.quantize(
                    graph,
                    nncf.Dataset(used, transform),
                    subset_size=len(used),
                    model_type=nncf.ModelType.TRANSFORMER,
                    preset=nncf.QuantizationPreset.MIXED,
                    ignored_scope=nncf.IgnoredScope(
                        names=[operation.get_friendly_name() for operation in graph.get_ops() if _is_kept(operation)],
                        types=list(KEPT_TYPES),
                        validate=False,
                    ),
                    advanced_parameters=nncf.AdvancedQuantizationParameters(
                        smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
                    ),
                )
            )
    operations = (operation for graph in quantised for operation in graph.get_ops())
    return quantised, sum(map(_is_int8, operations))


def _is_kept(operation: Any) -> bool:
    """Return whether a product stays in float32."""
    name = operation.get_friendly_name()
    quantised = LINEAR in name and any(part in name for part in QUANTISED)
    return operation.get_type_name() == "MatMul" and not quantised


def _is_int8(operation: Any) -> bool:
    """Return whether a product has a quantised input."""
    if operation.get_type_name() != "MatMul":
        return False
    return operation.input_value(0).get_node().get_type_name() == "FakeQuantize"
