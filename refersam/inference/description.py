"""Model descriptions, read from model files without loading weights or executing code."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refersam.checkpoints.folders import load_config, recognise_published
from refersam.checkpoints.keys import authors_state_dict
from refersam.checkpoints.published import FAMILIES, Published, Weights
from refersam.checkpoints.reading import read_checkpoint
from refersam.checkpoints.registration import register_classes
from refersam.config import PRESETS, ReferSamConfig
from refersam.errors import CheckpointError
from refersam.hub import fetch, how_to_get_access
from refersam.inference import openvino_model
from refersam.inference.onnx_model import Contents, Settings, read_contents
from refersam.inference.predictor import ONNX_SUFFIX
from refersam.processor import ReferSamProcessor

_PARTS = {
    "text encoder": ("text_encoder.",),
    "image encoder": ("sam.vision_encoder.",),
    "interactor": ("interactor.",),
    "prompter": ("prompter.",),
    "decoder": ("sam.",),
}
"""Parameter name prefixes of each part of the model; the first match counts."""

_FORMATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_MOST_OF_A_CARD = 65_536  # bytes of a model card that are read at most


@dataclass(frozen=True)
class Description:
    """Description of a ReferSAM model.

    Attributes:
        model: the name passed to `describe_model`.
        preset: "tiny", "base", "large" or "huge"; None for other sizes.
        text_encoder: kind and sizes of the text encoder, as text.
        image_encoder: sizes of the image encoder, as text.
        left_out: parts of ReferSAM that are disabled, as in an ablation.
        upsampling: upsampling of masks to the input size: "bilinear", or edge-aware "guided filter".
        heads: presence of the "no_target" and "iou" heads.
        parameters: number of parameters per part and in "total"; only "total" for an exported model.
        dtypes: number of parameters per dtype; for an exported model, with the constants of its graph.
        file_bytes: size of the weight files in bytes.
        input_size: (height, width) of the model input in pixels; None without a processor.
        max_text_tokens: maximum number of tokens per phrase; None without a processor.
        licence: licence in the model card; None if absent.
        domain: the only image domain of the training data; None for a model of general images.
        supports_clicks: whether the model was trained with clicks and accepts them.
    """

    model: str
    preset: str | None
    text_encoder: str
    image_encoder: str
    left_out: tuple[str, ...]
    upsampling: str
    heads: dict[str, bool]
    parameters: dict[str, int]
    dtypes: dict[str, int]
    file_bytes: int
    input_size: tuple[int, int] | None
    max_text_tokens: int | None
    licence: str | None
    domain: str | None = None
    supports_clicks: bool = False


@dataclass(frozen=True)
class PublishedDescription:
    """Description of a published model of transformers.

    Attributes:
        model: the name passed to `describe_model`.
        family: alias of the model family.
        method: summary of the segmentation method.
        weights: per part: repository or directory, parameters, megabytes, licence, gated.
        approximate: True if the sizes are those of the published files, not measured on this machine.
        access: instructions for access to gated weights; None for open weights.
    """

    model: str
    family: str
    method: str
    weights: tuple[Weights, ...]
    approximate: bool
    access: str | None


def describe_model(name: str) -> Description | PublishedDescription:
    """Describe a model from its files. A published model is described from stored facts, without a download.

    Args:
        name: directory, Hub id, authors' checkpoint (.pth), export (OpenVINO, .onnx), or alias of a published model.

    Raises:
        CheckpointError: the model does not exist, is of another kind, or has unreadable files.
        MissingExtraError: onnx or openvino is not installed, and the model is an export.
    """
    if name.endswith(ONNX_SUFFIX):
        return _of_exported(name, *read_contents(Path(name)))
    if openvino_model.is_openvino(Path(name)):
        return _of_exported(name, *openvino_model.read_contents(Path(name)))
    if Path(name).is_file():
        return _of_checkpoint(Path(name))
    if (published := recognise_published(name)) is not None:
        return _of_published(name, published)
    register_classes()
    config, _ = load_config(name)
    folder = fetch(name)
    files = _weight_files(folder)
    try:
        processor = ReferSamProcessor.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception:  # a foreign directory may raise any error; a converted model may have no processor
        processor = None
    parameters, dtypes = _count(entry for file in files for entry in _read_header(file))
    return Description(
        model=name,
        **_describe_config(config),
        parameters=parameters,
        dtypes=dtypes,
        file_bytes=sum(file.stat().st_size for file in files),
        **_describe_processor(processor),
        licence=_licence(folder / "README.md"),
    )


def _of_published(name: str, published: Published) -> PublishedDescription:
    facts = {each.repository: each for family in FAMILIES for each in family.weights}
    weights = tuple(facts.get(part) or _describe_weights(part) for part in published.names)
    access = next((how_to_get_access(each.repository) for each in weights if each.gated), None)
    approximate = any(part in facts for part in published.names)
    return PublishedDescription(name, published.family.alias, published.family.method, weights, approximate, access)


def _describe_weights(name: str) -> Weights:
    """Count the weights in a directory, or of an unlisted Hub id, which is downloaded."""
    folder = fetch(name)
    files = _weight_files(folder)
    parameters, _ = _count(entry for file in files for entry in _read_header(file))
    megabytes = round(sum(file.stat().st_size for file in files) / 1e6)
    return Weights(name, parameters["total"], megabytes, _licence(folder / "README.md") or "unknown")


def _of_exported(name: str, settings: Settings, contents: Contents) -> Description:
    return Description(
        model=name,
        **_describe_config(settings.config) | {"supports_clicks": False},
        parameters={"total": settings.num_parameters},
        dtypes=contents.dtypes,
        file_bytes=sum(file.stat().st_size for file in contents.files),
        **_describe_processor(settings.processor),
        licence=None,
    )


def _of_checkpoint(path: Path) -> Description:
    state = authors_state_dict(read_checkpoint(path))
    clip = any(name.startswith("text_encoder.embeddings.token_embedding") for name in state)
    try:
        width = state["sam.vision_encoder.pos_embed"].shape[-1]
    except (KeyError, IndexError) as error:
        raise CheckpointError(f"{path} has no image encoder: it is not a whole ReferSAM.") from error
    layer = re.compile(r"sam\.vision_encoder\.layers\.(\d+)")
    layers = len({found[1] for name in state if (found := layer.match(name))})
    presets = {name: ReferSamConfig.from_preset(name, "clip" if clip else "bert") for name in PRESETS}
    preset = next((n for n, c in presets.items() if _sizes(c)[:2] == (width, layers)), None)
    described = (
        _describe_config(presets[preset])
        if preset is not None
        else {
            "preset": None,
            "text_encoder": "CLIP" if clip else "BERT",
            "image_encoder": f"ViT, {layers} layers of {width}",
            "left_out": (),
            "upsampling": "bilinear",
            "heads": {"no_target": False, "iou": False},
        }
    )
    parameters, dtypes = _count(
        (name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in state.items()
    )
    return Description(
        model=str(path),
        **described,
        parameters=parameters,
        dtypes=dtypes,
        file_bytes=path.stat().st_size,
        **_describe_processor(None),
        licence=None,
    )


def _sizes(config: ReferSamConfig) -> tuple[int, ...]:
    vision = config.vision_config
    return vision.hidden_size, vision.num_hidden_layers, config.fusion_hidden_size, config.prompt_hidden_size


def _describe_config(config: ReferSamConfig) -> dict[str, Any]:
    text, vision = config.text_config, config.vision_config
    switches = {
        "interactor": config.use_interactor,
        "prompter": config.use_prompter,
        "dense prompt": config.use_dense_prompt,
    }
    return {
        "preset": next((name for name in PRESETS if _sizes(ReferSamConfig.from_preset(name)) == _sizes(config)), None),
        "text_encoder": f"{config.text_encoder_kind.upper()}, {text.num_hidden_layers} layers of {text.hidden_size}, "
        f"{text.vocab_size:,} entries",
        "image_encoder": f"ViT, {vision.num_hidden_layers} layers of {vision.hidden_size}, "
        f"{vision.num_attention_heads} heads, windows of {vision.window_size}",
        "left_out": tuple(part for part, used in switches.items() if not used),
        "upsampling": "guided filter" if config.guided_filter_radius else "bilinear",
        "heads": {"no_target": config.object_score_head, "iou": config.supervise_iou},
        "supports_clicks": config.supports_clicks,
        "domain": config.domain,
    }


def _describe_processor(processor: ReferSamProcessor | None) -> dict[str, Any]:
    if processor is None:
        return {"input_size": None, "max_text_tokens": None}
    size = processor.image_processor.size
    return {"input_size": (size["height"], size["width"]), "max_text_tokens": processor.max_text_tokens}


def _count(entries: Iterable[tuple[str, tuple[int, ...], str]]) -> tuple[dict[str, int], dict[str, int]]:
    """Count parameters by part and by dtype, from (name, shape, dtype) entries."""
    parts, formats = dict.fromkeys(_PARTS, 0), dict[str, int]()
    for name, shape, precision in entries:
        part = next((part for part, starts in _PARTS.items() if name.startswith(starts)), "other")
        parts[part] = parts.get(part, 0) + math.prod(shape)
        formats[precision] = formats.get(precision, 0) + math.prod(shape)
    return {**parts, "total": sum(parts.values())}, formats


def _read_header(file: Path) -> Iterable[tuple[str, tuple[int, ...], str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a dictionary
                tensor = weights.get_slice(name)
                yield name, tuple(tensor.get_shape()), _FORMATS.get(tensor.get_dtype(), tensor.get_dtype().lower())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is not a safetensors file that can be read: {error}.") from error


def _weight_files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise CheckpointError(f"{folder} has no weights: model.safetensors is expected.")
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index} is not an index of weights.") from error
    files = [folder / str(name) for name in sorted(names, key=str)]
    for file in files:
        if file.parent != folder or not file.is_file():
            raise CheckpointError(f"{index} names {file.name}, which is not in {folder}.")
    return files


def _licence(card: Path) -> str | None:
    """Return the `license` in the metadata of a model card; None if absent."""
    if not card.is_file():
        return None
    with card.open("rb") as file:
        text = file.read(_MOST_OF_A_CARD).decode("utf-8", "replace")
    head: Mapping[str, str] = {}
    if found := re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL):
        head = dict(re.findall(r"^(license(?:_name)?):[ \t]*([^\n#]+)", found[1], re.MULTILINE))
    return (head.get("license_name") or head.get("license") or "").strip(" \t\r\"'")[:80] or None
