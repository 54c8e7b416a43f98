"""Text pretraining on cached image tokens: tokens and labels, the loss, and the trained parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from refersam import ReferSamModel, ReferSamProcessor
from refersam.training.phases import Phase
from sceneref import generate_scene, phrases_about
from sceneref.training import text_pretraining
from sceneref.training.labels import condition_map
from sceneref.training.settings import PretrainingSettings
from sceneref.training.text_pretraining import (
    CONDITION,
    KEPT_TOKENS,
    CachedScene,
    CachedScenes,
    TextPhase,
    TextTrainee,
    TokenBatch,
    encode_scene,
    kept_tokens,
)

TrainPhase = Callable[[Phase], list[dict[str, float]]]


def few(**changes: object) -> PretrainingSettings:
    """Return settings of four steps on eight small images."""
    small = {"part": "text", "steps": 4, "images": 8, "batch_size": 6, "image_size": 64, "log_every": 1}
    return PretrainingSettings.model_validate({**small, "phrases_per_image": 8, "checkpoint_every": 2, **changes})


@pytest.fixture
def model(tiny_model_folder: Path) -> ReferSamModel:
    return ReferSamModel.from_pretrained(tiny_model_folder)


@pytest.fixture
def processor(tiny_model_folder: Path) -> ReferSamProcessor:
    return ReferSamProcessor.from_pretrained(tiny_model_folder)


def make_phase(model: ReferSamModel, processor: ReferSamProcessor, **changes: object) -> TextPhase:
    """Return a small phase for one process."""
    return TextPhase(few(**changes), model, processor, Accelerator(cpu=True), seed=0, max_skipped=5)


def test_phrases_about_a_scene_are_new_and_all_different() -> None:
    """Equal random generators give equal phrases."""
    settings = few(phenomena={"attribute": 0.5, "ordinal": 0.5}).scenes()
    scene = generate_scene(settings, "train", 0, 3)
    phrases = phrases_about(scene.objects, settings, "train", np.random.default_rng(1), 12)
    assert phrases == phrases_about(scene.objects, settings, "train", np.random.default_rng(1), 12)
    assert len({phrase.text.lower() for phrase in phrases}) == len(phrases) > 4
    assert {phrase.tags[0] for phrase in phrases} <= {"attribute", "ordinal"}


def test_the_cache_of_a_scene(model: ReferSamModel, processor: ReferSamProcessor) -> None:
    """Tokens of the pyramid, labelled by the objects in their cells; every object has tokens."""
    settings = few(image_size=128).scenes()
    model.eval()
    for number in range(12):
        scene = generate_scene(settings, "train", 5, number)
        rng = np.random.default_rng(number)
        phrases = phrases_about(scene.objects, settings, "train", rng, 8)
        cached = encode_scene(scene, phrases, model, processor, rng)
        assert len(cached.phrases) == len(phrases) == len(cached.labels)
        assert len(cached.token_indices) == len(set(cached.token_indices.tolist())) == sum(KEPT_TOKENS)
        starts = np.cumsum([0, 16 * 16, 8 * 8, 4 * 4])
        levels = np.searchsorted(starts, cached.token_indices.numpy(), side="right") - 1
        assert np.bincount(levels).tolist() == list(KEPT_TOKENS)
        with torch.inference_mode():
            pyramid = model.encode_image(processor.image_processor.normalise(scene.image)[None]).pyramid[0]
        assert torch.equal(cached.features, pyramid[cached.token_indices].half())
        for phrase, labels in zip(phrases, cached.labels.numpy(), strict=True):
            known = condition_map(scene, phrase)
            for row, objects in enumerate((phrase.targets, phrase.mentions[0], sum(phrase.mentions[1:], ()))):
                found = {
                    index for index in range(len(scene.objects)) if labels[row][_on(scene.masks[index], cached)].any()
                }
                assert found >= set(objects), phrase
                elsewhere = ~np.any([_on(scene.masks[index], cached) for index in objects], axis=0) if objects else None
                assert not labels[row][slice(None) if elsewhere is None else elsewhere].any(), phrase
            for index, mask in enumerate(scene.masks):
                value = known[mask][0]
                assert value in labels[CONDITION][_on(mask, cached)], (phrase, index)


def _on(mask: np.ndarray, cached: CachedScene) -> np.ndarray:
    """Return which tokens are at least partly on a mask of 128 x 128 pixels."""
    token_indices, on = cached.token_indices.numpy(), []
    for region in token_indices:
        for stride, start in ((8, 0), (16, 256), (32, 320)):
            side = 128 // stride
            if start <= region < start + side * side:
                row, column = divmod(int(region - start), side)
                cell = mask[row * stride : (row + 1) * stride, column * stride : (column + 1) * stride]
                on.append(bool(cell.any()))
    return np.array(on)


def test_batches_depend_on_seed_and_number_only(model: ReferSamModel, processor: ReferSamProcessor) -> None:
    """Processes render different images; typing errors change only words."""
    scenes = CachedScenes(few(), 3, model, processor)
    again = CachedScenes(few(), 3, model, processor)
    one, other = scenes.batch(5, 4), again.batch(5, 4)
    for name, value in vars(one).items():
        assert value == other.sample_ids if name == "sample_ids" else torch.equal(value, getattr(other, name)), name
    halves = [CachedScenes(few(), 3, model, processor, rank, 2).scenes for rank in range(2)]
    phrases = [scene.phrases for scene in scenes.scenes]
    assert [scene.phrases for scene in halves[0]] == phrases[::2]
    assert [scene.phrases for scene in halves[1]] == phrases[1::2]
    misspelt = CachedScenes(few(typing_errors=1.0), 3, model, processor)
    assert [scene.phrases for scene in misspelt.scenes] == phrases
    assert not torch.equal(misspelt.batch(0, 6).input_ids, scenes.batch(0, 6).input_ids)
    assert torch.equal(misspelt.batch(0, 6).features, scenes.batch(0, 6).features)


def test_sentences_around_all_phrases_of_a_batch_or_none(
    model: ReferSamModel, processor: ReferSamProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never around some, since a batch has the length of its longest phrase; images and labels are unchanged."""
    plain, reworded = (CachedScenes(few(sentences=share), 3, model, processor) for share in (0.0, 0.5))
    encoded: list[list[str]] = []
    encode = processor.encode_phrases
    monkeypatch.setattr(processor, "encode_phrases", lambda phrases: encoded.append(phrases) or encode(phrases))
    counts = set()
    for number in range(12):
        unchanged, other = plain.batch(number, 6), reworded.batch(number, 6)
        for name in ("features", "token_indices", "labels"):
            assert torch.equal(getattr(unchanged, name), getattr(other, name)), name
        counts.add(sum(before != after for before, after in zip(*encoded[-2:], strict=True)))
    assert counts == {0, 6}


def test_the_loss_by_hand(model: ReferSamModel) -> None:
    """Constant predictions: entropies of a guess; only the no-target phrase is correct."""
    trainee = TextTrainee(model, 64)
    with torch.no_grad():
        for head in trainee.heads:
            head.weight.zero_()
            head.bias.copy_(torch.tensor([-1.0, 0.0, 2.0, 1.0]))
    count = sum(kept_tokens([(8, 8), (4, 4), (2, 2)]))
    labels = torch.zeros(2, 4, count, dtype=torch.int8)
    labels[0, :2, :2] = 1
    labels[:, CONDITION] = -1
    labels[0, CONDITION, :4] = torch.tensor([1, 1, 1, 0])
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    features = torch.randn(2, count, model.config.vision_config.hidden_size)
    token_indices = torch.arange(count).expand(2, -1)
    terms, finite = trainee(TokenBatch(features, token_indices, ids, torch.ones_like(ids), labels, ("a", "b")))
    assert finite is None

    def entropy(logit: float, share: float) -> float:
        return math.log(1 + math.exp(logit)) - share * logit

    expected = {
        "targets": entropy(-1, 1 / count),
        "mentions": entropy(0, 1 / count) + entropy(2, 0),
        "pointing": 2 * math.log(count / 2) / 2,
        "condition": entropy(1, 0.75) / 2,
        "phrase accuracy": 0.5,
    }
    expected["total"] = 4 * (expected["targets"] + expected["mentions"])
    expected["total"] += expected["condition"] + 0.5 * expected["pointing"]
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(expected, rel=1e-4)


def test_what_is_trained(model: ReferSamModel, processor: ReferSamProcessor, train_phase: TrainPhase) -> None:
    """Text encoder, context tokens, and all fusions with their positions, but not the image encoder."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_phase(make_phase(model, processor))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    text = ("text_encoder.", "interactor.context_tokens", "interactor.positions.")
    assert all(name.startswith(text) or "fusion" in name for name in changed), changed
    for part in ("text_encoder.", "interactor.context_tokens", "interactor.interactions.0.fusion.", "extra_fusions.0."):
        assert any(part in name for name in changed), part


def test_phrases_are_learned(
    model: ReferSamModel, processor: ReferSamProcessor, train_phase: TrainPhase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Overfits four phrases on half as many tokens, far below the loss of the first steps."""
    monkeypatch.setattr(text_pretraining, "KEPT_TOKENS", (24, 10, 4))
    changes = {"steps": 100, "images": 1, "phrases_per_image": 4, "batch_size": 4, "log_every": 10}
    lines = train_phase(make_phase(model, processor, learning_rate=1e-3, **changes))
    assert lines[-1]["total"] < 0.25 * lines[0]["total"]
    assert lines[0]["phrase accuracy"] < 0.2 < lines[-1]["phrase accuracy"]
