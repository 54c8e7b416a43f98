"""Model initialization from published weights of SAM and of a text encoder."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, BertModel, CLIPTextModel, PreTrainedConfig, SamModel

from refersam.checkpoints.keys import SAM_KEYS, check_state_dict, plain_names, rename_keys
from refersam.checkpoints.reading import read_checkpoint
from refersam.config import PATCH_SIZE, ReferSamConfig, sam_fields, sam_vision_config
from refersam.errors import CheckpointError, one_line
from refersam.hub import hub_options, raise_if_not_downloaded
from refersam.model.refersam import ReferSamModel

# Names of unused weights in published checkpoints, and of weights that may be missing.
_KNOWN_EXTRA = re.compile(r"(cls|vision_model|visual_projection|text_projection|logit_scale|bert\.pooler)\b.*")
_MAY_LACK = re.compile(r"(.*\.)?pooler\..*|.*position_ids")


def model_from_backbones(sam: str | os.PathLike, text: str | os.PathLike, **overrides: Any) -> ReferSamModel:
    """Build a model for training from published weights of SAM and a text encoder.

    Args:
        sam: Hub id or folder in transformers' format ("facebook/sam-vit-base"), or one of Meta's `sam_vit_*.pth`.
        text: Hub id or folder of BERT or CLIP ("google-bert/bert-base-uncased", "openai/clip-vit-base-patch16").
        overrides: other fields of `ReferSamConfig`.

    Raises:
        CheckpointError: weights are missing, unsafe or from another model.
        ValueError: sizes are inconsistent.
    """
    if Path(sam).is_file():
        sam_fields, sam_weights = _metas_sam(Path(sam))
    else:
        sam_fields, sam_weights = _transformers_sam(os.fspath(sam))
    text_config, text_weights = _text_encoder(os.fspath(text))
    vision = sam_fields["vision_config"]
    depth, heads = vision.num_hidden_layers, vision.num_attention_heads
    fields: dict[str, Any] = {
        **sam_fields,
        "text_config": text_config,
        "deformable_num_heads": heads,
        "fusion_hidden_size": vision.hidden_size,
        "fusion_num_heads": heads,
    }
    if "layer_groups" not in overrides:
        if depth % 4:
            raise ValueError(f"A ViT of {depth} layers does not fall into four equal groups: give layer_groups.")
        fields["layer_groups"] = [[first, first + depth // 4 - 1] for first in range(0, depth, depth // 4)]
    model = ReferSamModel(ReferSamConfig(**{**fields, **overrides}))
    own = {name: tensor for name, tensor in model.sam.state_dict().items() if not name.startswith("object_score_head")}
    check_state_dict(own, sam_weights, f"SAM from {os.fspath(sam)}")
    model.sam.load_state_dict(sam_weights, strict=False)
    model.text_encoder.load_state_dict(text_weights)
    return model


def _transformers_sam(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config = _read_config(name)
    if config.model_type != "sam":
        raise CheckpointError(f"{name} is a model of type {config.model_type!r}, not 'sam'.")
    weights = _loaded(SamModel, name).state_dict()
    weights.pop("shared_image_embedding.positional_embedding")
    vision = config.vision_config
    names = list(inspect.signature(sam_vision_config).parameters)
    fields = {
        "vision_config": sam_vision_config(**{name: getattr(vision, name) for name in names}),
        "prompt_encoder_config": config.prompt_encoder_config.to_dict(),
        "mask_decoder_config": {**config.mask_decoder_config.to_dict(), "layer_norm_eps": 1e-5},
    }
    return fields, weights


def _metas_sam(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read one of Meta's files; infer the sizes from the shapes of the weights."""
    weights = plain_names(read_checkpoint(path))
    renamed, unknown = rename_keys(weights, SAM_KEYS)
    if unknown:
        raise CheckpointError(
            f"{path} is not one of Meta's SAM checkpoints: {len(unknown)} unknown names, such as {unknown[0]}."
        )
    ours = {renamed[name].removeprefix("sam."): tensor for name, tensor in weights.items()}
    try:
        _, grid, _, width = ours["vision_encoder.pos_embed"].shape
        tables = [ours[f"vision_encoder.layers.{i}.attn.rel_pos_h"] for i in range(max(1, _depth(ours)))]
        prompt_width = ours["vision_encoder.neck.conv1.weight"].shape[0]
        mlp_dim = ours["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0]
        iou_width = ours["mask_decoder.iou_prediction_head.proj_in.weight"].shape[0]
        mask_channels = ours["prompt_encoder.mask_embed.conv2.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not one of Meta's SAM checkpoints: {error} is missing or misshapen."
        ) from error
    window = min((table.shape[0] + 1) // 2 for table in tables)
    global_layers = [index for index, table in enumerate(tables) if (table.shape[0] + 1) // 2 == grid != window]
    heads = width // tables[0].shape[1]
    side = grid * PATCH_SIZE
    vision = sam_vision_config(width, len(tables), heads, global_layers, side, window, prompt_width)
    return sam_fields(vision, mlp_dim, iou_width, mask_channels), ours


def _depth(weights: Mapping[str, Tensor]) -> int:
    numbers = [re.match(r"vision_encoder\.layers\.(\d+)\.", name) for name in weights]
    return 1 + max((int(match.group(1)) for match in numbers if match), default=-1)


def _text_encoder(name: str) -> tuple[PreTrainedConfig, dict[str, Tensor]]:
    config = _read_config(name)
    kinds: dict[str, Any] = {"bert": BertModel, "clip": CLIPTextModel, "clip_text_model": CLIPTextModel}
    if config.model_type not in kinds:
        raise CheckpointError(f"{name} is a model of type {config.model_type!r}; text encoders are {', '.join(kinds)}.")
    encoder = _loaded(kinds[config.model_type], name)
    text_config = encoder.config
    encoder = getattr(encoder, "text_model", encoder)
    return text_config, encoder.state_dict()


def _read_config(name: str) -> PreTrainedConfig:
    options = hub_options(name)
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        raise_if_not_downloaded(name, error, **options)
        raise CheckpointError(
            f"No model configuration could be read from {name}: expected a folder, a Hub id, or for SAM one of Meta's "
            f".pth files. {one_line(error)}."
        ) from error


def _loaded(kind: Any, name: str) -> Any:
    """Load a model; raise CheckpointError for missing or unexpected weights without a known name."""
    options = hub_options(name)
    try:
        model, report = kind.from_pretrained(name, dtype=torch.float32, output_loading_info=True, **options)
    except Exception as error:  # safetensors and pickle have their own errors for a broken file
        raise_if_not_downloaded(name, error, **options)
        raise CheckpointError(f"The weights of {name} could not be read: {one_line(error)}.") from error
    missing = [key for key in report["missing_keys"] if not _MAY_LACK.fullmatch(key)]
    extra = [key for key in report["unexpected_keys"] if not (_KNOWN_EXTRA.fullmatch(key) or _MAY_LACK.fullmatch(key))]
    if missing or extra or report["mismatched_keys"]:
        raise CheckpointError(
            f"The weights of {name} do not fit {kind.__name__}: {len(missing)} missing {missing[:3]}, {len(extra)} "
            f"unexpected {extra[:3]}, {len(report['mismatched_keys'])} of another shape."
        )
    return model
