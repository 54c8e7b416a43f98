"""Pretraining on the labels of rendered scenes, before the first step."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from refersam import ReferSamConfig, ReferSamModel
from refersam.model.spatial_prior import SpatialPrior
from refersam.processor import ReferSamImageProcessor
from refersam.training.phases import Phase
from refersam.training.trainer import Trainer
from sceneref import SceneRefSettings, generate_scene
from sceneref.objects import PATTERNS
from sceneref.training import pretraining
from sceneref.training.pretraining import LabelBatch, LabelledScenes, LabelPhase, LabelTrainee, fine_labels
from sceneref.training.settings import PretrainingSettings, SceneRefTrainSettings

Miniature = Callable[..., SceneRefTrainSettings]
TrainPhase = Callable[[Phase], list[dict[str, float]]]
SMALL = {"steps": 6, "images": 8, "batch_size": 4, "image_size": 64, "log_every": 1, "checkpoint_every": 2}
"""Six steps on eight small images."""
FINAL = "model/model.safetensors"


class Killed(BaseException):
    """Stops a run immediately."""


def few(**changes: object) -> PretrainingSettings:
    """Return settings of a small phase."""
    return PretrainingSettings.model_validate({**SMALL, **changes})


def make_model() -> ReferSamModel:
    """Build the same weights each time."""
    torch.manual_seed(0)
    return ReferSamModel(ReferSamConfig.from_preset("tiny", spatial_prior_channels=8)).train()


def make_phase(model: ReferSamModel, **changes: object) -> LabelPhase:
    """Return a small phase for one process."""
    return LabelPhase(few(**changes), model, ReferSamImageProcessor(), Accelerator(cpu=True), seed=0, max_skipped=5)


def with_phases(miniature: Miniature, *phases: dict[str, Any], **changes: Any) -> SceneRefTrainSettings:
    """Return settings of a run with small phases."""
    return miniature(sceneref={"pretraining": [{**SMALL, **phase} for phase in phases]}, **changes)


def phase_lines(folder: Path) -> list[dict[str, Any]]:
    """Return the log lines of the phases."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "pretraining"]


# ------------------------------------------------------------------------------------------------- images and labels


def test_fine_labels() -> None:
    """The share of each cell that objects cover, checked by pixels; edges are at the objects' borders."""
    scene = generate_scene(SceneRefSettings(width=96, height=64, phrases_per_scene=1), "train", 0, 3)
    fine = fine_labels(scene)
    assert fine.shape == (2, 16, 24)
    covered = scene.masks.any(axis=0)
    assert float(fine[0, 5, 7]) == covered[20:24, 28:32].mean()
    assert float(fine[0].mean()) == pytest.approx(covered.mean())
    partly = (fine[0] > 0) & (fine[0] < 1)
    assert partly.any()
    assert bool((fine[1][partly] == 1).all())


def test_share_of_patterned_images() -> None:
    """None, or most images; an image may contain plain objects only."""

    def has_patterns(**changes: object) -> list[bool]:
        cells = LabelledScenes(few(images=12, **changes), seed=0).cells[16]  # (12, 3, rows, columns)
        return [bool((labels > PATTERNS.index("plain")).any()) for labels in cells[:, 2]]

    assert not any(has_patterns(patterned=0.0))
    assert sum(has_patterns()) < sum(has_patterns(patterned=1.0))


def test_images_and_labels_are_rotated_together() -> None:
    """A batch depends only on its index; an image and its labels are rotated and mirrored alike."""
    processor = ReferSamImageProcessor()
    scenes = LabelledScenes(few(images=3), seed=0)
    originals = [processor.normalise(image.numpy()) for image in scenes.images]
    changed = set()
    for number in range(12):
        batch = scenes.batch(number, 2, processor)
        assert torch.equal(batch.pixel_values, scenes.batch(number, 2, processor).pixel_values)
        for image, covered, labels in zip(batch.pixel_values, batch.fine[:, 0], batch.cells[16][:, 0], strict=True):
            matches = []
            for index, original in enumerate(originals):
                for quarters in range(4):
                    for mirrored in (False, True):
                        rotated = torch.rot90(original, quarters, (1, 2))
                        if torch.equal(rotated.flip(2) if mirrored else rotated, image):
                            matches.append((index, quarters, mirrored))
            index, quarters, mirrored = matches[0]
            changed.add((quarters, mirrored))
            for found, source in ((covered, scenes.fine[index, 0]), (labels, scenes.cells[16][index, 0])):
                expected = torch.rot90(source, quarters, (0, 1))
                assert torch.equal(found, expected.flip(1) if mirrored else expected)
    assert len(changed) > 3


def test_processes_render_different_images() -> None:
    """Every image belongs to one process."""
    whole = LabelledScenes(few(images=5), seed=0).images
    parts = [LabelledScenes(few(images=5), seed=0, rank=rank, world_size=2).images for rank in range(2)]
    assert torch.equal(parts[0], whole[::2])
    assert torch.equal(parts[1], whole[1::2])


def test_the_largest_seed_on_many_processes() -> None:
    """Seeds are within torch's 64 bits; processes and batches differ."""
    processor = ReferSamImageProcessor()
    one, other = (LabelledScenes(few(images=16), 2**31 - 1, rank, 8) for rank in (6, 7))
    first = one.batch(0, 4, processor).pixel_values
    assert not torch.equal(first, other.batch(0, 4, processor).pixel_values)
    assert not torch.equal(first, one.batch(1, 4, processor).pixel_values)


# ----------------------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("part", ["prior", "encoder"])
def test_colours_are_learned(part: str, train_phase: TrainPhase) -> None:
    """In sixty steps, far below the loss of random guessing among twelve colours at both strides."""
    lines = train_phase(
        make_phase(make_model(), part=part, steps=60, images=24, log_every=20, difficulty=0.0, batch_size=8)
    )
    assert lines[0]["colour"] > 3.5
    assert lines[-1]["colour"] < 0.8 * lines[0]["colour"]
    assert 0 <= lines[-1]["shape accuracy"] <= 1
    terms = (lines[-1][name] for name in ("fine", "colour", "shape", "pattern"))
    assert lines[-1]["total"] == pytest.approx(sum(terms), rel=1e-4)


def test_positions_are_learned(train_phase: TrainPhase) -> None:
    """Half the error of always predicting the centre, a quarter of the side; the terms add up."""
    phase = make_phase(
        make_model(), part="encoder", steps=60, images=24, log_every=10, batch_size=8, position_weight=0.5
    )
    last = train_phase(phase)[-1]
    assert last["position"] < 0.5 * 2.5
    terms = sum(last[name] for name in ("fine", "colour", "shape", "pattern"))
    assert last["total"] == pytest.approx(terms + 0.5 * last["position"], rel=1e-4)


TEXT_INDEPENDENT = (
    "interactor.spatial_prior.",
    "interactor.interactions.0.injector.",
    "interactor.interactions.0.extractor.",
    "interactor.mask_features.lateral",
    "sam.vision_encoder.p",  # patch and position embeddings
    "sam.vision_encoder.layers.0.",
    "sam.vision_encoder.layers.1.",
)


@pytest.mark.parametrize("part", ["prior", "encoder"])
def test_what_is_trained(part: str, train_phase: TrainPhase) -> None:
    """The spatial prior, or all text-independent parts, and no others; also if the prior is frozen later."""
    model = make_model()
    assert model.interactor.layer_groups[0] == (0, 1)
    model.interactor.spatial_prior.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_phase(make_phase(model, part=part))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    parts = TEXT_INDEPENDENT if part == "encoder" else TEXT_INDEPENDENT[:1]
    assert all(name.startswith(parts) for name in changed)
    assert all(any(name.startswith(prefix) for name in changed) for prefix in parts)
    assert not any(parameter.requires_grad for parameter in model.interactor.spatial_prior.parameters())


def test_images_without_an_object() -> None:
    """All objects may be too small to label a cell: no loss is NaN."""
    module = LabelTrainee(SpatialPrior(channels=8, hidden_size=32))
    nothing = {stride: torch.full((1, 3, 64 // stride, 64 // stride), -1) for stride in (8, 16)}
    with torch.no_grad():
        terms, _ = module(LabelBatch(torch.randn(1, 3, 64, 64), torch.zeros(1, 2, 16, 16), nothing, ("x",)))
    assert [float(terms[name]) for name in ("colour", "shape", "pattern", "shape accuracy")] == [0] * 4
    assert float(terms["total"]) == float(terms["fine"]) > 0


def test_learning_rate() -> None:
    """Warm-up of 50 steps, constant, linear decay to zero."""
    settings = PretrainingSettings(steps=1000, decay_from=0.6, warmup_steps=50)
    factors = [settings.lr_factor(step) for step in (0, 49, 600, 800, 1000)]
    assert factors == pytest.approx([0.02, 1.0, 1.0, 0.5, 0.0])


# --------------------------------------------------------------------------------------------------- phases of a run


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_a_run_with_pretraining(scale: float, miniature: Miniature, tmp_path: Path) -> None:
    """The phase is logged and runs once; the prior is unchanged for a learning rate of 0."""
    optimizer = {"spatial_prior_lr_scale": scale, "ema_decay": 0.0}
    Trainer(with_phases(miniature, {}, optimizer=optimizer), tmp_path / "run").run()
    assert [line["pretraining steps"] for line in phase_lines(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    model = ReferSamModel.from_pretrained(tmp_path / "run" / "model")
    state = torch.load(tmp_path / "run" / "pretraining" / "1" / "step_0000006.pt", weights_only=True)["trainee"]
    same = [
        torch.equal(value, state[f"trained.{name}"])
        for name, value in model.interactor.spatial_prior.state_dict().items()
    ]
    assert all(same) if not scale else not any(same)


@pytest.mark.parametrize("part", ["prior", "encoder", "text"])
def test_a_stop_in_a_phase(part: str, miniature: Miniature, tmp_path: Path) -> None:
    """By a signal with a checkpoint, or by a kill: the resumed run equals the uninterrupted one bit for bit."""
    settings = with_phases(miniature, {"part": part, "checkpoint_every": 4}, steps=1)
    Trainer(settings, tmp_path / "undisturbed").run()

    def signalled(_step: int, values: dict[str, float]) -> None:
        if values.get("pretraining") == 2 / 6:
            os.kill(os.getpid(), signal.SIGTERM)

    def kill(_step: int, values: dict[str, float]) -> None:
        if values.get("pretraining") == 5 / 6:
            raise Killed

    before = signal.getsignal(signal.SIGTERM)
    run = Trainer(settings, tmp_path / "signalled")
    assert run.run(signalled) == {}
    assert signal.getsignal(signal.SIGTERM) == before
    assert (run.step, run.stopped_by) == (0, "SIGTERM")
    assert [path.name for path in (tmp_path / "signalled" / "pretraining" / "1").iterdir()] == ["step_0000003.pt"]
    with pytest.raises(Killed):
        Trainer(settings, tmp_path / "killed").run(kill)
    for name in ("signalled", "killed"):
        Trainer(settings, tmp_path / name, resume=True).run()
        assert (tmp_path / name / FINAL).read_bytes() == (tmp_path / "undisturbed" / FINAL).read_bytes()
        assert [line["pretraining steps"] for line in phase_lines(tmp_path / name)] == [1, 2, 3, 4, 5, 6]


def test_a_finished_phase_is_not_repeated(
    miniature: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the phase and the run's first checkpoint: trained weights are loaded, no image is rendered."""
    settings = with_phases(miniature, {}, steps=3, checkpoint_every=100)
    Trainer(settings, tmp_path / "undisturbed").run()

    def kill(step: int, _values: dict[str, float]) -> None:
        if step == 2:
            raise Killed

    with pytest.raises(Killed):
        Trainer(settings, tmp_path / "killed").run(kill)
    monkeypatch.setattr(LabelPhase, "prepare", lambda *_: pytest.fail("The phase is repeated."))
    Trainer(settings, tmp_path / "killed", resume=True).run()
    assert (tmp_path / "killed" / FINAL).read_bytes() == (tmp_path / "undisturbed" / FINAL).read_bytes()


def test_phases_follow_one_another(miniature: Miniature, tmp_path: Path) -> None:
    """Each starts from the model of the previous one, with a joint log; a stop in the second loses nothing."""
    text = {"part": "text", "steps": 4, "phrases_per_image": 4}
    settings = with_phases(miniature, {"part": "encoder"}, text, steps=1)
    Trainer(settings, tmp_path / "undisturbed").run()

    def stop(_step: int, values: dict[str, float]) -> None:
        if values.get("pretraining") == 8 / 10:
            os.kill(os.getpid(), signal.SIGTERM)

    run = Trainer(settings, tmp_path / "stopped")
    run.run(stop)
    assert (run.step, run.stopped_by) == (0, "SIGTERM")
    Trainer(settings, tmp_path / "stopped", resume=True).run()
    folders = [path.name for path in sorted((tmp_path / "stopped" / "pretraining").glob("*/*"))]
    assert folders == ["step_0000006.pt", "step_0000004.pt"]
    first, second = (
        torch.load(tmp_path / "stopped" / "pretraining" / name, weights_only=True)["trainee"]
        for name in ("1/step_0000006.pt", "2/step_0000004.pt")
    )
    prior = [name for name in second if "spatial_prior" in name]
    assert prior
    assert all(torch.equal(first[name], second[name]) for name in prior)
    assert (tmp_path / "stopped" / FINAL).read_bytes() == (tmp_path / "undisturbed" / FINAL).read_bytes()
    lines = phase_lines(tmp_path / "stopped")
    assert [line["pretraining steps"] for line in lines] == list(range(1, 11))
    assert ["phrase accuracy" in line for line in lines] == [False] * 6 + [True] * 4


def test_phases_of_a_model_without_interactor(
    miniature: Miniature, small_model: dict[str, Any], tmp_path: Path
) -> None:
    """None, so that ablations can share a recipe."""
    model = {"config": {**small_model, "use_interactor": False}}
    assert Trainer(with_phases(miniature, {}, {"part": "text"}, model=model), tmp_path).phases == []


@pytest.mark.parametrize("part", ["encoder", "text"])
def test_a_signal_while_images_are_rendered(
    part: str, miniature: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No further image is rendered, no step is taken; the resumed run starts the phase again."""
    generate, rendered = pretraining.generate_scene, []

    def signalled(*arguments: Any) -> Any:
        rendered.append(arguments)
        if len(rendered) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return generate(*arguments)

    settings = with_phases(miniature, {"part": part}, steps=1)
    run = Trainer(settings, tmp_path)
    monkeypatch.setattr(pretraining, "generate_scene", signalled)  # both parts render by it
    assert run.run() == {}
    assert (len(rendered), run.step, run.stopped_by) == (2, 0, "SIGTERM")
    steps: list[tuple[int, int]] = []
    Trainer(settings, tmp_path, resume=True).run(on_step=lambda *done: steps.append(done))
    assert steps == [*((step, 0) for step in range(1, 7)), (6, 1)]
