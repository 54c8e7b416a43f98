"""Auxiliary objectives on rendered scenes: losses by hand, hooks, stopped and resumed runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from refersam import ReferSamModel
from refersam.training.building import build_model, build_processor
from refersam.training.data import Batch
from refersam.training.settings import SettingsError
from refersam.training.trainer import Trainer
from sceneref.training.labels import ATTRIBUTES, CONDITIONS, MENTIONS
from sceneref.training.objectives import ConditionHeads, GroundingHeads, SceneObjectives
from sceneref.training.settings import ObjectiveSettings, SceneRefTrainSettings
from sceneref.training.source import SceneSource

Miniature = Callable[..., SceneRefTrainSettings]


def test_the_loss_by_hand() -> None:
    """One head, one feature that is the logit of the first mention; the second mention has its bias only."""
    heads = GroundingHeads(hidden_size=1, num_fusions=1)
    with torch.no_grad():
        heads.heads[0].weight.copy_(torch.tensor([[1.0], [0.0]]))
        heads.heads[0].bias.copy_(torch.tensor([0.0, -1.0]))
    mask = torch.zeros(1, 2, 2, 2)
    mask[0, 0, 0] = 1  # the upper two of four cells: half of the one cell at stride 16
    fine, coarse, unread = [3.0, 3.0, -3.0, -3.0], [0.5], [99.0]
    pyramid = torch.tensor([*fine, *coarse, *unread]).view(1, -1, 1)

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    def entropy(x: float, y: float) -> float:
        return -y * math.log(sigmoid(x)) - (1 - y) * math.log(1 - sigmoid(x))

    def dice(probabilities: list[float], truth: list[float]) -> float:
        both = sum(p * t for p, t in zip(probabilities, truth, strict=True))
        return 1 - (2 * both + 1) / (sum(probabilities) + sum(truth) + 1)

    at_8 = (entropy(3, 1) + entropy(-1, 0)) / 2
    at_8 += (dice([sigmoid(3)] * 2 + [sigmoid(-3)] * 2, [1, 1, 0, 0]) + dice([sigmoid(-1)] * 4, [0] * 4)) / 2
    at_16 = (entropy(0.5, 0.5) + entropy(-1, 0)) / 2
    at_16 += (dice([sigmoid(0.5)], [0.5]) + dice([sigmoid(-1)], [0])) / 2
    masks, pointing = heads([pyramid], mask)
    assert masks.item() == pytest.approx((at_8 + at_16) / 2, rel=1e-5)
    # Of two cells in four at stride 8, each with half of the truth; one in one at 16; the second mention is of nothing.
    chance = math.exp(3) / (2 * math.exp(3) + 2 * math.exp(-3))
    assert pointing.item() == pytest.approx(math.log(0.5 / chance) / 2 / 2, abs=1e-6)


def test_the_loss_of_conditions_by_hand() -> None:
    """Levels have equal weights, and so have labelled cells; a phrase without labels contributes 0."""
    heads = ConditionHeads(hidden_size=1, num_fusions=1)
    with torch.no_grad():
        heads.heads[0].weight.fill_(1.0)
        heads.heads[0].bias.fill_(0.0)
    labels = {
        8: torch.tensor([[[1, -1], [0, -1]], [[-1, -1], [-1, -1]]], dtype=torch.int8),
        16: torch.tensor([[[1]], [[-1]]], dtype=torch.int8),
    }
    pyramid = torch.tensor([2.0, 77.0, -1.0, 77.0, 0.5, 99.0]).view(1, -1, 1).repeat(2, 1, 1)
    fine = (math.log(1 + math.exp(-2.0)) + math.log(1 + math.exp(-1.0))) / 2
    coarse = math.log(1 + math.exp(-0.5))
    assert heads([pyramid], labels).item() == pytest.approx((fine + coarse) / 2 / 2, rel=1e-5)
    empty = {stride: torch.full_like(of, -1) for stride, of in labels.items()}
    assert heads([pyramid], empty).item() == 0


WEIGHTS = {"grounding": 1.0, "attributes": 2.0, "conditions": 3.0, "positions": 4.0, "pointing": 5.0}


def make_batch() -> Batch:
    """Return a batch of one image with two phrases and random labels."""
    labels = {8: torch.randint(-1, 3, (1, 3, 8, 8)), 16: torch.randint(-1, 3, (1, 3, 4, 4))}
    conditions = {8: torch.randint(-1, 2, (2, 8, 8)), 16: torch.randint(-1, 2, (2, 4, 4))}
    return Batch(
        pixel_values=torch.rand(1, 3, 64, 64),
        input_ids=torch.tensor([[5, 6, 7], [8, 9, 10]]),
        attention_mask=torch.ones(2, 3, dtype=torch.int64),
        target_mask=torch.zeros(2, 64, 64),
        sample_ids=("a", "b"),
        seeds=(0, 1),
        extra={MENTIONS: torch.rand(2, 2, 8, 8), ATTRIBUTES: labels, CONDITIONS: conditions},
    )


def test_objectives_of_a_model(tiny_model_folder: Path) -> None:
    """A term per weight and the weighted sum; gradients reach the fusions, or only the parts before them."""
    model, batch = ReferSamModel.from_pretrained(tiny_model_folder), make_batch()
    inputs = batch.pixel_values, batch.input_ids, batch.attention_mask
    objectives = SceneObjectives(model, ObjectiveSettings(**WEIGHTS))
    assert objectives.grounding is not None
    assert objectives.condition is not None
    assert len(objectives.grounding.heads) == len(objectives.condition.heads) == len(model.config.layer_groups) + 1
    for head in objectives.grounding.heads:
        torch.nn.init.ones_(head.weight)
    with objectives.observe(model):
        output = model(*inputs)
    features = objectives._features
    assert [pyramid.shape[:2] for pyramid in features.before] == [(1, 64 + 16 + 4)]
    assert [pyramid.shape[:2] for pyramid in features.fused] == [(2, 64 + 16 + 4)] * len(objectives.grounding.heads)
    loss, terms = objectives(model, batch, output)
    attributes = terms["colour"] + terms["shape"] + terms["pattern"]
    weighted = (
        terms["grounding"] + 5 * terms["pointing"] + 2 * attributes + 3 * terms["condition"] + 4 * terms["position"]
    )
    assert loss.item() == pytest.approx(weighted.item(), rel=1e-5)
    assert terms["auxiliary"] is loss
    terms["grounding"].backward(retain_graph=True)
    for interaction in model.interactor.interactions:
        assert interaction.fusion.pyramid_ffn[0].weight.grad.abs().sum() > 0
    model.zero_grad()
    attributes.backward()
    assert model.interactor.spatial_prior.stem[0].weight.grad.abs().sum() > 0
    assert model.interactor.interactions[0].fusion.pyramid_ffn[0].weight.grad is None


def test_hooks_are_removed(tiny_model_folder: Path) -> None:
    """Also after an error; the model's output is unchanged, and the features of a batch are freed."""
    model, batch = ReferSamModel.from_pretrained(tiny_model_folder), make_batch()
    inputs = batch.pixel_values, batch.input_ids, batch.attention_mask
    objectives = SceneObjectives(model, ObjectiveSettings(**WEIGHTS))
    with objectives.observe(model):
        output = model(*inputs)
    objectives(model, batch, output)
    assert objectives._features.fused == []
    with pytest.raises(KeyError), objectives.observe(model):
        raise KeyError
    assert torch.equal(output.mask_logits, model(*inputs).mask_logits)
    assert objectives._features.fused == []
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_an_objective_alone(tiny_model_folder: Path, name: str) -> None:
    """Only its own terms are computed, from its own labels."""
    model, batch = ReferSamModel.from_pretrained(tiny_model_folder), make_batch()
    needs = {"grounding": MENTIONS, "pointing": MENTIONS, "attributes": ATTRIBUTES, "conditions": CONDITIONS}
    batch.extra = {key: value for key, value in batch.extra.items() if key == needs.get(name)}
    objectives = SceneObjectives(model, ObjectiveSettings(**{name: 1.0}))
    with objectives.observe(model):
        output = model(batch.pixel_values, batch.input_ids, batch.attention_mask)
    terms = {
        "grounding": {"grounding", "pointing"},
        "pointing": {"grounding", "pointing"},
        "attributes": {"colour", "shape", "pattern", "colour accuracy", "shape accuracy", "pattern accuracy"},
        "conditions": {"condition"},
        "positions": {"position"},
    }
    assert set(objectives(model, batch, output).terms) == terms[name] | {"auxiliary"}


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_they_need_an_interactor(name: str, miniature: Miniature, small_model: dict[str, Any]) -> None:
    """One sentence before the first step."""
    settings = miniature(model={"config": {**small_model, "use_interactor": False}})
    model = build_model(settings, build_processor(settings, SceneSource(settings)))
    with pytest.raises(SettingsError, match=r"sceneref\.objectives need a model with an interactor"):
        SceneObjectives(model, ObjectiveSettings(**{name: 1.0}))


def test_a_run_learns_them_and_resumes_bit_for_bit(tmp_path: Path, miniature: Miniature) -> None:
    """A checkpoint has the heads, their moments and learning rate; the final model has no heads."""
    weights = {"grounding": 0.5, "attributes": 0.25, "conditions": 0.125, "positions": 0.0625}
    settings = miniature(sceneref={"objectives": weights}, steps=4, optimizer={"warmup_steps": 0})
    whole = Trainer(settings, tmp_path / "whole")
    whole.run()
    lines = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    for line in (line for line in lines if line["kind"] == "train"):
        masks = sum(line[name] for name in ("mask", "dice", "coarse_mask", "coarse_dice"))
        attributes = sum(line[name] for name in ("colour", "shape", "pattern"))
        total = masks + 0.5 * (line["iou"] + line["object"] + line["grounding"]) + 0.25 * attributes
        total += 0.125 * line["condition"] + 0.0625 * line["position"]
        assert line["total"] == pytest.approx(total, rel=1e-4)
    (objectives,) = whole.engine.plain_trainee.objectives
    assert all(parameter.abs().sum() > 0 for name, parameter in objectives.named_parameters() if "weight" in name)
    assert whole.engine.peak_rates[-1] == [SceneObjectives.learning_rate]
    Trainer(settings, tmp_path / "parts").run()
    (tmp_path / "parts/checkpoints/step_0000004.pt").unlink()
    again = Trainer(settings, tmp_path / "parts", resume=True)
    assert again.step == 2
    again.run()
    states = [torch.load(tmp_path / part / "checkpoints/step_0000004.pt") for part in ("whole", "parts")]
    assert len(states[0]["objectives"]) == len(objectives.state_dict()) > 10
    for name, tensor in states[0]["objectives"].items():
        assert torch.equal(tensor, states[1]["objectives"][name]), name
    final = "model/model.safetensors"
    assert (tmp_path / "whole" / final).read_bytes() == (tmp_path / "parts" / final).read_bytes()
    names = ReferSamModel.from_pretrained(tmp_path / "whole/model").state_dict()
    assert not any(
        "heads" in name or name.startswith(("grounding", "attributes", "condition", "positions")) for name in names
    )
