"""Training with two processes is equivalent to one: torchrun on the CPU with gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from refersam.training.settings import TrainSettings

SCRIPT = """
import torch; torch.set_num_threads(1)
from sceneref.training.source import SceneSource; SceneSource.tokenizer_images = 30
from sceneref.training.validation import SceneValidation; SceneValidation.scene_size = 96
from refersam.cli import main; main()
"""


def launch(settings: TrainSettings, folder: Path, processes: int, *more: str) -> subprocess.CompletedProcess[str]:
    """Run `refersam train` under torchrun; the run is in folder/run."""
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    (folder / "script.py").write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    arguments = ["train", str(folder / "recipe.yaml"), "--out", str(folder / "run"), *more]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [*torchrun, str(folder / "script.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)


def log(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return the log lines of a kind, without times."""
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_two_processes_train_as_one(
    tmp_path: Path, without_dropout: dict[str, Any], miniature: Callable[..., TrainSettings]
) -> None:
    """Equal global batches: the same loss curve up to float noise, and equal validation counts."""
    fields = {"steps": 6, "model": {"config": without_dropout}, "validate_every": 3, "data": {"validation_images": 5}}
    fields["sceneref"] = {"objectives": {"grounding": 1.0, "attributes": 1.0}}
    for name, processes, images in (("one", 1, 2), ("two", 2, 1)):
        done = launch(miniature(batch_size=images, **fields), tmp_path / name, processes)
        assert done.returncode == 0, done.stderr
    one, two = log(tmp_path / "one", "train"), log(tmp_path / "two", "train")
    assert [line["samples"] for line in one] == [line["samples"] for line in two] == [4, 8, 12, 16, 20, 24]
    for ours, other in zip(one, two, strict=True):
        for name in (
            "total",
            "mask",
            "dice",
            "coarse_mask",
            "coarse_dice",
            "iou",
            "object",
            "grounding",
            "shape",
            "grad norm",
        ):
            assert ours[name] == pytest.approx(other[name], rel=1e-3, abs=2e-5), (name, ours["step"])
    for ours, other in zip(log(tmp_path / "one", "validation"), log(tmp_path / "two", "validation"), strict=True):
        # The weights are equal but for float noise, which may turn a pixel on the border.
        assert ours["pixels in common"] == pytest.approx(other["pixels in common"], rel=1e-3, abs=2)
        assert ours["pixels in union"] == pytest.approx(other["pixels in union"], rel=1e-3, abs=2)
    assert json.loads((tmp_path / "two" / "run" / "environment.json").read_text())[0]["processes"] == 2


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_two_processes_resume_bit_for_bit(tmp_path: Path, miniature: Callable[..., TrainSettings]) -> None:
    """With dropout, so that the random states of both matter; a checkpoint has both. Only one process warns."""
    whole = launch(miniature(steps=4), tmp_path / "whole", 2, "--resume")
    assert (whole.returncode, whole.stderr.count("the run starts from the beginning")) == (0, 1), whole.stderr
    launch(miniature(steps=4), tmp_path / "parts", 2)
    checkpoints = tmp_path / "parts" / "run" / "checkpoints"
    (checkpoints / "step_0000004.pt").unlink()
    again = launch(miniature(steps=4), tmp_path / "parts", 2, "--resume")
    assert again.returncode == 0, again.stderr
    final = "run/model/model.safetensors"
    assert (tmp_path / "whole" / final).read_bytes() == (tmp_path / "parts" / final).read_bytes()
