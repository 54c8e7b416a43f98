"""A small model with random weights, and an image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refersam import ReferSamImageProcessor, ReferSamModel, ReferSamPredictor, ReferSamProcessor
from refersam.config import sam_vision_config
from refersam.tokenizer import train_tokenizer

PHRASES = ["the red circle on the left", "star", "a zebra, far away"]


@pytest.fixture(scope="session")
def phrases() -> list[str]:
    """Three, of different lengths."""
    return list(PHRASES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_config: Callable[..., Any]) -> Path:
    """A model of two ViT layers, one windowed, with lively random weights, for images of 64 x 96 pixels."""
    tokenizer = train_tokenizer(PHRASES, vocab_size=256, min_count=1)
    config = small_config(
        vision_config=sam_vision_config(48, 2, 3, [1], 64, 3, 32),
        layer_groups=[[0, 1]],
        num_extra_fusions=0,
        num_prompter_layers=1,
        fusion_num_heads=1,
        prompter_num_heads=2,
        object_score_head=True,
        domain="chest X-rays",
    )
    config.text_config.vocab_size = len(tokenizer)
    config.text_config.num_hidden_layers = config.mask_decoder_config.num_hidden_layers = 1
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "small"
    ReferSamModel(config).save_pretrained(folder)
    image_processor = ReferSamImageProcessor(size={"height": 64, "width": 96})
    ReferSamProcessor(image_processor, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def original(folder: Path) -> ReferSamPredictor:
    """The model itself."""
    return ReferSamPredictor.from_pretrained(folder, device="cpu")


@pytest.fixture
def image() -> np.ndarray:
    """37 x 53, noise."""
    return np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)


@pytest.fixture(params=[(1, 1, 3), (1, 5, 20), (2, 4, 9), (3, 3, 24)], ids=str)
def inputs(request: pytest.FixtureRequest) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random pixels, ids and attention mask for (images, phrases, tokens), with padding in some phrases."""
    images, phrases, tokens = request.param
    ids = torch.randint(5, 90, (phrases, tokens))
    attention = (torch.arange(tokens) < torch.randint(3, tokens + 1, (phrases, 1))).long()
    return torch.randn(images, 3, 64, 96), ids * attention, attention
