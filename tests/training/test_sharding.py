"""A sharded model trains, stops and resumes like a full model in each process."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from refersam import ReferSamConfig, ReferSamModel
from refersam.training import sharding
from refersam.training.checkpoint import checkpoint_path, read_checkpoint
from refersam.training.optimization import build_optimizers
from refersam.training.settings import OptimizerSettings, TrainSettings
from refersam.training.trainer import Trainer

Miniature = Callable[..., TrainSettings]


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of one process."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def build(small_model: dict[str, Any]) -> ReferSamModel:
    """Build the same weights each time."""
    torch.manual_seed(0)
    config = ReferSamConfig.from_preset("tiny", "bert", **small_model)
    config.text_config.vocab_size = 256
    return ReferSamModel(config).eval()


def inputs() -> dict[str, Tensor]:
    """Two images with one phrase each."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, 64, 64, generator=generator)
    return {"pixel_values": pixels, "input_ids": torch.randint(5, 99, (2, 7), generator=generator)}


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Return gradients of an arbitrary loss."""
    output = model(**inputs())
    (output.mask_logits.square().mean() + output.coarse_mask_logits.mean()).backward()
    optimizer.step()
    optimizer.zero_grad()


def equal(one: Any, other: Any) -> bool:
    """Return all tensors of nested containers."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


@pytest.mark.usefixtures("alone")
def test_sharded_state_is_that_of_a_whole_model(small_model: dict[str, Any]) -> None:
    """Weights and moments after a step are interchangeable; units are layers and the interactor's parts."""
    plain, sharded = build(small_model), build(small_model)
    sharding.shard(sharded, torch.device("cpu"), 1)
    assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
    units = {name for name, module in sharded.named_modules() if type(module).__name__.startswith("FSDP")}
    assert {"", "sam.vision_encoder.layers.3", "text_encoder.encoder.layer.0"} <= units
    assert {f"interactor.interactions.0.{part}" for part in ("injector", "extractor", "fusion")} <= units

    optimizers = [build_optimizers(model, OptimizerSettings(layer_decay=0.8))[0] for model in (plain, sharded)]
    for model, optimizer in zip((plain, sharded), optimizers, strict=True):
        step(model, optimizer)
    weights, moments = (sharding.whole(each.state_dict()) for each in (sharded, optimizers[1]))
    assert equal(weights, dict(plain.state_dict()))
    assert equal(moments, optimizers[0].state_dict())
    nothing = sharding.whole(sharded.state_dict(), keep=False)
    assert all(value.numel() == 0 for name, value in nothing.items() if name in dict(plain.named_parameters()))

    other = build(small_model)
    sharding.shard(other, torch.device("cpu"), 1)
    (optimizer,) = build_optimizers(other, OptimizerSettings(layer_decay=0.8))
    sharding.load_model(other, dict(plain.state_dict()))
    sharding.load_optimizer(optimizer, copy.deepcopy(optimizers[0].state_dict()))
    step(other, optimizer)
    step(plain, optimizers[0])
    assert equal(sharding.whole(other.state_dict()), dict(plain.state_dict()))
    with pytest.raises(RuntimeError, match="size mismatch"):
        sharding.load_model(other, {**plain.state_dict(), "interactor.context_tokens": torch.zeros(3, 3)})


@pytest.mark.usefixtures("alone")
def test_a_hollow_model_is_filled_for_a_while(small_model: dict[str, Any]) -> None:
    """It has no weights before and after, and equals the full model in between."""
    plain, sharded = build(small_model), build(small_model)
    hollow = sharding.hollow(sharded)
    sharding.shard(sharded, torch.device("cpu"), 1)
    assert sum(parameter.numel() for parameter in hollow.parameters()) == 0
    sharding.fill(hollow, sharded.parameters())
    with torch.no_grad():
        assert torch.equal(hollow(**inputs()).mask_logits, plain(**inputs()).mask_logits)
    assert equal(dict(hollow.state_dict()), dict(plain.state_dict()))
    sharding.empty(hollow)
    assert sum(parameter.numel() for parameter in hollow.parameters()) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"optimizer": {"muon_learning_rate": 0.01}},
            "sharding: full works without optimizer.muon_learning_rate: Muon needs full matrices",
        ),
        ({"precision": "fp16"}, "sharding: full works with precision bf16 or no, not with fp16"),
    ],
)
def test_what_does_not_go_with_sharding(changes: dict[str, Any], message: str) -> None:
    """One sentence each."""
    with pytest.raises(ValueError, match=message):
        TrainSettings.model_validate({"sharding": "full", "data": {"root": "x"}, **changes})


SCRIPT = """
import json, shutil, sys
from pathlib import Path
import torch; torch.set_num_threads(1)
from accelerate.state import AcceleratorState
from refersam.training.recipe import check_settings
from refersam.training.trainer import Trainer
from sceneref.training.source import SceneSource; SceneSource.tokenizer_images = 30
from sceneref.training.validation import SceneValidation; SceneValidation.scene_size = 96
out = Path(sys.argv[1])
for name, goes_on_from, settings in json.loads((out / "jobs.json").read_text()):
    AcceleratorState._reset_state()
    if goes_on_from and torch.distributed.get_rank() == 0:
        shutil.copytree(out / goes_on_from, out / name)
        (out / name / "checkpoints" / "step_0000003.pt").unlink()
    if goes_on_from:
        torch.distributed.barrier()
    Trainer(check_settings(settings, name), out / name, resume=bool(goes_on_from)).run()
"""


def losses(folder: Path) -> list[float]:
    """Return the losses and gradient norms of each step."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if line["kind"] == "train" for name in ("total", "grad norm")]


def distance(one: Path, other: Path, part: str) -> float:
    """Return the relative difference of the weights of two last checkpoints."""
    states = [read_checkpoint(checkpoint_path(folder / "checkpoints", 3))[part] for folder in (one, other)]
    flat = [torch.cat([value.flatten().double() for value in state.values()]) for state in states]
    return float((flat[0] - flat[1]).norm() / flat[0].norm())


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_two_processes_shard_a_model(tmp_path: Path, miniature: Miniature) -> None:
    """gloo on CPUs with dropout: curves and weights equal those of full models, also resumed and resharded."""
    base: dict[str, Any] = {"steps": 3, "checkpoint_every": 2, "validate_every": 3}
    full = {**base, "sharding": "full"}
    bf16 = {"precision": "bf16", "gradient_accumulation_steps": 2}
    jobs = [
        ("whole", None, base),
        ("sharded", None, {**full, "gradient_checkpointing": True}),
        ("resumed", "sharded", {**full, "gradient_checkpointing": True}),
        ("sharded later", "whole", full),
        ("whole clicks", None, {**base, "clicks": {"share": 1.0, "rounds": 2}}),
        ("sharded clicks", None, {**full, "clicks": {"share": 1.0, "rounds": 2}}),
        ("whole bf16", None, {**base, **bf16}),
        ("sharded bf16", None, {**full, **bf16}),
    ]
    written = [(name, start, miniature(**fields).model_dump(mode="json")) for name, start, fields in jobs]
    (tmp_path / "jobs.json").write_text(json.dumps(written))
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path / "script.py"), str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr

    pairs = [("whole", "sharded"), ("whole", "sharded later"), ("whole bf16", "sharded bf16")]
    for name, other in (*pairs, ("whole clicks", "sharded clicks")):
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / other), rel=1e-3), other
        for part in ("model", "average"):
            assert distance(tmp_path / name, tmp_path / other, part) < 1e-3, (other, part)
    final = "model/model.safetensors"
    assert (tmp_path / "sharded" / final).read_bytes() == (tmp_path / "resumed" / final).read_bytes()

    shutil.rmtree(tmp_path / "resumed" / "checkpoints")
    shutil.copytree(tmp_path / "sharded" / "checkpoints", tmp_path / "resumed" / "checkpoints")
    alone = Trainer(miniature(**base, batch_size=2), tmp_path / "resumed", resume=True)
    saved = read_checkpoint(checkpoint_path(tmp_path / "sharded" / "checkpoints", 3))
    assert alone.step == 3
    state = alone.engine.state_dict()
    for part in ("model", "average"):
        assert equal(dict(state[part]), dict(saved[part]))
    for one, other in zip(state["optimizers"], saved["optimizers"], strict=True):
        assert equal(one["state"], other["state"])
    assert alone.run()["phrases"] == 6
