"""Fixtures of all tests. No test accesses the network, and all tests use the same seed."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import json
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

PARITY_FOLDER = Path(__file__).parent / "fixtures" / "parity"

TINY_PHRASES = (
    "the red circle on the left",
    "the large blue square",
    "the small green triangle above the red circle",
    "the yellow star on the right",
    "every black ring below the blue square",
)


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
"""Fields of a model smaller than the tiny preset: a checkpoint of half a megabyte."""


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """One thread: fastest for small tensors, with reproducible sums."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test has the same random numbers and floating-point mode; training changes the flush of denormals."""
    torch.set_flush_denormal(False)
    torch.manual_seed(0)


@pytest.fixture
def spawned() -> Iterator[None]:
    """Start worker processes by `spawn`, the default on macOS and Windows, so that all of their inputs are pickled."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised tiny ReferSAM with its processor (64 x 64 pixels), saved by `save_pretrained`."""
    from refersam import ReferSamConfig, ReferSamImageProcessor, ReferSamModel, ReferSamProcessor
    from refersam.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(TINY_PHRASES, vocab_size=256, min_count=1)
    config = ReferSamConfig.from_preset("tiny")
    config.text_config.vocab_size = len(tokenizer)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    ReferSamModel(config).save_pretrained(folder)
    image_processor = ReferSamImageProcessor(size={"height": 64, "width": 64})
    ReferSamProcessor(image_processor, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def published_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The name of a small random model of each family of published models, and of their parts."""
    import small_checkpoints

    folders = {name: tmp_path_factory.mktemp(name) for name in ("clipseg", "dino", "sam", "sam3", "detector")}
    torch.manual_seed(0)
    small_checkpoints.save_clipseg(folders["clipseg"])
    small_checkpoints.save_grounding_dino(folders["dino"])
    small_checkpoints.save_sam(folders["sam"])
    small_checkpoints.save_sam3(folders["sam3"])
    small_checkpoints.save_sam3(folders["detector"], video=False)
    names = {name: str(folder) for name, folder in folders.items()}
    return {**names, "grounded-sam": f"grounded-sam={names['dino']}+{names['sam']}"}


@pytest.fixture(scope="session")
def small_config() -> Callable[..., Any]:
    """Call with a text encoder and other fields for the smallest configuration, with outputs of large variance."""
    from transformers import BertConfig, CLIPTextConfig

    from refersam.config import ReferSamConfig, sam_vision_config

    def build(text_encoder: str = "bert", **overrides: Any) -> ReferSamConfig:
        text = {
            "vocab_size": 50,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "max_position_embeddings": 24,
            "pad_token_id": 0,
        }
        fields = {
            "vision_config": sam_vision_config(48, 4, 3, [1, 3], 64, 3, 32),
            "prompt_encoder_config": {"hidden_size": 32, "image_size": 64},
            "mask_decoder_config": {
                "hidden_size": 32,
                "mlp_dim": 64,
                "iou_head_hidden_dim": 32,
                "layer_norm_eps": 1e-5,
            },
            "text_config": BertConfig(**text, initializer_range=0.2)
            if text_encoder == "bert"
            else CLIPTextConfig(**text, bos_token_id=1, eos_token_id=2),
            "layer_groups": [[0, 0], [1, 1], [2, 2], [3, 3]],
            "spatial_prior_channels": 8,
            "deformable_num_heads": 3,
            "fusion_hidden_size": 48,
            "fusion_num_heads": 4,
            "num_extra_fusions": 1,
            "injection_gate_init": 0.5,
            "initializer_range": 0.2,
        }
        return ReferSamConfig(**{**fields, **overrides})

    return build


@pytest.fixture(scope="session")
def parity_folder() -> Path:
    """Checkpoints, inputs and results of the authors' implementation."""
    return PARITY_FOLDER


@pytest.fixture(scope="session")
def load_parity() -> Callable[[str], SimpleNamespace]:
    """Call with "bert_tiny" or "clip_tiny" for sizes, the authors' weights, and a new model with these weights."""
    from refersam import ReferSamModel
    from refersam.checkpoints.keys import authors_state_dict
    from refersam.checkpoints.official import config_from_authors

    def load(name: str) -> SimpleNamespace:
        folder = PARITY_FOLDER / name
        sizes = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "official_state_dict.safetensors")
        model = ReferSamModel(config_from_authors(sizes)).eval()
        model.load_state_dict(authors_state_dict(weights), strict=True)
        return SimpleNamespace(sizes=sizes, weights=weights, model=model)

    return load


@pytest.fixture(scope="session")
def load_case() -> Callable[[str, int], tuple[dict[str, torch.Tensor], dict[str, float | None]]]:
    """Call with a model's name and the index of a case for its tensors and the gradient norm of every parameter."""

    def load(name: str, number: int) -> tuple[dict[str, torch.Tensor], dict[str, float | None]]:
        folder = PARITY_FOLDER / name
        norms = json.loads((folder / f"case{number}_grad_norms.json").read_text())
        return load_file(folder / f"case{number}.safetensors"), norms

    return load


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., SimpleNamespace]:
    """Run `refersam ARGUMENTS...` in this process, in an empty folder; return exit code, output and error output."""
    from refersam import cli
    from refersam.cli import console

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")

    def call(*arguments: object) -> SimpleNamespace:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["refersam", *map(str, arguments)])
        monkeypatch.setattr(console.out_console, "_width", 200)
        monkeypatch.setattr(console.err_console, "_width", 200)
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        output = capfd.readouterr()
        return SimpleNamespace(code=code, out=output.out, err=output.err)

    return call


@pytest.fixture(scope="session")
def small_model() -> dict[str, Any]:
    """Fields of a model of half a megabyte."""
    return SMALL_MODEL


@pytest.fixture(scope="session")
def without_dropout(small_model: dict[str, Any]) -> dict[str, Any]:
    """The same fields without dropout."""
    text = {**small_model["text_config"], "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return {**small_model, "text_config": text}


@pytest.fixture
def few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train the tokenizer on the phrases of thirty scenes, and render small scenes for validation."""
    from sceneref.training.source import SceneSource
    from sceneref.training.validation import SceneValidation

    monkeypatch.setattr(SceneSource, "tokenizer_images", 30)
    monkeypatch.setattr(SceneValidation, "scene_size", 96)


@pytest.fixture(scope="session")
def miniature() -> Callable[..., Any]:
    """Call with changes: settings of five steps on images of 64 x 64 pixels.

    The extension `sceneref.training` renders the images, or they are those of a data set where `data` has a root, by
    default SceneRef's files.
    """
    from refersam.training.settings import TrainSettings
    from sceneref.training.settings import SceneRefTrainSettings

    def build(sceneref: dict[str, Any] | None = None, **changes: Any) -> TrainSettings:
        data = {
            "image_size": 64,
            "phrases_per_image": 2,
            "validation_images": 1,
            "vocab_size": 256,
            "workers": 0,
            **changes.pop("data", {}),
        }
        fields = {
            "steps": 5,
            "batch_size": 1,
            "log_every": 1,
            "checkpoint_every": 2,
            "validate_every": 100,
            **changes,
            "model": {"config": SMALL_MODEL, **changes.get("model", {})},
            "loss": {"num_points": 64, **changes.get("loss", {})},
        }
        if data.get("root") is not None:
            return TrainSettings.model_validate({**fields, "data": {"dataset": "sceneref", **data}})
        section = {"scene_sizes": [64, 80], **(sceneref or {})}
        extension = {"extension": "sceneref.training", "sceneref": section}
        return SceneRefTrainSettings.model_validate({**fields, **extension, "data": data})

    return build
