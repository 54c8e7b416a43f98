"""Small-scale training: runs, reloading, bit-exact resuming, and fault tolerance."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from PIL import Image

from refersam import ReferSamModel, ReferSamPredictor
from refersam.errors import CheckpointError, DataError
from refersam.files import LOCK
from refersam.training import checkpoint
from refersam.training.engine import build_accelerator
from refersam.training.errors import TrainingError
from refersam.training.settings import SettingsError, TrainSettings
from refersam.training.trainer import Trainer
from refersam.training.validation import Validator
from sceneref import SceneRefSettings, write_sceneref
from sceneref.training.settings import SceneRefTrainSettings
from sceneref.training.source import SceneSource
from sceneref.training.validation import SceneValidation

Miniature = Callable[..., TrainSettings]


def tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Return all tensors in nested containers by path."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from tensors(inner, f"{name}.{key}")


def log_lines(folder: Path) -> list[dict[str, Any]]:
    """Read log.jsonl."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


class Killed(BaseException):
    """Stops a run immediately, as a signal would."""


def run_until(folder: Path, settings: TrainSettings, last: int) -> None:
    """Train, and stop right after the log line of step `last`."""

    def stop(step: int, _values: dict[str, float]) -> None:
        if step == last:
            raise Killed

    with pytest.raises(Killed):
        Trainer(settings, folder).run(stop)


# --------------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, miniature: Miniature) -> Path:
    """Folder of an uninterrupted run of five steps."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SceneSource, "tokenizer_images", 30)
        patch.setattr(SceneValidation, "scene_size", 96)
        Trainer(miniature(), folder).run()
    return folder


def test_a_run_leaves_log_settings_checkpoints_and_model(undisturbed: Path, miniature: Miniature) -> None:
    """No further and no incomplete files."""
    assert {path.name for path in undisturbed.iterdir()} == {
        *("checkpoints", "model", "images", "tensorboard", "curves.png"),
        *("environment.json", "log.jsonl", "result.json", "settings.yaml"),
    }
    kept = sorted(path.name for path in (undisturbed / "checkpoints").iterdir())
    assert kept == ["step_0000004.pt", "step_0000005.pt"]  # the newest two of 2, 4 and 5
    assert (
        SceneRefTrainSettings.model_validate(yaml.safe_load((undisturbed / "settings.yaml").read_text())) == miniature()
    )

    lines = log_lines(undisturbed)
    assert [(line["kind"], line["step"]) for line in lines] == [*(("train", i) for i in range(1, 6)), ("validation", 5)]
    assert [line["samples"] for line in lines[:5]] == [2, 4, 6, 8, 10]
    terms = ("mask", "dice", "coarse_mask", "coarse_dice", "iou", "object", "total", "grad norm", "learning rate")
    assert {*terms, "samples/s", "memory GiB", "skipped"} <= set(lines[0])
    for line in lines[:5]:
        four = sum(line[name] for name in ("mask", "dice", "coarse_mask", "coarse_dice"))
        assert line["total"] == pytest.approx(four + 0.5 * line["iou"] + 0.5 * line["object"], abs=1e-3)
    assert {"mIoU", "oIoU", "phrases", "pixels in common", "pixels in union"} <= set(lines[-1])
    result = json.loads((undisturbed / "result.json").read_text())
    assert (result["step"], result["metric"]) == (5, "oIoU")
    assert result["metrics"]["oIoU"] == pytest.approx(lines[-1]["oIoU"], abs=1e-4)


def test_a_run_says_what_it_ran_on(undisturbed: Path) -> None:
    """Versions, state of the source code, command, device; one entry for each start."""
    (start,) = json.loads((undisturbed / "environment.json").read_text())
    assert start["packages"]["torch"] == torch.__version__
    assert (start["step"], start["seed"], start["processes"]) == (0, 0, 1)
    assert start["git"] is None or set(start["git"]) == {"commit", "changed"}


def test_what_there_is_to_see(undisturbed: Path) -> None:
    """Curves, a sheet of samples, TensorBoard's values and images."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert Image.open(undisturbed / "curves.png").size[0] > 500
    assert Image.open(undisturbed / "images" / "step_0000005.png").size[0] > 500
    events = EventAccumulator(str(undisturbed / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/total")] == [1, 2, 3, 4, 5]
    assert events.Scalars("validation/oIoU")[0].step == 5
    assert events.Images("validation")[0].step == 5


def test_the_model_is_the_averaged_one_and_predicts_the_same(undisturbed: Path) -> None:
    """Reloaded from the folder; the checkpoint contains the same averaged weights."""
    predictor = ReferSamPredictor.from_pretrained(undisturbed / "model", device="cpu")
    state = torch.load(undisturbed / "checkpoints" / "step_0000005.pt", weights_only=True)
    average = {name.removeprefix("module."): value for name, value in state["average"].items()}
    weights = predictor.model.state_dict()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, average[name], atol=0, rtol=0, msg=name)
    assert any(not torch.equal(tensor, state["model"][name]) for name, tensor in weights.items())

    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    result = predictor.predict(image, "the red circle")
    model = ReferSamModel(predictor.model.config).eval()
    model.load_state_dict({name: average[name] for name in weights})
    twin = ReferSamPredictor(model, predictor.processor).predict(image, "the red circle")
    np.testing.assert_allclose(result.probability, twin.probability, atol=1e-6)
    assert predictor.processor.image_processor.size == {"height": 64, "width": 64}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_ends_bit_for_bit_where_an_undisturbed_one_does(
    undisturbed: Path, tmp_path: Path, workers: int, miniature: Miniature
) -> None:
    """Stopped after step 3, so that it resumes from step 2, with and without a worker process."""
    settings = miniature(data={"workers": workers})
    run_until(tmp_path, settings, 3)
    torch.manual_seed(12345)
    np.random.seed(12345)
    resumed = Trainer(settings, tmp_path, resume=True)
    assert resumed.step == 2
    resumed.run()
    expected = torch.load(undisturbed / "checkpoints" / "step_0000005.pt", weights_only=True)
    got = torch.load(tmp_path / "checkpoints" / "step_0000005.pt", weights_only=True)
    others = dict(tensors(got))
    assert len(others) > 100
    for name, tensor in tensors(expected):
        assert torch.equal(tensor, others[name]), name
    final = "model/model.safetensors"
    assert (tmp_path / final).read_bytes() == (undisturbed / final).read_bytes()


def test_the_log_of_a_resumed_run_has_every_step_once(tmp_path: Path, miniature: Miniature) -> None:
    """Lines after the checkpoint and an incomplete line are removed, not repeated."""
    run_until(tmp_path, miniature(), 3)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    Trainer(miniature(), tmp_path, resume=True).run()
    assert [line["step"] for line in log_lines(tmp_path)] == [1, 2, 3, 4, 5, 5]
    assert [start["step"] for start in json.loads((tmp_path / "environment.json").read_text())] == [0, 2]


def test_a_folder_in_use_is_refused(tmp_path: Path, miniature: Miniature) -> None:
    """Its content is not changed; a file instead of a folder is an error."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TrainingError, match="already holds files: choose another folder, or add --resume"):
        Trainer(miniature(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(TrainingError, match=r"Expected an output folder, but .*notes\.txt is a file"):
        Trainer(miniature(), tmp_path / "notes.txt")


def test_resuming_with_another_model_is_refused(
    undisturbed: Path, small_model: dict[str, Any], miniature: Miniature
) -> None:
    """The error names the recipe to use, and the run is not changed."""
    before = {path: path.read_bytes() for path in undisturbed.glob("*.*")}
    other = miniature(model={"config": {**small_model, "num_extra_fusions": 1}})
    with pytest.raises(TrainingError, match=r"does not match the model.*settings\.yaml"):
        Trainer(other, undisturbed, resume=True)
    assert {path: path.read_bytes() for path in undisturbed.glob("*.*")} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fusion_num_heads": 5}, "model.config: .*5 heads"),
    ],
)
def test_models_that_cannot_be_built(
    tmp_path: Path, changes: dict[str, Any], message: str, small_model: dict[str, Any], miniature: Miniature
) -> None:
    """A sentence that names the setting; no folder is created."""
    with pytest.raises(SettingsError, match=message):
        Trainer(miniature(model={"config": {**small_model, **changes}}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_words_than_the_text_encoder_has_room_for(tmp_path: Path, miniature: Miniature) -> None:
    """A sentence, before anything is written."""
    with pytest.raises(
        SettingsError, match="max_text_tokens must be at most 64, the limit of the text encoder, but is 65"
    ):
        Trainer(miniature(data={"max_text_tokens": 65}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_starting_from_a_trained_model(tiny_model_folder: Path, tmp_path: Path, miniature: Miniature) -> None:
    """Its weights and its tokenizer; a missing folder is an error."""
    start = Trainer(miniature(model={"start_from": str(tiny_model_folder), "config": {}}), tmp_path / "run")
    expected = ReferSamModel.from_pretrained(tiny_model_folder).state_dict()
    for name, tensor in start.engine.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert start.engine.model.interactor.context_tokens.requires_grad
    assert not start.engine.model.sam.prompt_encoder.shared_embedding.positional_embedding.requires_grad
    tokenizer = ReferSamPredictor.from_pretrained(tiny_model_folder).processor.tokenizer
    assert len(start.processor.tokenizer) == len(tokenizer)
    with pytest.raises(CheckpointError, match="holds no ReferSAM model"):
        Trainer(miniature(model={"start_from": str(tmp_path), "config": {}}), tmp_path / "other")
    changed = {"start_from": str(tiny_model_folder), "config": {"guided_filter_radius": 2, "drop_path": 0.1}}
    model = Trainer(miniature(model=changed), tmp_path / "guided").engine.model
    assert (model.config.guided_filter_radius, model.interactor.drop_rates[-1]) == (2, 0.1)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    changed["config"] = {"guided_filter_radius": -2}
    with pytest.raises(SettingsError, match=r"model.config: guided_filter_radius must be 0 or more"):
        Trainer(miniature(model=changed), tmp_path / "wrong")


# ---------------------------------------------------------------------------------------------------------- surviving


def test_changed_settings_are_named(tmp_path: Path, miniature: Miniature, caplog: pytest.LogCaptureFixture) -> None:
    """On resume, the new settings apply and are written to settings.yaml."""
    run_until(tmp_path, miniature(), 3)
    changed = miniature(optimizer={"learning_rate": 0.5, "weight_decay": 0.125}, seed=7)
    resumed = Trainer(changed, tmp_path, resume=True)
    changes = "optimizer.learning_rate: 0.001 -> 0.5; optimizer.weight_decay: 0.01 -> 0.125; seed: 0 -> 7."
    assert f"Resuming with changed settings: {changes}" in caplog.text
    assert {group["weight_decay"] for each in resumed.engine.optimizers for group in each.param_groups} == {0.0, 0.125}
    assert yaml.safe_load((tmp_path / "settings.yaml").read_text())["seed"] == 7


def test_without_a_checkpoint_the_run_starts_afresh(
    tmp_path: Path, miniature: Miniature, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning; log lines from before the kill are removed."""
    run_until(tmp_path, miniature(), 1)
    run = Trainer(miniature(), tmp_path, resume=True)
    assert run.step == 0
    assert "No complete checkpoint" in caplog.text
    assert log_lines(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_the_run_with_a_checkpoint(
    tmp_path: Path, undisturbed: Path, number: int, miniature: Miniature
) -> None:
    """After the step of the signal; the resumed run equals the uninterrupted one."""

    def announce(step: int, _values: dict[str, float]) -> None:
        if step == 2:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    run = Trainer(miniature(), tmp_path)
    assert run.run(announce) == {}
    assert signal.getsignal(number) == before
    assert (run.step, run.stopped_by) == (3, signal.Signals(number).name)
    assert (tmp_path / "checkpoints" / "step_0000003.pt").exists()
    assert not (tmp_path / "model").exists()
    Trainer(miniature(), tmp_path, resume=True).run()
    final = "model/model.safetensors"
    assert (tmp_path / final).read_bytes() == (undisturbed / final).read_bytes()


def break_loss(run: Trainer, monkeypatch: pytest.MonkeyPatch, is_bad: Callable[[int], bool], factor: float) -> None:
    """Multiply the loss of the given calls by a factor."""
    forward, calls = run.engine.plain_trainee.loss.forward, iter(range(1000))

    def broken(*arguments: Any) -> Any:
        scale = factor if is_bad(next(calls)) else 1.0
        return {name: value * scale for name, value in forward(*arguments).items()}

    monkeypatch.setattr(run.engine.plain_trainee.loss, "forward", broken)


def test_a_loss_that_stays_no_number_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, miniature: Miniature
) -> None:
    """After two skipped steps; the error names the samples, and the weights are unchanged."""
    run = Trainer(miniature(max_skipped=2), tmp_path)
    before = {name: tensor.clone() for name, tensor in run.engine.model.state_dict().items()}
    break_loss(run, monkeypatch, lambda _: True, float("nan"))
    with pytest.raises(TrainingError, match=r"the loss is nan.*at step 2, with the samples scene_2_0, scene_2_1; 3 of"):
        run.run()
    for name, tensor in run.engine.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_single_bad_steps_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, miniature: Miniature, caplog: pytest.LogCaptureFixture
) -> None:
    """The run continues, and the log counts them."""
    run = Trainer(miniature(log_every=5), tmp_path)
    break_loss(run, monkeypatch, lambda call: call == 2, float("inf"))
    run.run()
    assert "Skipping a step: the loss is inf" in caplog.text
    assert "scene_2_0" in caplog.text
    assert log_lines(tmp_path)[0]["skipped"] == 1


def test_a_bad_step_does_not_stop_fp16s_scaler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, miniature: Miniature
) -> None:
    """The scaler must be updated between two steps: it is, and lowers its scale."""
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)

    def with_scaler(settings: TrainSettings) -> Accelerator:
        accelerator = build_accelerator(settings)
        accelerator.scaler = scaler
        return accelerator

    def clip(parameters: Any, limit: float) -> torch.Tensor:
        scaler.unscale_(run.engine.optimizers[0].optimizer)
        return torch.nn.utils.clip_grad_norm_(parameters, limit)

    monkeypatch.setattr("refersam.training.trainer.build_accelerator", with_scaler)
    run = Trainer(miniature(steps=3), tmp_path)
    monkeypatch.setattr(run.accelerator, "clip_grad_norm_", clip)
    break_loss(run, monkeypatch, lambda call: call == 1, float("inf"))
    run.run()
    assert log_lines(tmp_path)[1]["skipped"] == 1
    assert scaler.get_scale() == 32


def test_a_line_of_zeros_in_the_log_is_dropped(tmp_path: Path, miniature: Miniature) -> None:
    """As a power failure may leave it."""
    run_until(tmp_path, miniature(), 3)
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(b"\0" * 20 + b"\n")
    Trainer(miniature(), tmp_path, resume=True)
    assert [line["step"] for line in log_lines(tmp_path)] == [1, 2]


def test_a_full_disk_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, miniature: Miniature
) -> None:
    """The run ends with the system's error, and can be resumed later."""
    save, count = torch.save, iter(range(10))

    def full(*arguments: Any, **keywords: Any) -> None:
        if next(count) == 1:
            raise OSError(28, "No space left on device")
        save(*arguments, **keywords)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        Trainer(miniature(), tmp_path).run()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_0000002.pt"]
    assert Trainer(miniature(), tmp_path, resume=True).step == 2


def test_the_best_checkpoint_stays_and_can_become_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, miniature: Miniature
) -> None:
    """Independent of its age; the model has its averaged weights."""
    scores = iter([10.0, 90.0, 20.0, 30.0, 40.0])
    monkeypatch.setattr(Validator, "score", lambda self, model, _is_stopping: {"oIoU": next(scores)})
    settings = miniature(validate_every=1, keep_checkpoints=1, keep_best=1, final_model="best")
    assert Trainer(settings, tmp_path).run() == {"oIoU": 90.0}
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step_0000002.pt", "step_0000005.pt"]
    state = checkpoint.read_checkpoint(tmp_path / "checkpoints" / kept[0])
    for name, tensor in ReferSamModel.from_pretrained(tmp_path / "model").state_dict().items():
        assert torch.equal(tensor, state["average"][f"module.{name}"]), name
    assert json.loads((tmp_path / "result.json").read_text())["step"] == 2


def test_accumulated_passes_add_up(tmp_path: Path, without_dropout: dict[str, Any], miniature: Miniature) -> None:
    """Two forward passes of one image equal one forward pass of two images."""
    losses = []
    for name, changes in {"one": {"batch_size": 2}, "two": {"batch_size": 1, "gradient_accumulation_steps": 2}}.items():
        fields = {
            "model": {"config": without_dropout},
            "sceneref": {"objectives": {"grounding": 1.0, "attributes": 1.0}},
            **changes,
        }
        Trainer(miniature(steps=3, **fields), tmp_path / name).run()
        losses.append([line["total"] for line in log_lines(tmp_path / name) if line["kind"] == "train"])
        assert log_lines(tmp_path / name)[-1]["samples"] == 12
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_tracker_that_is_not_there(tmp_path: Path, miniature: Miniature) -> None:
    """Reported before training starts."""
    with pytest.raises(SettingsError, match="wandb is not installed: pip install wandb"):
        Trainer(miniature(trackers=["wandb"]), tmp_path / "run")


def test_a_tracker_reads_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, miniature: Miniature) -> None:
    """Values with their step, an image, and the end."""
    logged: list[Any] = []
    run = SimpleNamespace(
        log=lambda values, step: logged.append((step, set(values))), finish=lambda: logged.append("end")
    )
    module = SimpleNamespace(init=lambda **_: run, Image=lambda array: array.shape, __spec__=object())
    monkeypatch.setitem(sys.modules, "trackio", module)
    Trainer(miniature(steps=1, trackers=["trackio"]), tmp_path).run()
    assert [item if item == "end" else item[0] for item in logged] == [1, 1, 1, "end"]
    assert "train/total" in logged[0][1]
    assert logged[2][1] == {"validation"}


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0.2, 0.5, 0.8])
def test_killed_at_any_moment(tmp_path: Path, undisturbed: Path, moment: float, miniature: Miniature) -> None:
    """kill -9 of the whole process group during the run, with a worker; then --resume."""
    recipe = tmp_path / "recipe.yaml"
    settings = miniature(data={"workers": 1}).model_dump(mode="json")
    recipe.write_text(yaml.safe_dump(settings))
    script = (
        "from sceneref.training.source import SceneSource; from sceneref.training.validation import SceneValidation;"
        "SceneSource.tokenizer_images = 30; SceneValidation.scene_size = 96; import torch; torch.set_num_threads(1);"
        "from refersam.cli import main; main()"
    )
    out = tmp_path / "run"
    command = [sys.executable, "-c", script, "train", str(recipe), "--out", str(out), "--resume"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (out / "log.jsonl").exists() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(moment)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    final = "model/model.safetensors"
    assert (out / final).read_bytes() == (undisturbed / final).read_bytes()


@pytest.mark.slow
def test_the_smoke_recipe(tmp_path: Path, run: Callable[..., SimpleNamespace]) -> None:
    """On the command line: a log line for each of 12 steps, a table, a model that loads."""
    done = run("train", "smoke", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "mIoU" in done.out
    assert [line["step"] for line in log_lines(tmp_path / "run") if line["kind"] == "train"][-12:] == list(range(1, 13))
    ReferSamPredictor.from_pretrained(tmp_path / "run" / "model", device="cpu")
    again = run("train", "smoke", "--out", tmp_path / "run")
    assert (again.code, again.out) == (1, "")
    assert "already holds files: choose another folder, or add --resume" in again.err


def test_a_run_moves_with_its_folder(tmp_path: Path, miniature: Miniature) -> None:
    """Checkpoints contain no paths."""
    run_until(tmp_path / "here", miniature(), 3)
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert Trainer(miniature(), tmp_path / "there", resume=True).step == 2


# ------------------------------------------------------------------------------------------------- signals and two runs


def test_a_second_run_into_a_folder_is_refused(tmp_path: Path, miniature: Miniature) -> None:
    """Rejected during the first run, which is not disturbed."""
    first = Trainer(miniature(), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    with pytest.raises(DataError, match=r"^Another process is at work in .*: wait for it, or name another folder\.$"):
        Trainer(miniature(), tmp_path, resume=True)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == before
    first.run()
    assert [line["step"] for line in log_lines(tmp_path)] == [1, 2, 3, 4, 5, 5]
    assert Trainer(miniature(), tmp_path, resume=True).step == 5


def test_ctrl_c_ends_the_run_with_a_checkpoint(tmp_path: Path, undisturbed: Path, miniature: Miniature) -> None:
    """After the step, as an exception; the resumed run equals the uninterrupted one."""

    def interrupt(_pretrained: int, step: int) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    run = Trainer(miniature(), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run.run(on_step=interrupt)
    assert (run.step, run.stopped_by) == (3, "SIGINT")
    assert (tmp_path / "checkpoints" / "step_0000003.pt").exists()
    Trainer(miniature(), tmp_path, resume=True).run()
    final = "model/model.safetensors"
    assert (tmp_path / final).read_bytes() == (undisturbed / final).read_bytes()


def test_ctrl_c_again_ends_at_once(tmp_path: Path, miniature: Miniature) -> None:
    """In the middle of a step, without a checkpoint of it."""
    run = Trainer(miniature(), tmp_path)
    take_step = run.engine.take_step

    def interrupted(*arguments: Any) -> Any:
        for _ in range(2 if run.step == 2 else 0):
            os.kill(os.getpid(), signal.SIGINT)
        return take_step(*arguments)

    run.engine.take_step = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert (run.step, run.stopped_by) == (2, None)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_0000002.pt"]
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("step", [2, 5])
def test_a_signal_abandons_the_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, miniature: Miniature
) -> None:
    """With a checkpoint of its step; the resumed run validates it first, and equals an uninterrupted one."""
    settings = miniature(validate_every=2, checkpoint_every=100, data={"validation_images": 2})
    Trainer(settings, tmp_path / "undisturbed").run()
    run = Trainer(settings, tmp_path / "stopped")
    validation, drawn = run.validator.validation, []
    scenes = validation.examples

    def signalled() -> Iterator[Any]:
        for scene in scenes():
            drawn.append(run.step)
            if run.step == step:
                os.kill(os.getpid(), signal.SIGTERM)
            yield scene

    monkeypatch.setattr(validation, "examples", signalled)
    assert run.run() == {}
    assert (run.step, run.stopped_by, drawn.count(step)) == (step, "SIGTERM", 1)
    assert (tmp_path / "stopped" / "checkpoints" / f"step_{step:07d}.pt").exists()
    assert step not in run.validations
    Trainer(settings, tmp_path / "stopped", resume=True).run()
    for name in ("model/model.safetensors", "result.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()
    validated = [line["step"] for line in log_lines(tmp_path / "stopped") if line["kind"] == "validation"]
    assert validated == [2, 4, 5]


def test_every_step_is_reported(tmp_path: Path, miniature: Miniature) -> None:
    """Also between the lines of the log."""
    steps: list[tuple[int, int]] = []
    lines: list[int] = []
    run = Trainer(miniature(log_every=3), tmp_path)
    run.run(lambda step, _values: lines.append(step), lambda *done: steps.append(done))
    assert (lines, steps) == ([3, 5], [(0, step) for step in range(1, 6)])


GROUP_SIGNAL = """
import os, signal, sys, time
from refersam.evaluate import run
from refersam.cli import main

load_in_workers = run.load_in_workers

def signalled(*arguments):
    for number, item in enumerate(load_in_workers(*arguments)):
        if number == 1:
            os.killpg(0, getattr(signal, os.environ["SENT"]))
            time.sleep(0.5)
        yield item

run.load_in_workers = signalled
main()
"""


@pytest.mark.parametrize(("sent", "code"), [("SIGTERM", 0), ("SIGINT", 130)])
def test_a_signal_to_the_group_while_workers_validate(
    tmp_path: Path, sent: str, code: int, miniature: Miniature
) -> None:
    """As `timeout` and a terminal send it: a checkpoint and a message, no traceback, for any signal to the workers."""
    for split, count in (("train", 3), ("val", 12)):
        write_sceneref(tmp_path, split, count, 0, SceneRefSettings(width=64, height=64, phrases_per_scene=2))
    settings = miniature(steps=3, validate_every=1, data={"root": str(tmp_path), "workers": 1, "validation_images": 12})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    out = tmp_path / "run"
    command = [sys.executable, "-c", GROUP_SIGNAL, "train", str(recipe), "--out", str(out)]
    done = subprocess.run(
        command, env=os.environ | {"SENT": sent}, capture_output=True, text=True, start_new_session=True
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert "--resume goes on" in done.stdout
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step_0000001.pt"]
    assert not (out / LOCK).exists()
    assert Trainer(settings, out, resume=True).step == 1
