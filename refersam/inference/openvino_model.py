"""A model exported for OpenVINO: a folder with two graphs, run by OpenVINO, called like `ReferSamModel`.

The folder may come from anywhere. Reading it runs no code: OpenVINO loads libraries of operators only where a program
names them. Graphs and weights are files of the folder itself, loops are refused, and settings are JSON.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refersam.checkpoints.folders import OPENVINO_FILE, load_config, load_processor
from refersam.checkpoints.registration import register_classes
from refersam.config import ReferSamConfig
from refersam.errors import CheckpointError, DeviceError, ReferSamError, one_line
from refersam.inference.onnx_model import NEEDED_OUTPUTS, OUTPUTS, Contents, OnnxModel, Settings
from refersam.model.refersam import ReferSamOutput
from refersam.optional import require
from refersam.processor import ReferSamProcessor
from refersam.reprs import OneLineRepr

EXTRA = "openvino"
FORMAT = 1
GRAPHS = ("image_encoder", "decoder")
"""Names of the two graphs, each a .xml file with its weights in a .bin file."""
FEATURES = ("patches", "pyramid", "detail")
"""Outputs of the image encoder and inputs of the decoder: fields of `ImageFeatures`."""
GUIDE = "guide"
"""Further input of the decoder for models whose upsampler uses the images."""

TEXT = ("input_ids", "attention_mask")

MAX_GRAPH_BYTES = 256 * 2**20
REFUSED_OPERATORS = frozenset({"Loop", "TensorIterator", "If"})
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


@dataclass(frozen=True, eq=False, repr=False)
class EncodedImages(OneLineRepr):
    """Text-independent features of I images, inputs of the decoder.

    Attributes:
        arrays: by the name of the decoder's input, each (I, ...).
    """

    arrays: Mapping[str, np.ndarray]

    @property
    def num_images(self) -> int:
        """I."""
        return len(self.arrays[FEATURES[0]])


class OpenVinoModel(OnnxModel):
    """Takes and gives float32 tensors on the CPU, as `ReferSamModel` does; from one thread at a time, others wait.

    Args:
        image_encoder: compiled graph of OpenVINO.
        decoder: likewise.
        config: of the model that was exported.
        num_parameters: of that model.
    """

    _other_sizes = "resize the image (ReferSamProcessor does)"

    def __init__(self, image_encoder: Any, decoder: Any, config: ReferSamConfig, num_parameters: int) -> None:
        self.config, self._num_parameters = config, num_parameters
        self._size = tuple(side.get_length() for side in image_encoder.inputs[0].partial_shape[2:])
        self._uses_guide = any(GUIDE in each.names for each in decoder.inputs)
        self._outputs = [output.any_name for output in decoder.outputs]
        self._requests = [graph.create_infer_request() for graph in (image_encoder, decoder)]
        self._lock = Lock()

    def encode_image(self, pixel_values: Tensor) -> EncodedImages:
        """Encode the text-independent features of (I, 3, H, W) images, for `image_features` of later calls.

        Raises:
            ValueError: another shape.
            ReferSamError: OpenVINO cannot run the graph.
        """
        self._check_images(pixel_values)
        pixels = pixel_values.cpu().float().contiguous().numpy()
        features = self._infer(0, {"pixel_values": pixels})
        return EncodedImages(features | {GUIDE: pixels} if self._uses_guide else features)

    def _run(self, features: Any, input_ids: Tensor, attention_mask: Tensor) -> ReferSamOutput:
        text = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        outputs = self._infer(1, {**features.arrays, **text})
        return ReferSamOutput(**{name: torch.from_numpy(outputs[name]) for name in self._outputs})

    def _infer(self, graph: int, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            with self._lock:
                outputs = self._requests[graph].infer(inputs, share_inputs=True)
        except RuntimeError as error:
            raise ReferSamError(f"OpenVINO could not run the exported model: {one_line(error)}.") from error
        return {output.any_name: array for output, array in outputs.items()}


def import_openvino(what: str) -> ModuleType:
    """Import OpenVINO without its usage statistics, which it would otherwise send over the network when imported.

    Args:
        what: needs it; begins the error's sentence.

    Raises:
        MissingExtraError: it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it were not installed
    return require("openvino", EXTRA, what)


def is_openvino(folder: Path) -> bool:
    """Return whether a folder holds a model exported for OpenVINO."""
    return (folder / OPENVINO_FILE).is_file()


def load_openvino(
    folder: Path, device: str | torch.device | None = None, dtype: str | torch.dtype = "float32"
) -> tuple[OpenVinoModel, ReferSamProcessor]:
    """Load an exported model and its processor. It runs on as many threads as torch does.

    Args:
        folder: as `refersam export openvino` wrote it.
        device: 'cpu' or None.
        dtype: precision of the computation: 'float32', or 'bfloat16' where the CPU has instructions for it. An int8
            model computes its quantised layers in int8 and the others in this precision.

    Raises:
        CheckpointError: no such folder, a broken or foreign one, or one that asks for more than a model needs.
        DeviceError: another device or precision.
        MissingExtraError: openvino is not installed.
    """
    if str(device or "cpu") not in ("cpu", "auto"):
        raise DeviceError(f"Device {str(device)!r} is not available for a model exported for OpenVINO: use 'cpu'.")
    precision = PRECISIONS.get(str(dtype).removeprefix("torch."))
    if precision is None:
        raise DeviceError(f"A model exported for OpenVINO computes in {' or '.join(PRECISIONS)}, not in {dtype}.")
    core = import_openvino("Running a model exported for OpenVINO").Core()
    settings = read_settings(folder)
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,  # processes with fewer threads than cores would share the first cores
    }
    graphs = read_graphs(folder, core)
    try:
        encoder, decoder = (core.compile_model(graph, "CPU", options) for graph in graphs)
    except RuntimeError as error:
        raise CheckpointError(f"OpenVINO cannot load {folder}: {one_line(error)}.") from error
    return OpenVinoModel(encoder, decoder, settings.config, settings.num_parameters), settings.processor


def read_contents(folder: Path) -> tuple[Settings, Contents]:
    """Return the settings of an exported model, and what its files hold; nothing is run.

    Raises:
        CheckpointError: as of `load_openvino`.
        MissingExtraError: openvino is not installed.
    """
    core = import_openvino("Reading a model exported for OpenVINO").Core()
    operations = (operation for graph in read_graphs(folder, core) for operation in graph.get_ops())
    counts = Counter[str]()
    for operation in operations:
        if operation.get_type_name() == "Constant":
            counts[operation.get_element_type().to_dtype().name] += math.prod(operation.shape)
    return read_settings(folder), Contents(dict(counts), tuple(folder / f"{name}.bin" for name in GRAPHS))


def read_settings(folder: Path) -> Settings:
    """Return the settings of an exported model.

    Raises:
        CheckpointError: a broken or foreign folder.
    """
    register_classes()  # transformers finds the image processor by its registration
    path = folder / OPENVINO_FILE
    try:
        settings = json.loads(path.read_bytes())
        known, parameters = settings["format"] == FORMAT, int(settings["parameters"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read: {one_line(error)}.") from error
    if not known:
        raise CheckpointError(f"{path} is of another format: export the model again with this version of refersam.")
    config, place = load_config(str(folder))
    return Settings(config, load_processor(str(folder), config, place), parameters)


def read_graphs(folder: Path, core: Any) -> list[Any]:
    """Read both graphs as `openvino.Model`, and check that they are a ReferSAM model's.

    Raises:
        CheckpointError: a missing, broken or foreign file, or a link to one.
    """
    graphs = []
    for name in GRAPHS:
        files = [folder / f"{name}{suffix}" for suffix in (".xml", ".bin")]
        for file in files:
            if not file.is_file() or file.is_symlink():
                raise CheckpointError(f"{file} is missing, or a link: a file in the model's folder is expected.")
        if files[0].stat().st_size > MAX_GRAPH_BYTES:
            raise CheckpointError(f"{files[0]} has more than {MAX_GRAPH_BYTES >> 20} MB.")
        try:
            graph = core.read_model(*files)
        except RuntimeError as error:
            raise CheckpointError(f"{files[0]} is not a graph of OpenVINO, or a broken one.") from error
        refused = sorted({op.get_type_name() for op in graph.get_ops()} & REFUSED_OPERATORS)
        if refused:
            raise CheckpointError(
                f"{files[0]} holds {refused[0]}, which no exported ReferSAM model does: it is not run."
            )
        graphs.append(graph)
    needed = [({"pixel_values"}, set(FEATURES)), ({*FEATURES, *TEXT}, NEEDED_OUTPUTS)]
    most = [({"pixel_values"}, set(FEATURES)), ({*FEATURES, *TEXT, GUIDE}, set(OUTPUTS))]
    found = [tuple({name for each in ends for name in each.names} for ends in (g.inputs, g.outputs)) for g in graphs]
    fits = all(
        least <= names <= largest
        for names, least, largest in zip(chain(*found), chain(*needed), chain(*most), strict=True)
    )
    if not fits or graphs[0].inputs[0].partial_shape[2:].is_dynamic:
        raise CheckpointError(f"The graphs in {folder} have other inputs and outputs than a ReferSAM model.")
    return graphs
