"""Conversion of checkpoints in the authors' format."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refersam.checkpoints.keys import authors_state_dict, check_state_dict
from refersam.checkpoints.reading import read_checkpoint
from refersam.config import TEXT_CONFIGS, ReferSamConfig, sam_fields, sam_vision_config
from refersam.errors import CheckpointError, one_line
from refersam.files import WriteLock, errors_named
from refersam.model.refersam import ReferSamModel
from refersam.processor import ReferSamProcessor


def config_from_authors(sizes: Mapping[str, Any]) -> ReferSamConfig:
    """Return the configuration for sizes in the authors' format.

    Args:
        sizes: dict with the sections "sam", "refersam" and "text".

    Raises:
        CheckpointError: a section or size is missing or invalid.
    """
    try:
        sam, ours, text = sizes["sam"], sizes["refersam"], sizes["text"]
        text_kind = {"bert": "bert", "clip": "clip_text_model"}[text["type"]]
        names = "embed_dim", "depth", "num_heads", "global_attn_indexes", "image_size", "window_size", "prompt_dim"
        vision = sam_vision_config(*(sam[name] for name in names))
        return ReferSamConfig(
            **sam_fields(vision, sam["decoder_mlp_dim"]),
            text_config=TEXT_CONFIGS[text_kind](**text["config"]),
            layer_groups=ours["interaction_indexes"],
            spatial_prior_channels=ours["conv_inplane"],
            deformable_num_heads=ours["deform_num_heads"],
            deformable_num_points=ours["n_points"],
            deformable_value_ratio=ours["deform_ratio"],
            fusion_hidden_size=ours["vl_dim"],
            fusion_num_heads=ours["deform_num_heads"],
            fusion_ffn_ratio=ours["cffn_ratio"],
            num_extra_fusions=ours["num_extra_layers"],
            num_context_tokens=ours["num_context_tokens"],
            num_sparse_tokens=ours["num_sparse_tokens"],
            num_prompter_layers=ours["num_prompt_layers"],
        )
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(
            'The configuration needs the sections "sam", "refersam" and "text" with their sizes; wrong or missing: '
            f"{one_line(error)}."
        ) from error


def read_authors_config(path: Path) -> ReferSamConfig:
    """Read the input of `config_from_authors` from a JSON file; raise CheckpointError if it is invalid."""
    try:
        sizes = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a JSON file that can be read: {error}.") from error
    return config_from_authors(sizes)


def convert_official_checkpoint(
    weights: Path, config: ReferSamConfig, out: Path, tokenizer: str | None = None, image_size: int = 448
) -> int:
    """Write the authors' weights as a folder that `from_pretrained` loads.

    Args:
        weights: checkpoint of the authors.
        config: configuration of the checkpoint.
        out: output folder, missing or empty; it is created atomically.
        tokenizer: folder or Hub id of the tokenizer to save with the weights; None for weights only.
        image_size: side of the network input in pixels.

    Returns:
        Number of weight tensors.

    Raises:
        CheckpointError: the file cannot be read safely, names or shapes do not match, or `out` is not empty.
        DataError: another process is writing to the folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} already exists: name a new folder.")
    state = authors_state_dict(read_checkpoint(weights))
    model = ReferSamModel(config)
    check_state_dict(model.state_dict(), state, str(weights))
    model.load_state_dict(state)
    processor = None if tokenizer is None else ReferSamProcessor.from_text_encoder(tokenizer, image_size)
    temporary = out.with_name(f".{out.name}.tmp")
    with WriteLock.for_path(out), errors_named(out, str(temporary)):
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            model.save_pretrained(temporary)
            if processor is not None:
                processor.save_pretrained(temporary)
            if out.exists():
                out.rmdir()
            temporary.rename(out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return len(state)
