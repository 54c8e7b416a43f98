"""Lessons in seeing, before the first step."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from refersam import ReferSamConfig, ReferSamModel
from refersam.model.spatial_prior import SpatialPrior
from refersam.processor import ReferSamImageProcessor, ReferSamProcessor
from refersam.tokenizer import train_tokenizer
from refersam.training import pretraining, reading
from refersam.training.looks import cell_labels, looks_of
from refersam.training.pretraining import Lessons, Pupil, fine_labels
from refersam.training.pretraining import pretrain as pretrain_model
from refersam.training.settings import PretrainingSettings, TrainSettings
from refersam.training.trainer import Trainer
from sceneref import SceneRefSettings, generate_scene
from sceneref.colours import COLOURS
from sceneref.objects import PATTERNS, SHAPES

Miniature = Callable[..., TrainSettings]


def few(**changes: object) -> PretrainingSettings:
    """Six steps on eight small pictures."""
    small = {"steps": 6, "pictures": 8, "batch_pictures": 4, "image_size": 64, "log_every": 1, "checkpoint_every": 2}
    return PretrainingSettings.model_validate({**small, **changes})


def make_model() -> ReferSamModel:
    """The same weights each time."""
    torch.manual_seed(0)
    return ReferSamModel(ReferSamConfig.from_preset("tiny", spatial_prior_channels=8)).train()


def pretrain(model: ReferSamModel, settings: PretrainingSettings, folder: Path, **more: object) -> None:
    """On one process."""
    processor = ReferSamProcessor(
        ReferSamImageProcessor(), train_tokenizer(["a red star"], vocab_size=256, min_count=1)
    )
    pretrain_model(model, settings, processor, Accelerator(cpu=True), folder, 0, **more)


def test_labels_are_what_lies_in_each_cell() -> None:
    """Counted pixel by pixel."""
    scene = generate_scene(SceneRefSettings(width=96, height=64, phrases_per_scene=1), "train", 0, 3)
    fine = fine_labels(scene)
    assert fine.shape == (2, 16, 24)
    covered = scene.masks.any(axis=0)
    assert float(fine[0, 5, 7]) == covered[20:24, 28:32].mean()
    assert float(fine[0].mean()) == pytest.approx(covered.mean())
    seen = 0
    for stride, least in ((8, 0.5), (16, 0.2)):
        labels = cell_labels(torch.from_numpy(scene.masks).float(), looks_of(scene.objects), stride)
        assert labels.shape == (3, 64 // stride, 96 // stride)
        for row, column in np.ndindex(*labels.shape[1:]):
            cell = np.s_[row * stride : (row + 1) * stride, column * stride : (column + 1) * stride]
            here = [i for i, mask in enumerate(scene.masks) if mask[cell].mean() > least]
            found = labels[:, row, column].tolist()
            if here:
                item = scene.objects[here[-1]]  # the one drawn last, on top
                expected = COLOURS.index(item.colour), SHAPES.index(item.shape), PATTERNS.index(item.pattern)
                assert found == list(expected)
                seen += 1
            else:
                assert found == [-1, -1, -1]
    assert seen > 5


def test_share_of_patterned_pictures_in_lessons() -> None:
    """None, or in most; a picture may pick plain objects alone."""

    def has_patterns(**changes: object) -> list[bool]:
        cells = Lessons(few(pictures=12, **changes), seed=0).cells[16]  # (12, 3, rows, columns)
        return [bool((labels > PATTERNS.index("plain")).any()) for labels in cells[:, 2]]

    assert not any(has_patterns(patterned=0.0))
    assert sum(has_patterns()) < sum(has_patterns(patterned=1.0))


def test_pictures_and_labels_are_turned_together() -> None:
    """Each batch depends on its number alone; whatever is done to a picture is done to its labels."""
    lessons = Lessons(few(pictures=3), seed=0)
    changed = set()
    for number in range(12):
        images, fine, cells = lessons.batch(number, 2)
        again = lessons.batch(number, 2)
        assert torch.equal(images, again[0])
        for image, covered, labels in zip(images, fine[:, 0], cells[16][:, 0], strict=True):
            matches = []
            for index, original in enumerate(lessons.images):
                for quarters in range(4):
                    for mirrored in (False, True):
                        turned = torch.rot90(original, quarters, (0, 1))
                        if torch.equal(turned.flip(1) if mirrored else turned, image):
                            matches.append((index, quarters, mirrored))
            index, quarters, mirrored = matches[0]
            changed.add((quarters, mirrored))
            for found, source in ((covered, lessons.fine[index, 0]), (labels, lessons.cells[16][index, 0])):
                expected = torch.rot90(source, quarters, (0, 1))
                assert torch.equal(found, expected.flip(1) if mirrored else expected)
    assert len(changed) > 3


def test_processes_draw_different_pictures() -> None:
    """Every picture of the pool is one process's."""
    whole = Lessons(few(pictures=5), seed=0).images
    parts = [Lessons(few(pictures=5), seed=0, rank=rank, world_size=2).images for rank in range(2)]
    assert torch.equal(parts[0], whole[::2])
    assert torch.equal(parts[1], whole[1::2])


@pytest.mark.parametrize("part", ["prior", "encoder"])
def test_colours_are_learned(part: str, tmp_path: Path) -> None:
    """In sixty steps, far below the loss of a guess among twelve at both strides."""
    lines: list[dict[str, float]] = []
    settings = few(
        steps=60, pictures=24, log_every=20, difficulty=0.0, checkpoint_every=60, batch_pictures=8, part=part
    )
    pretrain(make_model(), settings, tmp_path, progress=lambda _step, terms: lines.append(terms))
    assert lines[0]["colour"] > 3.5
    assert lines[-1]["colour"] < 0.8 * lines[0]["colour"]
    assert 0 <= lines[-1]["shape right"] <= 1
    terms = (lines[-1][name] for name in ("fine", "colour", "shape", "pattern"))
    assert lines[-1]["total"] == pytest.approx(sum(terms), rel=1e-4)


def test_places_are_learned(tmp_path: Path) -> None:
    """Half as far off as a guess of the middle, which is a quarter of the side; and the terms add up."""
    lines: list[dict[str, float]] = []
    settings = few(steps=60, pictures=24, log_every=10, batch_pictures=8, part="encoder", position_weight=0.5)
    pretrain(make_model(), settings, tmp_path, progress=lambda _step, terms: lines.append(terms))
    assert lines[-1]["position"] < 0.5 * 2.5
    terms = sum(lines[-1][name] for name in ("fine", "colour", "shape", "pattern"))
    assert lines[-1]["total"] == pytest.approx(terms + 0.5 * lines[-1]["position"], rel=1e-4)


SEES_NO_TEXT = (
    "interactor.spatial_prior.",
    "interactor.interactions.0.injector.",
    "interactor.interactions.0.extractor.",
    "interactor.mask_features.lateral",
    "sam.vision_encoder.p",  # patch and position embeddings
    "sam.vision_encoder.layers.0.",
    "sam.vision_encoder.layers.1.",
)


@pytest.mark.parametrize("part", ["prior", "encoder"])
def test_what_is_taught(part: str, tmp_path: Path) -> None:
    """The spatial prior, or all that sees no text; the rest stays as it is. A prior whose own rate is 0 is taught."""
    model = make_model()
    assert model.interactor.layer_groups[0] == (0, 1)
    model.interactor.spatial_prior.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pretrain(model, few(part=part), tmp_path)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    parts = SEES_NO_TEXT if part == "encoder" else SEES_NO_TEXT[:1]
    assert all(name.startswith(parts) for name in changed)
    assert all(any(name.startswith(prefix) for name in changed) for prefix in parts)
    assert not any(parameter.requires_grad for parameter in model.interactor.spatial_prior.parameters())


@pytest.mark.parametrize("part", ["prior", "encoder"])
def test_a_stopped_phase_goes_on_bit_for_bit(part: str, tmp_path: Path) -> None:
    """Stopped after step 5, it goes on from the checkpoint of step 4; afterwards it is not repeated."""
    expected = make_model()
    pretrain(expected, few(part=part), tmp_path / "undisturbed")

    class Killed(BaseException):
        pass

    def stop(step: int, _terms: dict[str, float]) -> None:
        if step == 5:
            raise Killed

    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(Killed):
        pretrain(model, few(part=part), tmp_path / "stopped", progress=stop)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    steps: list[int] = []
    pretrain(model, few(part=part), tmp_path / "stopped", progress=lambda step, _terms: steps.append(step))
    assert steps == [5, 6]
    for name, value in expected.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    finished = make_model()
    pretrain(finished, few(part=part), tmp_path / "stopped", progress=stop)
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in finished.state_dict().items())


def test_the_largest_seed_on_many_processes() -> None:
    """Fits what torch takes; processes and batches still differ."""
    one, other = (Lessons(few(pictures=16), 2**31 - 1, rank, 8) for rank in (6, 7))
    assert not torch.equal(one.batch(0, 4)[0], other.batch(0, 4)[0])
    assert not torch.equal(one.batch(0, 4)[0], one.batch(1, 4)[0])


def test_rate() -> None:
    """Warm-up of 50 steps, constant, then a line to zero."""
    settings = PretrainingSettings(steps=1000, learning_rate=0.1, decay_from=0.6, warmup_steps=50)
    assert [settings.rate(step) for step in (0, 49, 600, 800, 1000)] == pytest.approx([0.002, 0.1, 0.1, 0.05, 0.0])


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_a_run_with_pretraining(factor: float, miniature: Miniature, tmp_path: Path) -> None:
    """The phase is logged and comes once; its prior stays as it is where its rate is 0."""
    changes = {"pretraining": few().model_dump(), "optimizer": {"prior_factor": factor, "ema_decay": 0.0}}
    settings = miniature(**changes)
    Trainer(settings, tmp_path / "run").run()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    phase = [line for line in lines if line["kind"] == "pretraining"]
    assert [line["pretraining steps"] for line in phase] == [1, 2, 3, 4, 5, 6]
    model = ReferSamModel.from_pretrained(tmp_path / "run" / "model")
    state = torch.load(tmp_path / "run" / "pretraining" / "1" / "step_0000006.pt", weights_only=True)["model"]
    same = [
        torch.equal(value, state[f"taught.{name}"])
        for name, value in model.interactor.spatial_prior.state_dict().items()
    ]
    assert all(same) if not factor else not any(same)


def test_a_stop_before_the_first_step(miniature: Miniature, tmp_path: Path) -> None:
    """By a signal with a checkpoint, or by a kill: the resumed run ends bit for bit where an undisturbed one does."""
    settings = miniature(steps=1, pretraining=few(checkpoint_every=4).model_dump())
    Trainer(settings, tmp_path / "undisturbed").run()

    class Killed(BaseException):
        pass

    def announce(_step: int, values: dict[str, float]) -> None:
        if values.get("pretraining") == 2 / 6:
            os.kill(os.getpid(), signal.SIGTERM)

    def kill(_step: int, values: dict[str, float]) -> None:
        if values.get("pretraining") == 5 / 6:
            raise Killed

    before = signal.getsignal(signal.SIGTERM)
    run = Trainer(settings, tmp_path / "told")
    assert run.run(announce) == {}
    assert signal.getsignal(signal.SIGTERM) == before
    assert (run.step, run.stopped_by) == (0, "SIGTERM")
    assert [path.name for path in (tmp_path / "told" / "pretraining" / "1").iterdir()] == ["step_0000003.pt"]
    with pytest.raises(Killed):
        Trainer(settings, tmp_path / "killed").run(kill)
    for name in ("told", "killed"):
        Trainer(settings, tmp_path / name, resume=True).run()
        final = "model/model.safetensors"
        assert (tmp_path / name / final).read_bytes() == (tmp_path / "undisturbed" / final).read_bytes()
        lines = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        assert [line["pretraining steps"] for line in lines if line["kind"] == "pretraining"] == [1, 2, 3, 4, 5, 6]


def test_phases_follow_one_another(miniature: Miniature, tmp_path: Path) -> None:
    """Each on what the one before made of the model, logged as one; a stop in the second loses nothing of either."""
    language = few(part="language", steps=4, phrases_per_picture=4).model_dump()
    settings = miniature(steps=1, pretraining=[few(part="encoder").model_dump(), language])
    Trainer(settings, tmp_path / "undisturbed").run()

    def stop(_step: int, values: dict[str, float]) -> None:
        if values.get("pretraining") == 8 / 10:
            os.kill(os.getpid(), signal.SIGTERM)

    run = Trainer(settings, tmp_path / "told")
    run.run(stop)
    assert (run.step, run.stopped_by) == (0, "SIGTERM")
    resumed = Trainer(settings, tmp_path / "told", resume=True)
    resumed.run()
    folders = [path.name for path in sorted((tmp_path / "told" / "pretraining").glob("*/*"))]
    assert folders == ["step_0000006.pt", "step_0000004.pt"]
    seen, read = (
        torch.load(tmp_path / "told" / "pretraining" / name, weights_only=True)["model"]
        for name in ("1/step_0000006.pt", "2/step_0000004.pt")
    )
    prior = [name for name in read if "spatial_prior" in name]
    assert prior
    assert all(torch.equal(seen[name], read[name]) for name in prior)
    final = "model/model.safetensors"
    assert (tmp_path / "told" / final).read_bytes() == (tmp_path / "undisturbed" / final).read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "told" / "log.jsonl").read_text().splitlines()]
    phases = [line for line in lines if line["kind"] == "pretraining"]
    assert [line["pretraining steps"] for line in phases] == list(range(1, 11))
    assert ["phrases right" in line for line in phases] == [False] * 6 + [True] * 4


def test_means_of_a_log_line_are_of_the_steps_in_it(tmp_path: Path) -> None:
    """Also in a line that a stop cuts short."""
    single: list[float] = []
    pretrain(make_model(), few(), tmp_path / "single", progress=lambda _step, terms: single.append(terms["total"]))
    lines: list[tuple[int, float]] = []
    pretrain(
        make_model(),
        few(log_every=4),
        tmp_path / "lines",
        progress=lambda step, terms: lines.append((step, terms["total"])),
    )
    assert [step for step, _ in lines] == [4, 6]
    assert [mean for _, mean in lines] == pytest.approx([sum(single[:4]) / 4, sum(single[4:]) / 2])


def test_lessons_without_an_object_teach_no_looks() -> None:
    """Objects may all be too small for a cell: no loss is no number."""
    module = Pupil(SpatialPrior(channels=8, hidden_size=32))
    nothing = {stride: torch.full((1, 3, 64 // stride, 64 // stride), -1) for stride in (8, 16)}
    with torch.no_grad():
        terms = module(torch.randn(1, 3, 64, 64), torch.zeros(1, 2, 16, 16), nothing)
    assert [float(terms[name]) for name in ("colour", "shape", "pattern", "shape right")] == [0] * 4
    assert float(terms["total"]) == float(terms["fine"]) > 0


@pytest.mark.parametrize("part", ["encoder", "language"])
def test_a_signal_while_pictures_are_drawn(
    part: str, miniature: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No further one is drawn, no step is taken; the resumed run begins the phase anew."""
    module = pretraining if part == "encoder" else reading
    draw, drawn = module.generate_scene, []

    def signalled(*arguments: Any) -> Any:
        drawn.append(arguments)
        if len(drawn) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(*arguments)

    settings = miniature(steps=1, pretraining=[few(part=part).model_dump()])
    run = Trainer(settings, tmp_path)
    monkeypatch.setattr(module, "generate_scene", signalled)
    assert run.run() == {}
    assert (len(drawn), run.step, run.stopped_by) == (2, 0, "SIGTERM")
    steps: list[tuple[int, int]] = []
    Trainer(settings, tmp_path, resume=True).run(on_step=lambda *done: steps.append(done))
    assert steps == [*((step, 0) for step in range(1, 7)), (6, 1)]
