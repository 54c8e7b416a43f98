"""Tests that need a CUDA device: `make test-gpu`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from refersam import ReferSamPredictor
from refersam.model.deformable_attention import sample_maps
from refersam.model.fast.sampling import run_kernel
from refersam.training.trainer import Trainer
from sceneref.training.settings import SceneRefTrainSettings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("scene_*.png"))
PHRASES = ["the orange star", "every red object", "the largest circle", "the green elephant"]


@pytest.mark.parametrize(("name", "number"), [("bert_tiny", 0), ("clip_tiny", 1)])
def test_the_authors_numbers(load_parity: Callable, load_case: Callable, name: str, number: int) -> None:
    """In float32, without TF32."""
    case, _ = load_case(name, number)
    model = load_parity(name).model.cuda()
    with torch.no_grad():
        logits = model(**{key: case[key].cuda() for key in ("pixel_values", "input_ids", "attention_mask")}).mask_logits
    reference = case["mask_logits"]
    assert (logits.cpu() - reference).abs().max() <= 1e-4 * reference.abs().max()


@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.999), ("bfloat16", 0.95), ("float16", 0.95)])
def test_the_bundled_model_agrees_with_a_cpu(dtype: str, least: float) -> None:
    """Masks overlap, and no result is lost in another dtype."""
    here = ReferSamPredictor.from_pretrained(device="cpu")
    there = ReferSamPredictor.from_pretrained(device="cuda", dtype=dtype)
    overlaps = []
    for path in EXAMPLES:
        for ours, theirs in zip(here.predict(path, PHRASES), there.predict(path, PHRASES), strict=True):
            union = np.count_nonzero(ours.mask | theirs.mask)
            overlaps.append(np.count_nonzero(ours.mask & theirs.mask) / union if union else 1.0)
    assert np.mean(overlaps) >= least


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_training_goes_down(precision: str, tmp_path: Path) -> None:
    """Small-scale smoke recipe in each precision; the model runs on a CPU."""
    settings = SceneRefTrainSettings.model_validate(
        {
            "extension": "sceneref.training",
            "steps": 30,
            "precision": precision,
            "batch_size": 4,
            "data": {"image_size": 64, "validation_images": 2, "workers": 0},
            "sceneref": {"scene_sizes": [64]},
            "optimizer": {"learning_rate": 1e-3, "warmup_steps": 5},
            "log_every": 5,
        }
    )
    losses: list[float] = []
    Trainer(settings, tmp_path / "run").run(lambda _step, values: losses.append(values["total"]))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    ReferSamPredictor.from_pretrained(tmp_path / "run" / "model", device="cpu").predict(EXAMPLES[0], PHRASES[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_triton_kernel(dtype: torch.dtype) -> None:
    """deformops gives the samples and gradients of the reference implementation."""
    registry = pytest.importorskip("deformops.registry", reason="deformops is missing: pip install '.[gpu]'")
    sizes = ((28, 28), (14, 14), (7, 7))
    torch.manual_seed(0)
    cells = sum(height * width for height, width in sizes)
    values = torch.randn(2, cells, 12, 32, device="cuda", dtype=dtype)
    locations = torch.rand(2, 784, 12, 3, 4, 2, device="cuda") * 1.4 - 0.2
    weights = torch.rand(2, 784, 12, 3, 4, device="cuda", dtype=dtype)
    found = []
    for mix in (sample_maps, lambda *rest: run_kernel(registry.msda, *rest)):
        leaves = [tensor.clone().requires_grad_() for tensor in (values, locations, weights)]
        mixed = mix(*leaves, sizes)
        mixed.float().square().mean().backward()
        found.append([mixed, *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*found, strict=True):
        error = (ours.float() - theirs.float()).norm() / ours.float().norm()
        assert error <= (1e-4 if dtype == torch.float32 else 3e-2)
