"""Auxiliary losses of drawn scenes: labels, losses by hand, and runs that stop and go on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refersam import ReferSamModel
from refersam.model.pyramid import PyramidGeometry
from refersam.training.auxiliary import AuxiliaryHeads, ConditionHeads, GroundingHeads, seen_by
from refersam.training.building import build_model, build_processor
from refersam.training.data import BatchStream, mention_mask
from refersam.training.looks import LooksHeads, looks_of
from refersam.training.positions import PositionHeads
from refersam.training.settings import LossSettings, SettingsError, TrainSettings
from refersam.training.sources import condition_map, open_source
from refersam.training.trainer import Trainer
from sceneref import Place, Scene, SceneObject, ScenePhrase, generate_scene

Miniature = Callable[..., TrainSettings]


def auxiliary(miniature: Miniature, **changes: Any) -> TrainSettings:
    """All four losses, at weights that are told apart."""
    weights = {"grounding_weight": 0.5, "looks_weight": 0.25, "condition_weight": 0.125, "position_weight": 0.0625}
    return miniature(loss=weights, **changes)


def test_mention_mask_by_hand() -> None:
    """The first description's objects, then the union of the others'."""
    cells = torch.tensor([0.5, 0.25, 0.125, 0.0625]).view(4, 1, 1).expand(4, 2, 3)
    assert mention_mask(cells, [(0, 2)]).unique().tolist() == [0, 0.625]
    assert mention_mask(cells, [(), (1, 2), (2, 3)])[:, 0, 0].tolist() == [0, 0.4375]


def test_a_batch_has_mentions_and_looks(miniature: Miniature) -> None:
    """The shares of cells, and only where they are asked for; the other tensors are the same either way."""
    settings, without = auxiliary(miniature), miniature()
    source, processor = open_source(settings), build_processor(without, open_source(without))
    batch = BatchStream(settings, source, processor, 5).batch(1)
    plain = BatchStream(without, open_source(without), processor, 5).batch(1)
    assert (plain.mention_mask, plain.look_labels, plain.condition_labels) == (None, None, None)
    assert torch.equal(plain.target_mask, batch.target_mask)
    scene = generate_scene(settings.data.stages[0].scenes(80, 2), "train", 0, 1)
    assert batch.mention_mask is not None
    assert batch.mention_mask.shape == (2, 2, 8, 8)
    for found, phrase in zip(batch.mention_mask, scene.phrases, strict=True):
        share = scene.masks[list(phrase.mentions[0])].mean(axis=(1, 2)).sum()
        assert float(found[0].mean()) == pytest.approx(share, abs=0.01)
    assert batch.look_labels is not None
    assert {stride: labels.shape for stride, labels in batch.look_labels.items()} == {8: (1, 3, 8, 8), 16: (1, 3, 4, 4)}
    assert batch.condition_labels is not None
    assert {stride: labels.shape for stride, labels in batch.condition_labels.items()} == {8: (2, 8, 8), 16: (2, 4, 4)}
    for index, phrase in enumerate(scene.phrases):
        wanted = condition_map(scene, phrase)
        for stride, labels in batch.condition_labels.items():  # 80 px of the picture are 64 of the input
            centres = [int((cell + 0.5) * stride * 80 / 64) for cell in range(64 // stride)]
            assert labels[index].tolist() == wanted[np.ix_(centres, centres)].tolist()
    known = set(map(tuple, looks_of(scene.objects).tolist()))
    assert known >= set(map(tuple, batch.look_labels[16][0].flatten(1).T.tolist())) - {(-1, -1, -1)} != set()


def test_the_loss_by_hand() -> None:
    """One head, one feature that is the logit of the first mention; the second has its bias alone."""
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


def scene_of(place: Place | None, spared: tuple[int, ...] | None) -> tuple[Scene, ScenePhrase]:
    """8 x 6 pixels with two objects, around x = 2 and x = 5, and a phrase."""
    masks = np.zeros((2, 6, 8), dtype=bool)
    masks[0, 1:3, 1:4] = masks[1, 3:5, 4:7] = True
    palette = (0, 0, 0)
    objects = [SceneObject("star", "red", "large", "plain", 2, (x, y), 0, 3, palette) for x, y in ((2.5, 2), (5.5, 4))]
    phrase = ScenePhrase("x", (0,), ("relative",), ((0, 1),), place, spared)
    return Scene(np.zeros((6, 8, 3), np.uint8), tuple(objects), masks, (phrase,)), phrase


def test_an_object_is_in_a_place_as_a_whole() -> None:
    """By its centre, and left open where that is; pixels beside objects by themselves."""
    told = condition_map(*scene_of(Place("x", high=4.5, margin=0.75), None))
    assert told[0].tolist() == [1, 1, 1, 1, -1, 0, 0, 0]
    assert told[1].tolist() == [1, 1, 1, 1, -1, 0, 0, 0]
    assert told[4].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert condition_map(*scene_of(Place("x", low=5, margin=1), None))[3].tolist() == [0, 0, 0, 0, -1, -1, -1, 1]
    assert told.dtype == np.int8


def test_what_a_negation_leaves_is_said_of_objects_alone() -> None:
    """And where there is neither place nor negation, nothing is said."""
    told = condition_map(*scene_of(None, (1,)))
    assert [np.unique(told[mask]).tolist() for mask in scene_of(None, (1,))[0].masks] == [[0], [1]]
    assert (told == -1).sum() == 8 * 6 - 12
    assert np.unique(condition_map(*scene_of(None, None))).tolist() == [-1]


def test_the_loss_of_conditions_by_hand() -> None:
    """Each level weighs as much, and of its cells those with a label; a phrase without any adds 0, but counts."""
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


def test_the_loss_of_positions_by_hand() -> None:
    """In tenths of the side, the mean over axes, tokens and pyramids."""
    heads = PositionHeads(hidden_size=1, num_pyramids=2)
    with torch.no_grad():
        for head in heads.heads:
            head.weight.copy_(torch.tensor([[1.0], [-1.0]]))
            head.bias.copy_(torch.tensor([0.0, 1.0]))
    centres = torch.tensor([[0.25, 0.5], [0.75, 0.5]])
    pyramids = [torch.tensor([[[0.25], [0.75]]]), torch.tensor([[[0.5], [0.5]]])]
    # x is told right by the first, y a quarter off twice; the other way round by the second
    assert heads(pyramids, centres).item() == pytest.approx(10 * 0.125)
    assert heads(pyramids[:1] * 2, centres + torch.tensor([0.1, 0.0])).item() == pytest.approx(10 * 0.175)


def test_looks_do_not_depend_on_how_pictures_are_dealt_out() -> None:
    """Pictures with many objects and with none: the mean of two batches is that of both together."""
    torch.manual_seed(0)
    heads, pyramid = LooksHeads(8), torch.rand(2, 64 + 16 + 4, 8)
    labels = {8: torch.randint(-1, 3, (2, 3, 8, 8)), 16: torch.randint(-1, 3, (2, 3, 4, 4))}
    for of in labels.values():
        of[:, 1:] = torch.where(of[:, :1] < 0, -1, of[:, 1:].clamp(min=0))
        of[1, :, :, 1:] = -1
    together = heads(pyramid, labels)
    apart = [heads(pyramid[i : i + 1], {stride: of[i : i + 1] for stride, of in labels.items()}) for i in range(2)]
    for name, value in together.items():
        assert value.item() == pytest.approx((apart[0][name].item() + apart[1][name].item()) / 2, rel=1e-5), name
    empty = heads(pyramid, {stride: torch.full_like(of, -1) for stride, of in labels.items()})
    assert {value.item() for value in empty.values()} == {0.0}


def test_what_a_model_sees(tiny_model_folder: Path) -> None:
    """Pyramids in the order they run, with gradients; the answer is the same; the hooks are gone afterwards."""
    model = ReferSamModel.from_pretrained(tiny_model_folder)
    pixels, ids = torch.rand(1, 3, 64, 64), torch.tensor([[5, 6, 7], [8, 9, 10]])
    weights = {
        "grounding_weight": 1,
        "looks_weight": 2,
        "condition_weight": 3,
        "position_weight": 4,
        "pointing_weight": 5,
    }
    heads = AuxiliaryHeads(model, LossSettings.model_validate(weights))
    with seen_by(model) as seen:
        output = model(pixels, ids)
    assert torch.equal(output.mask_logits, model(pixels, ids).mask_logits)
    assert [pyramid.shape[:2] for pyramid in seen.before] == [(1, 64 + 16 + 4)]
    assert heads.grounding is not None
    assert heads.condition is not None
    assert len(seen.fused) == len(heads.grounding.heads) == len(model.config.layer_groups) + 1
    assert len(heads.condition.heads) == len(seen.fused)
    assert all(pyramid.shape[:2] == (2, 64 + 16 + 4) for pyramid in seen.fused)
    for head in heads.grounding.heads:
        torch.nn.init.ones_(head.weight)
    labels = {8: torch.randint(-1, 3, (1, 3, 8, 8)), 16: torch.randint(-1, 3, (1, 3, 4, 4))}
    conditions = {8: torch.randint(-1, 2, (2, 8, 8)), 16: torch.randint(-1, 2, (2, 4, 4))}
    centres = PyramidGeometry.of_image(64, 64, pixels.device).reference_points
    terms = heads(seen, torch.rand(2, 2, 8, 8), labels, conditions, centres)
    looks = terms["colour"] + terms["shape"] + terms["pattern"]
    weighted = terms["grounding"] + 5 * terms["pointing"] + 2 * looks + 3 * terms["condition"] + 4 * terms["position"]
    assert terms["auxiliary"].item() == pytest.approx(weighted.item(), rel=1e-5)
    terms["grounding"].backward(retain_graph=True)
    for interaction in model.interactor.interactions:
        assert interaction.fusion.pyramid_ffn[0].weight.grad.abs().sum() > 0
    model.zero_grad()
    looks.backward()
    assert model.interactor.spatial_prior.stem[0].weight.grad.abs().sum() > 0
    assert model.interactor.interactions[0].fusion.pyramid_ffn[0].weight.grad is None


def test_they_need_an_interactor(miniature: Miniature) -> None:
    """Said before the first step."""
    config = {**miniature().model.config, "use_interactor": False}
    settings = miniature(model={"config": config})
    model = build_model(settings, build_processor(settings, open_source(settings)))
    for weight in ("grounding_weight", "pointing_weight", "looks_weight", "condition_weight", "position_weight"):
        with pytest.raises(SettingsError, match="need a model with an interactor"):
            AuxiliaryHeads(model, LossSettings.model_validate({weight: 1}))


def test_a_run_learns_them_and_resumes_bit_for_bit(tmp_path: Path, miniature: Miniature) -> None:
    """Heads, their moments and their rate are in the checkpoint; the final model has nothing of them."""
    settings = auxiliary(miniature, steps=4, optimizer={"warmup_steps": 0})
    whole = Trainer(settings, tmp_path / "whole")
    whole.run()
    lines = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    for line in (line for line in lines if line["kind"] == "train"):
        masks = sum(line[name] for name in ("mask", "dice", "coarse_mask", "coarse_dice"))
        looks = sum(line[name] for name in ("colour", "shape", "pattern"))
        total = masks + 0.5 * (line["iou"] + line["object"] + line["grounding"]) + 0.25 * looks
        total += 0.125 * line["condition"] + 0.0625 * line["position"]
        assert line["total"] == pytest.approx(total, rel=1e-4)
    heads = whole.engine.heads
    assert heads is not None
    assert all(parameter.abs().sum() > 0 for name, parameter in heads.named_parameters() if "weight" in name)
    Trainer(settings, tmp_path / "parts").run()
    (tmp_path / "parts/checkpoints/step_0000004.pt").unlink()
    again = Trainer(settings, tmp_path / "parts", resume=True)
    assert again.step == 2
    again.run()
    states = [torch.load(tmp_path / part / "checkpoints/step_0000004.pt") for part in ("whole", "parts")]
    for name, tensor in states[0]["heads"].items():
        assert torch.equal(tensor, states[1]["heads"][name]), name
    final = "model/model.safetensors"
    assert (tmp_path / "whole" / final).read_bytes() == (tmp_path / "parts" / final).read_bytes()
    names = ReferSamModel.from_pretrained(tmp_path / "whole/model").state_dict()
    assert not any(name.startswith(("grounding", "looks", "condition", "positions")) for name in names)
