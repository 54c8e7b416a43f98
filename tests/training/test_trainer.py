"""A miniature training: runs, reloads, resumes bit for bit, survives being killed; its stream, rate and groups."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from refersam import ReferSamConfig, ReferSamModel, ReferSamPredictor
from refersam.errors import CheckpointError
from refersam.training import checkpoint, trainer
from refersam.training.data import Batch, BatchStream, training_loader
from refersam.training.optimization import build_optimizers, rate_factor
from refersam.training.settings import OptimizerSettings, SettingsError, TrainSettings
from refersam.training.trainer import Trainer, TrainingError

SMALL = {
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
    monkeypatch.setattr(trainer, "TOKENIZER_PICTURES", 30)
    monkeypatch.setattr(trainer, "VALIDATION_PICTURE_SIZE", 96)


def miniature(**changes: Any) -> TrainSettings:
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
    fields = {"steps": 5, "batch_pictures": 1, "log_every": 1, "checkpoint_every": 2, "validate_every": 100, **changes}
    fields["model"] = {"config": SMALL, **changes.get("model", {})}
    fields["loss"] = {"num_points": 64}
    return TrainSettings.model_validate({"data": data, **fields})


def tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors in nested containers, by their place."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from tensors(inner, f"{name}.{key}")


def log_lines(folder: Path) -> list[dict[str, Any]]:
    """log.jsonl, parsed."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


class Killed(BaseException):
    """Stops a run where it stands, as a signal would."""


def run_until(folder: Path, settings: TrainSettings, last: int) -> None:
    """Train, and stop right after the log line of step `last`."""

    def stop(step: int, _values: dict[str, float]) -> None:
        if step == last:
            raise Killed

    with pytest.raises(Killed):
        Trainer(settings, folder).run(stop)


# --------------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of five steps that nothing stopped."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "TOKENIZER_PICTURES", 30)
        patch.setattr(trainer, "VALIDATION_PICTURE_SIZE", 96)
        Trainer(miniature(), folder).run()
    return folder


def test_a_run_leaves_log_settings_checkpoints_and_model(undisturbed: Path) -> None:
    """Nothing more, and nothing half-written."""
    assert sorted(path.name for path in undisturbed.iterdir()) == ["checkpoints", "log.jsonl", "model", "settings.yaml"]
    kept = sorted(path.name for path in (undisturbed / "checkpoints").iterdir())
    assert kept == ["step_0000004.pt", "step_0000005.pt"]  # the newest two of 2, 4 and 5
    assert TrainSettings.model_validate(yaml.safe_load((undisturbed / "settings.yaml").read_text())) == miniature()

    lines = log_lines(undisturbed)
    assert [(line["kind"], line["step"]) for line in lines] == [*(("train", i) for i in range(1, 6)), ("validation", 5)]
    assert [line["samples"] for line in lines[:5]] == [2, 4, 6, 8, 10]
    terms = ("mask", "dice", "coarse_mask", "coarse_dice", "iou", "object", "total", "grad norm", "rate", "samples/s")
    assert set(terms) <= set(lines[0])
    for line in lines[:5]:
        four = sum(line[name] for name in ("mask", "dice", "coarse_mask", "coarse_dice"))
        assert line["total"] == pytest.approx(four + 0.5 * line["iou"] + 0.5 * line["object"], abs=1e-3)
    assert {"mIoU", "oIoU", "phrases"} <= set(lines[-1])


def test_the_model_is_the_averaged_one_and_predicts_the_same(undisturbed: Path) -> None:
    """Reloaded from the folder; the checkpoint holds the same averaged weights."""
    predictor = ReferSamPredictor.from_pretrained(undisturbed / "model", device="cpu")
    state = torch.load(undisturbed / "checkpoints" / "step_0000005.pt", weights_only=True)
    average = {name.removeprefix("module."): value for name, value in state["average"].items()}
    weights = predictor.model.state_dict()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, average[name], atol=0, rtol=0, msg=name)
    assert any(not torch.equal(tensor, state["model"][name]) for name, tensor in weights.items())

    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    result = predictor.predict(picture, "the red circle")
    model = ReferSamModel(predictor.model.config).eval()
    model.load_state_dict({name: average[name] for name in weights})
    twin = ReferSamPredictor(model, predictor.processor).predict(picture, "the red circle")
    np.testing.assert_allclose(result.probability, twin.probability, atol=1e-6)
    assert predictor.processor.image_processor.size == {"height": 64, "width": 64}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_ends_bit_for_bit_where_an_undisturbed_one_does(
    undisturbed: Path, tmp_path: Path, workers: int
) -> None:
    """Stopped after step 3, so that it goes on from step 2, with and without a worker process."""
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


def test_the_log_of_a_resumed_run_has_every_step_once(tmp_path: Path) -> None:
    """Lines after the checkpoint and a half line are dropped, not repeated."""
    run_until(tmp_path, miniature(), 3)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    Trainer(miniature(), tmp_path, resume=True).run()
    assert [line["step"] for line in log_lines(tmp_path)] == [1, 2, 3, 4, 5, 5]


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    """Nothing in it is touched; a file in its place is told as such."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TrainingError, match="already holds files: give another folder, or --resume"):
        Trainer(miniature(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(TrainingError, match=r"notes\.txt is a file: give a folder"):
        Trainer(miniature(), tmp_path / "notes.txt")


def test_resuming_with_another_model_is_refused(undisturbed: Path) -> None:
    """The sentence names the recipe to use, and the run is not touched."""
    before = {path: path.read_bytes() for path in undisturbed.glob("*.*")}
    other = miniature(model={"config": {**SMALL, "num_extra_fusions": 1}})
    with pytest.raises(TrainingError, match=r"of another model than the recipe's.*settings\.yaml"):
        Trainer(other, undisturbed, resume=True)
    assert {path: path.read_bytes() for path in undisturbed.glob("*.*")} == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"model": {"config": {**SMALL, "num_context_token": 3}}},
            "model.config.num_context_token, did you mean num_context_t",
        ),
        ({"model": {"config": {**SMALL, "fusion_num_heads": 5}}}, "model.config: .*5 heads"),
        ({"model": {"config": {**SMALL, "fusion_num_heads": "many"}}}, "model.config: "),
        ({"data": {"max_text_tokens": 65}}, "max_text_tokens is 65, but the text encoder has room for 64"),
    ],
)
def test_models_that_cannot_be_built(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    """A sentence that names the setting; no folder is made."""
    with pytest.raises(SettingsError, match=told):
        Trainer(miniature(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_starting_from_a_trained_model(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Its weights and its tokenizer; a folder that is none is told as such."""
    start = Trainer(miniature(model={"start_from": str(tiny_model_folder)}), tmp_path / "run")
    expected = ReferSamModel.from_pretrained(tiny_model_folder).state_dict()
    for name, tensor in start.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert len(start.processor.tokenizer) == len(
        ReferSamPredictor.from_pretrained(tiny_model_folder).processor.tokenizer
    )
    with pytest.raises(CheckpointError, match="holds no ReferSAM model"):
        Trainer(miniature(model={"start_from": str(tmp_path)}), tmp_path / "other")


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it spoils the weights; the sentence says what to lower."""
    run = Trainer(miniature(), tmp_path)
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    forward = run.loss.forward
    monkeypatch.setattr(
        run.loss, "forward", lambda *arguments: {name: value * torch.nan for name, value in forward(*arguments).items()}
    )
    with pytest.raises(TrainingError, match=r"The loss is nan at step 0: lower optimizer\.learning_rate"):
        run.run()
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


# -------------------------------------------------------------------------------------------------------- checkpoints


def save(folder: Path, step: int, keep: int = 2) -> Path:
    """A small checkpoint."""
    return checkpoint.save_checkpoint(folder, step, {"value": torch.tensor(step)}, keep)


def test_a_broken_newest_checkpoint_falls_back_to_the_previous(tmp_path: Path) -> None:
    """Cut in half by a full disk or a crash of the machine."""
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    newest.write_bytes(newest.read_bytes()[:200])
    state = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert (state["step"], state["value"].item()) == (1, 1)
    (tmp_path / "step_0000001.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"None of the 2 checkpoints in .* can be read"):
        checkpoint.load_newest(tmp_path)


def test_a_broken_newer_checkpoint_does_not_push_out_good_ones(tmp_path: Path) -> None:
    """After falling back, what is saved is kept although a broken file has a higher number."""
    save(tmp_path, 1)
    (tmp_path / "step_0000009.pt").write_bytes(b"broken")
    save(tmp_path, 2, keep=1)
    state = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 2


def test_a_killed_write_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    """A leftover .tmp is no checkpoint, and is cleared away."""
    save(tmp_path, 1)
    (tmp_path / "step_0000002.tmp").write_bytes(b"half")
    state = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 1
    checkpoint.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step_0000001.pt"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_write_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: BaseException
) -> None:
    """torch's writer turns Ctrl-C and a full disk into an error of its own: they come through as what they are."""
    save(tmp_path, 1)

    class Failing(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() > 100:
                raise interruption
            return super().write(data)

    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode="r", *a: Failing() if "w" in mode else real(self, mode, *a))
    with pytest.raises(type(interruption)):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step_0000001.pt"]


def test_checkpoints_restore_the_random_state(tmp_path: Path) -> None:
    """The next numbers of all three generators are those that would have come."""
    import random

    def draw() -> tuple[float, float, float]:
        return torch.rand(1).item(), float(np.random.rand()), random.random()

    save(tmp_path, 1)
    expected = draw()
    assert draw() != expected
    checkpoint.load_newest(tmp_path)
    assert draw() == expected


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    """Also where the folder is missing; other files do not count."""
    assert checkpoint.load_newest(tmp_path / "missing") is None
    (tmp_path / "step_last.pt").write_bytes(b"x")
    assert checkpoint.load_newest(tmp_path) is None


def test_checkpoints_are_sorted_by_number(tmp_path: Path) -> None:
    """Not by name, in which ten million would come before two."""
    save(tmp_path, 9_999_999)
    save(tmp_path, 10_000_000)
    state = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 10_000_000


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    """A pickle that would create a file: refused, and not run."""
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str, str]]:
            return (open, (str(tmp_path / "pwned"), "w"))

    (tmp_path / "step_0000001.pt").write_bytes(pickle.dumps({"random": Evil()}))
    with pytest.raises(CheckpointError, match="None of the 1 checkpoints"):
        checkpoint.load_newest(tmp_path)
    assert not (tmp_path / "pwned").exists()


def test_replace_folder(tmp_path: Path) -> None:
    """The new one takes the old one's place, and nothing is left beside it."""
    for name in ("final", "temporary"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text("x")
    checkpoint.replace_folder(tmp_path / "temporary", tmp_path / "final")
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    assert [path.name for path in (tmp_path / "final").iterdir()] == ["temporary.txt"]


# ------------------------------------------------------------------------------------------------------------- stream


def equal(one: Batch, other: Batch) -> bool:
    """All tensors of two batches."""
    return all(torch.equal(value, getattr(other, name)) for name, value in vars(one).items())


def test_workers_give_the_batches_of_one_process() -> None:
    """Two workers, in order, each batch once, also from the middle; shapes and ranges."""
    settings = miniature(steps=7, batch_pictures=2, data={"workers": 2})
    processor = trainer.build_processor(settings)
    expected = list(BatchStream(settings, processor))
    assert len(expected) == 7
    for first in (0, 3):
        got = list(training_loader(BatchStream(settings, processor, first)))
        assert len(got) == 7 - first
        assert all(itertools.starmap(equal, zip(got, expected[first:], strict=True)))
    assert not equal(expected[0], expected[1])
    batch = expected[0]
    assert batch.pixel_values.shape == (2, 3, 64, 64)
    assert batch.target_mask.shape == (4, 64, 64)
    assert batch.input_ids.shape == batch.attention_mask.shape
    assert len(batch.input_ids) == 4
    assert 0 <= batch.target_mask.min() <= batch.target_mask.max() <= 1


def test_processes_share_the_pictures_of_one() -> None:
    """Two processes with one picture each see what one process with two sees, in order."""
    both = miniature(batch_pictures=2)
    processor = trainer.build_processor(both)
    one = miniature()
    for number in range(2):
        together = BatchStream(both, processor).batch(number)
        apart = [BatchStream(one, processor, rank=rank, world_size=2).batch(number) for rank in range(2)]
        assert torch.equal(torch.cat([batch.pixel_values for batch in apart]), together.pixel_values)
        assert torch.equal(torch.cat([batch.target_mask for batch in apart]), together.target_mask)


def test_the_loader_leaves_torchs_generator_alone() -> None:
    """Else a resumed run would draw other points than one that was not stopped."""
    settings = miniature(steps=1)
    stream = BatchStream(settings, trainer.build_processor(settings))
    before = torch.get_rng_state()
    next(iter(training_loader(stream)))
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------------------------------------------- optimization


def test_rate_factor_by_hand() -> None:
    """100 steps, 4 of warm-up, decay from step 60 on."""
    settings = OptimizerSettings(warmup_steps=4, decay_from=0.6)
    expected = {0: 0.25, 1: 0.5, 3: 1.0, 4: 1.0, 60: 1.0, 70: 0.75, 80: 0.5, 99: 0.025, 100: 0.0, 150: 0.0}
    assert {step: rate_factor(step, 100, settings) for step in expected} == pytest.approx(expected)
    square = OptimizerSettings(warmup_steps=0, decay_from=0.0, decay_power=2.0)
    assert [rate_factor(step, 10, square) for step in (0, 5, 9)] == pytest.approx([1.0, 0.25, 0.01])


def test_weight_decay_is_on_matrices_and_kernels_alone() -> None:
    """Each trained parameter is in one group; norms, biases, gates, tokens and embeddings are in the plain one."""
    model = ReferSamModel(ReferSamConfig.from_preset("tiny"))
    (optimizer,) = build_optimizers(model, OptimizerSettings(learning_rate=0.3, weight_decay=0.07, beta2=0.9))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, plain = ({names[id(parameter)] for parameter in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.07, 0.0]
    assert {(group["lr"], group["betas"]) for group in optimizer.param_groups} == {(0.3, (0.9, 0.9))}
    assert decayed | plain == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not decayed & plain
    assert all(name.endswith("weight") for name in decayed)
    assert all(dict(model.named_parameters())[name].ndim >= 2 for name in decayed)
    parts = ("norm", "bias", "embeddings.weight", "gate", "tokens", "level_embedding", "pos_embed", "rel_pos")
    for name in model.state_dict():
        if name in decayed:
            assert not any(part in name for part in parts), name
    kinds = {name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm | nn.GroupNorm)}
    assert {f"{name}.weight" for name in kinds} & plain
    assert "interactor.context_tokens" in plain
    assert "text_encoder.embeddings.word_embeddings.weight" in plain


def test_muon_takes_the_matrices_of_linear_layers() -> None:
    """Each trained parameter is in one group of one optimizer; kernels, embeddings and vectors stay AdamW's."""
    model = ReferSamModel(ReferSamConfig.from_preset("tiny"))
    muon, adamw = build_optimizers(model, OptimizerSettings(learning_rate=0.3, matrix_rate=0.2, weight_decay=0.07))
    assert (muon.param_groups[0]["lr"], muon.param_groups[0]["weight_decay"]) == (0.2, 0.07)
    assert [group["lr"] for group in adamw.param_groups] == [0.3, 0.3]
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    taken = [id(parameter) for parameter in muon.param_groups[0]["params"]]
    others = [id(parameter) for group in adamw.param_groups for parameter in group["params"]]
    assert set(taken) <= linear
    assert all(min(parameter.shape) == 1 for parameter in model.parameters() if id(parameter) in linear - set(taken))
    assert sorted(taken + others) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_frozen_parameters_are_in_no_group() -> None:
    """CLIP's text encoder, as in the paper."""
    model = ReferSamModel(ReferSamConfig.from_preset("tiny", "clip", freeze_text_encoder=True))
    (optimizer,) = build_optimizers(model, OptimizerSettings())
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert not trained & {id(parameter) for parameter in model.text_encoder.parameters()}
    assert trained
