"""An exported model: one .onnx file with its settings and tokenizer, run by ONNX Runtime, called like `ReferSamModel`.

The file may come from anywhere. It is read as data: it can neither name code to load nor reach files outside its
folder, and loops are refused, so that the work is bounded by the graph and the size of the image.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

import torch
from torch import Tensor

from refersam.checkpoints.registration import register_classes
from refersam.config import ReferSamConfig
from refersam.errors import CheckpointError, DeviceError, ReferSamError, one_line
from refersam.model.refersam import ReferSamOutput, check_images, check_text
from refersam.optional import require
from refersam.processor import ReferSamProcessor, check_room
from refersam.reprs import OneLineRepr

EXTRA = "onnx"
FORMAT_KEY, FORMAT = "refersam", "1"
CONFIG_KEY = "config.json"
PROCESSOR_KEYS = ("processor_config.json", "tokenizer.json", "tokenizer_config.json")
"""Keys of the file's metadata: the files of a model's folder, whole."""

INPUTS = ("pixel_values", "input_ids", "attention_mask")
OUTPUTS = ("mask_logits", "low_res_mask_logits", "coarse_mask_logits", "iou_scores", "object_score_logits")
NEEDED_OUTPUTS = frozenset({"mask_logits", "low_res_mask_logits", "iou_scores"})

MAX_FILE_BYTES = 2**31
"""An ONNX file cannot be larger; weights beyond that lie in a second file beside it."""
MAX_SETTINGS_BYTES = 64 * 2**20
OPERATOR_SETS = frozenset({"", "ai.onnx", "com.microsoft"})
SLOW_FUSIONS = ["SkipLayerNormFusion", "BiasGeluFusion"]
"""What ONNX Runtime puts together by itself, and then runs slower on a CPU than apart (docs/performance.md)."""
REFUSED_OPERATORS = frozenset({"Loop", "Scan", "If", "SequenceMap"})


@dataclass(frozen=True, eq=False, repr=False)
class Images(OneLineRepr):
    """What `OnnxModel.encode_image` gives: the images themselves, since an exported model runs in one piece.

    Attributes:
        pixel_values: (I, 3, H, W).
    """

    pixel_values: Tensor

    @property
    def num_images(self) -> int:
        """I."""
        return self.pixel_values.shape[0]


class OnnxModel:
    """Takes and gives tensors on the CPU, as `ReferSamModel` does.

    Args:
        session: of ONNX Runtime.
        config: of the model that was exported.
        num_parameters: of that model.
    """

    without_clicks = "This model was exported without clicks: load the model that it was exported from instead."
    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, session: Any, config: ReferSamConfig, num_parameters: int) -> None:
        self.config = config
        self._session, self._num_parameters = session, num_parameters
        self._outputs = [output.name for output in session.get_outputs()]
        self._size = next(tuple(each.shape[2:]) for each in session.get_inputs() if each.name == INPUTS[0])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._num_parameters:,} parameters)"

    def _check_images(self, pixel_values: Tensor) -> None:
        check_images(pixel_values)
        height, width = pixel_values.shape[2:]
        for side, own in zip((height, width), self._size, strict=True):
            if isinstance(own, int) and side != own:
                raise ValueError(
                    f"This exported model takes images of {' x '.join(map(str, self._size))} px, but one has "
                    f"{height} x {width}: {self._other_sizes}."
                )

    _other_sizes = "export it with --any-size for others"

    def num_parameters(self) -> int:
        """Of the model that was exported."""
        return self._num_parameters

    def eval(self) -> Self:
        """Itself: it is always ready to answer."""
        return self

    def encode_image(self, pixel_values: Tensor) -> Any:
        """(I, 3, H, W) images for `image_features`; saves no time, since an exported model runs in one piece.

        Raises:
            ValueError: another shape.
        """
        self._check_images(pixel_values)
        return Images(pixel_values)

    def __call__(
        self,
        pixel_values: Tensor | None,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        image_features: Any = None,
    ) -> ReferSamOutput:
        """As `ReferSamModel.forward`, without clicks.

        Raises:
            ValueError: shapes that do not fit, neither pixel_values nor image_features, or both.
            ReferSamError: the runtime cannot run the file.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if (pixel_values is None) == (image_features is None):
            raise ValueError("Either pixel_values or image_features must be given, not both or neither.")
        if pixel_values is not None:
            image_features = self.encode_image(pixel_values)
        check_text(image_features.num_images, input_ids, attention_mask)
        return self._run(image_features, input_ids.cpu().long(), attention_mask.cpu().long())

    def _run(self, features: Any, input_ids: Tensor, attention_mask: Tensor) -> ReferSamOutput:
        tensors = (features.pixel_values.cpu().float(), input_ids, attention_mask)
        feeds = {name: tensor.numpy() for name, tensor in zip(INPUTS, tensors, strict=True)}
        try:
            results = self._session.run(self._outputs, feeds)
        except Exception as error:  # of kinds that ONNX Runtime keeps to itself
            raise ReferSamError(f"ONNX Runtime could not run the exported model: {one_line(error)}.") from error
        named = zip(self._outputs, results, strict=True)
        return ReferSamOutput(**{name: torch.from_numpy(result) for name, result in named})


def load_onnx(
    path: Path, device: str | torch.device | None = None, dtype: str | torch.dtype = "float32"
) -> tuple[OnnxModel, ReferSamProcessor]:
    """Load an exported model and its processor. It runs on as many threads as torch does.

    Args:
        path: what `refersam export onnx` wrote.
        device: 'cpu', or 'cuda' with onnxruntime-gpu; None for the best there is.
        dtype: 'float32': the dtype is chosen when a model is exported.

    Raises:
        CheckpointError: no such file, a broken or foreign one, or one that asks for more than a model needs.
        DeviceError: another device or dtype.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    if dtype not in ("float32", torch.float32):
        raise DeviceError(f"{path} is an exported model, whose dtype is fixed: leave the format at float32.")
    runtime = require("onnxruntime", EXTRA, "Running an exported model")
    providers = _providers(device, runtime.get_available_providers())
    settings = read_settings(path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    try:
        session = runtime.InferenceSession(
            os.fspath(path),
            options,
            providers=providers,
            disabled_optimizers=SLOW_FUSIONS if providers == ["CPUExecutionProvider"] else None,
        )
    except Exception as error:
        raise CheckpointError(f"ONNX Runtime cannot load {path}: {one_line(error)}.") from error
    _check_names(path, session)
    return OnnxModel(session, settings.config, settings.num_parameters), settings.processor


@dataclass(frozen=True, eq=False)
class Settings:
    """What an exported file says about its model.

    Attributes:
        config: of the model that was exported.
        processor: of that model.
        num_parameters: of that model.
    """

    config: ReferSamConfig
    processor: ReferSamProcessor
    num_parameters: int


@dataclass(frozen=True)
class Contents:
    """What an exported file holds.

    Attributes:
        dtypes: values stored in each.
        files: the file itself, and those beside it that hold weights.
    """

    dtypes: dict[str, int]
    files: tuple[Path, ...]


def read_settings(path: Path) -> Settings:
    """The settings inside an exported file, which is looked through and not run.

    Raises:
        CheckpointError: no such file, a broken or foreign one, or one that asks for more than a model needs.
        MissingExtraError: onnx is not installed.
    """
    return _settings_of(path, _read_graph(path))


def read_contents(path: Path) -> tuple[Settings, Contents]:
    """The settings inside an exported file, and what it holds; nothing is run.

    Raises:
        CheckpointError: as of `read_settings`.
        MissingExtraError: onnx is not installed.
    """
    model = _read_graph(path)
    settings = _settings_of(path, model)
    name_of = require("onnx", EXTRA, "Reading an exported model").helper.tensor_dtype_to_np_dtype
    formats = Counter[str]()
    beside = set()
    for tensor in model.graph.initializer:
        try:
            formats[name_of(tensor.data_type).name] += math.prod(tensor.dims)
        except KeyError as error:
            raise CheckpointError(f"{path} holds weights of an unknown dtype.") from error
        beside |= {path.parent / entry.value for entry in tensor.external_data if entry.key == "location"}
    return settings, Contents(dict(formats), (path, *sorted(beside)))


def _settings_of(path: Path, model: Any) -> Settings:
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    try:
        config = ReferSamConfig.from_dict(json.loads(metadata[CONFIG_KEY]))
        parameters = int(metadata["parameters"])
        processor = _read_processor(metadata)
    except Exception as error:  # of any kind: the settings may hold anything
        raise CheckpointError(f"The settings inside {path} cannot be read: {one_line(error)}.") from error
    check_room(processor, config, str(path))
    return Settings(config, processor, parameters)


def _read_graph(path: Path) -> Any:
    """onnx.ModelProto, looked through, without the weights beside it; errors as of `read_settings`."""
    onnx = require("onnx", EXTRA, "Reading an exported model")
    if not path.is_file():
        raise CheckpointError(f"No such model: {path} is not a file.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise CheckpointError(f"{path} is no ONNX file: it has more than {MAX_FILE_BYTES >> 20} MB.")
    try:
        model = onnx.load_model(path, load_external_data=False)
    except Exception as error:  # protobuf's own kinds
        raise CheckpointError(f"{path} is not an ONNX file, or a broken one.") from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if metadata.get(FORMAT_KEY) != FORMAT or CONFIG_KEY not in metadata:
        raise CheckpointError(f"{path} is not a ReferSAM model: a file that refersam export onnx wrote is expected.")
    if sum(map(len, metadata.values())) > MAX_SETTINGS_BYTES:
        raise CheckpointError(f"The settings inside {path} have more than {MAX_SETTINGS_BYTES >> 20} MB.")
    operators = {node.op_type for node in model.graph.node}
    foreign = {entry.domain for entry in model.opset_import} - OPERATOR_SETS
    refused = sorted(operators & REFUSED_OPERATORS) or sorted(foreign) or [each.name for each in model.functions]
    if refused:
        raise CheckpointError(f"{path} holds {refused[0]}, which no exported ReferSAM model does: it is not run.")
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                _check_location(path, entry.value)
    return model


def _check_location(path: Path, location: str) -> None:
    """Weights outside the file must lie beside it: a plain name, no link."""
    beside = path.parent / location
    if len(PurePosixPath(location).parts) != 1 or location == ".." or "\\" in location or beside.is_symlink():
        raise CheckpointError(f"{path} names weights at {location!r}, but they must be in a file beside it.")
    if not beside.is_file():
        raise CheckpointError(f"{beside} is missing: it holds weights of {path.name}.")


def _check_names(path: Path, session: Any) -> None:
    inputs, outputs = ([each.name for each in some] for some in (session.get_inputs(), session.get_outputs()))
    if sorted(inputs) != sorted(INPUTS) or not NEEDED_OUTPUTS <= set(outputs) <= set(OUTPUTS):
        raise CheckpointError(
            f"{path} takes {', '.join(inputs)} and gives {', '.join(outputs)}, which is not a ReferSAM model's way."
        )


def _read_processor(metadata: dict[str, str]) -> ReferSamProcessor:
    register_classes()  # transformers finds the image processor by its registration
    with tempfile.TemporaryDirectory() as folder:
        for key in PROCESSOR_KEYS:
            (Path(folder) / key).write_text(metadata[key], encoding="utf-8")
        return ReferSamProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def _providers(device: str | torch.device | None, available: list[str]) -> list[str]:
    wanted = "auto" if device is None else str(device)
    if wanted == "auto":
        return [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
    if wanted == "cpu":
        return ["CPUExecutionProvider"]
    if wanted in ("cuda", "cuda:0") and "CUDAExecutionProvider" in available:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    raise DeviceError(f"Device {wanted!r} is not there for exported models: ONNX Runtime has {', '.join(available)}.")
