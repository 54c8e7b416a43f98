"""A miniature training on pictures of 64 x 64 pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from refersam.training.settings import TrainSettings
from refersam.training.sources import SceneSource
from refersam.training.validation import Validator

SMALL_MODEL = {
    "vision_config": {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "global_attn_indexes": [1, 3],
        "image_size": 64,
        "window_size": 2,
        "output_channels": 32,
        "num_pos_feats": 16,
        "initializer_range": 0.1,
    },
    "prompt_encoder_config": {"hidden_size": 32, "image_size": 64, "mask_input_channels": 4},
    "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 32, "iou_head_hidden_dim": 32, "num_attention_heads": 4},
    "text_config": {
        "model_type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    },
    "layer_groups": [[0, 0], [1, 1], [2, 2], [3, 3]],
    "spatial_prior_channels": 8,
    "deformable_num_heads": 2,
    "fusion_hidden_size": 32,
    "fusion_num_heads": 2,
    "num_extra_fusions": 0,
    "prompter_num_heads": 4,
}
"""The tiny preset, smaller still: a checkpoint of half a megabyte."""


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokenizer learns from thirty pictures, validation looks at small ones."""
    monkeypatch.setattr(SceneSource, "tokenizer_pictures", 30)
    monkeypatch.setattr(Validator, "drawn_side", 96)


@pytest.fixture(scope="session")
def small_model() -> dict[str, Any]:
    """Fields of a model of half a megabyte."""
    return SMALL_MODEL


@pytest.fixture(scope="session")
def without_dropout(small_model: dict[str, Any]) -> dict[str, Any]:
    """The same with nothing left to chance."""
    text = {**small_model["text_config"], "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return {**small_model, "text_config": text}


@pytest.fixture(scope="session")
def miniature() -> Callable[..., TrainSettings]:
    """Call with changes: settings of five steps."""

    def build(**changes: Any) -> TrainSettings:
        """Five steps on pictures of 64 x 64."""
        data = {
            "image_size": 64,
            "picture_sizes": [64, 80],
            "phrases_per_picture": 2,
            "validation_pictures": 1,
            "vocab_size": 256,
            "workers": 0,
            **changes.pop("data", {}),
        }
        fields = {
            "steps": 5,
            "batch_pictures": 1,
            "log_every": 1,
            "checkpoint_every": 2,
            "validate_every": 100,
            **changes,
        }
        fields["model"] = {"config": SMALL_MODEL, **changes.get("model", {})}
        fields["loss"] = {"num_points": 64, **changes.get("loss", {})}
        return TrainSettings.model_validate({**fields, "data": data})

    return build
