"""Lessons in reading: what is kept of a picture, its labels, the loss, and what changes in the model."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from refersam import ReferSamModel, ReferSamProcessor
from refersam.training import reading
from refersam.training.pretraining import pretrain
from refersam.training.reading import CONDITION, KEPT_TOKENS, Reader, ReadingLessons, kept_tokens, page_of
from refersam.training.settings import PretrainingSettings
from refersam.training.sources import condition_map
from sceneref import generate_scene, phrases_about


def few(**changes: object) -> PretrainingSettings:
    """Four steps on eight small pictures."""
    small = {"part": "language", "steps": 4, "pictures": 8, "batch_pictures": 6, "image_size": 64, "log_every": 1}
    return PretrainingSettings.model_validate({**small, "phrases_per_picture": 8, "checkpoint_every": 2, **changes})


@pytest.fixture
def model(tiny_model_folder: Path) -> ReferSamModel:
    return ReferSamModel.from_pretrained(tiny_model_folder)


@pytest.fixture
def processor(tiny_model_folder: Path) -> ReferSamProcessor:
    return ReferSamProcessor.from_pretrained(tiny_model_folder)


def learn(
    model: ReferSamModel, processor: ReferSamProcessor, folder: Path, **changes: object
) -> list[dict[str, float]]:
    """Terms of each log line; the heads are drawn alike each time."""
    torch.manual_seed(0)
    lines: list[dict[str, float]] = []
    pretrain(
        model, few(**changes), processor, Accelerator(cpu=True), folder, 0, lambda _step, terms: lines.append(terms)
    )
    return lines


def test_phrases_about_a_scene_are_new_and_all_different() -> None:
    """From the same source of draws the same ones."""
    settings = few(phenomena={"attribute": 0.5, "ordinal": 0.5}).scenes()
    scene = generate_scene(settings, "train", 0, 3)
    said = phrases_about(scene.objects, settings, "train", np.random.default_rng(1), 12)
    assert said == phrases_about(scene.objects, settings, "train", np.random.default_rng(1), 12)
    assert len({phrase.text.lower() for phrase in said}) == len(said) > 4
    assert {phrase.tags[0] for phrase in said} <= {"attribute", "ordinal"}


def test_a_page_by_its_scene(model: ReferSamModel, processor: ReferSamProcessor) -> None:
    """The pyramid's own tokens; each labelled as the pixel is that lies most in its cell; every object has some."""
    settings = few(image_size=128).scenes()
    model.eval()
    for number in range(12):
        scene = generate_scene(settings, "train", 5, number)
        rng = np.random.default_rng(number)
        phrases = phrases_about(scene.objects, settings, "train", rng, 8)
        page = page_of(scene, phrases, model, processor, rng)
        assert len(page.phrases) == len(phrases) == len(page.labels)
        assert len(page.places) == len(set(page.places.tolist())) == sum(KEPT_TOKENS)
        starts = np.cumsum([0, 16 * 16, 8 * 8, 4 * 4])
        levels = np.searchsorted(starts, page.places.numpy(), side="right") - 1
        assert np.bincount(levels).tolist() == list(KEPT_TOKENS)
        with torch.inference_mode():
            pyramid = model.encode_image(processor.image_processor.normalise(scene.image)[None]).pyramid[0]
        assert torch.equal(page.features, pyramid[page.places].half())
        for phrase, labels in zip(phrases, page.labels.numpy(), strict=True):
            told = condition_map(scene, phrase)
            for row, objects in enumerate((phrase.targets, phrase.mentions[0], sum(phrase.mentions[1:], ()))):
                found = {
                    index for index in range(len(scene.objects)) if labels[row][_on(scene.masks[index], page)].any()
                }
                assert found >= set(objects), phrase
                elsewhere = ~np.any([_on(scene.masks[index], page) for index in objects], axis=0) if objects else None
                assert not labels[row][slice(None) if elsewhere is None else elsewhere].any(), phrase
            for index, mask in enumerate(scene.masks):
                value = told[mask][0]
                assert value in labels[CONDITION][_on(mask, page)], (phrase, index)


def _on(mask: np.ndarray, page: object) -> np.ndarray:
    """Which of the page's tokens of strides 8 and 16 lie at least partly on a mask of 128 px."""
    places, on = page.places.numpy(), []
    for place in places:
        for stride, start in ((8, 0), (16, 256), (32, 320)):
            side = 128 // stride
            if start <= place < start + side * side:
                row, column = divmod(int(place - start), side)
                cell = mask[row * stride : (row + 1) * stride, column * stride : (column + 1) * stride]
                on.append(bool(cell.any()))
    return np.array(on)


def test_batches_are_of_the_seed_and_number_alone(model: ReferSamModel, processor: ReferSamProcessor) -> None:
    """Processes draw different pictures; typing errors change words and nothing else."""
    lessons = ReadingLessons(few(), 3, model, processor)
    again = ReadingLessons(few(), 3, model, processor)
    for one, other in zip(lessons.batch(5, 4), again.batch(5, 4), strict=True):
        assert torch.equal(one, other)
    halves = [ReadingLessons(few(), 3, model, processor, rank, 2).pages for rank in range(2)]
    assert [page.phrases for page in halves[0]] == [page.phrases for page in lessons.pages[::2]]
    assert [page.phrases for page in halves[1]] == [page.phrases for page in lessons.pages[1::2]]
    misspelt = ReadingLessons(few(typing_errors=1.0), 3, model, processor)
    assert [page.phrases for page in misspelt.pages] == [page.phrases for page in lessons.pages]
    assert not torch.equal(misspelt.batch(0, 6)[2], lessons.batch(0, 6)[2])


def test_sentences_around_all_phrases_of_a_batch_or_none(
    model: ReferSamModel, processor: ReferSamProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never around some, since a batch is as long as its longest phrase; pictures and labels stay."""
    lessons, framed = (ReadingLessons(few(frames=share), 3, model, processor) for share in (0.0, 0.5))
    heard: list[list[str]] = []
    encode = processor.encode_phrases
    monkeypatch.setattr(processor, "encode_phrases", lambda phrases: heard.append(phrases) or encode(phrases))
    shares = set()
    for number in range(12):
        bare, other = lessons.batch(number, 6), framed.batch(number, 6)
        assert all(torch.equal(bare[i], other[i]) for i in (0, 1, 4))
        shares.add(sum(before != after for before, after in zip(*heard[-2:], strict=True)))
    assert shares == {0, 6}


def test_the_loss_by_hand(model: ReferSamModel) -> None:
    """Heads that tell the same of every token: the entropies of a guess, and no phrase right but one without target."""
    reader = Reader(model, 64)
    with torch.no_grad():
        for head in reader.heads:
            head.weight.zero_()
            head.bias.copy_(torch.tensor([-1.0, 0.0, 2.0, 1.0]))
    count = sum(kept_tokens([(8, 8), (4, 4), (2, 2)]))
    labels = torch.zeros(2, 4, count, dtype=torch.int8)
    labels[0, :2, :2] = 1
    labels[:, CONDITION] = -1
    labels[0, CONDITION, :4] = torch.tensor([1, 1, 1, 0])
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    features = torch.randn(2, count, model.config.vision_config.hidden_size)
    terms = reader(features, torch.arange(count).expand(2, -1), ids, torch.ones_like(ids), labels)

    def entropy(logit: float, share: float) -> float:
        return math.log(1 + math.exp(logit)) - share * logit

    assert terms["targets"].item() == pytest.approx(entropy(-1, 1 / count), rel=1e-4)
    assert terms["mentions"].item() == pytest.approx(entropy(0, 1 / count) + entropy(2, 0), rel=1e-4)
    assert terms["pointing"].item() == pytest.approx(2 * math.log(count / 2) / 2, rel=1e-4)
    assert terms["condition"].item() == pytest.approx(entropy(1, 0.75) / 2, rel=1e-4)
    assert terms["phrases right"].item() == 0.5


def test_what_is_taught(model: ReferSamModel, processor: ReferSamProcessor, tmp_path: Path) -> None:
    """Text encoder, context tokens, and all fusions with their positions; nothing that sees."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learn(model, processor, tmp_path)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    reads = ("text_encoder.", "interactor.context_tokens", "interactor.positions.")
    assert all(name.startswith(reads) or "fusion" in name for name in changed), changed
    for part in ("text_encoder.", "interactor.context_tokens", "interactor.interactions.0.fusion.", "extra_fusions.0."):
        assert any(part in name for name in changed), part


def test_phrases_are_learned(
    model: ReferSamModel, processor: ReferSamProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of sixteen phrases by heart on half as many tokens, far below the loss of the first steps."""
    monkeypatch.setattr(reading, "KEPT_TOKENS", (24, 10, 4))
    lines = learn(model, processor, tmp_path, steps=150, pictures=2, batch_pictures=8, log_every=10, learning_rate=2e-3)
    assert lines[-1]["total"] < 0.5 * lines[0]["total"]
    assert lines[-1]["phrases right"] > lines[0]["phrases right"] + 0.2


def test_stopped_lessons_go_on_bit_for_bit(model: ReferSamModel, processor: ReferSamProcessor, tmp_path: Path) -> None:
    """As if they had not been."""
    other = ReferSamModel.from_pretrained(model.name_or_path)
    learn(model, processor, tmp_path / "whole")
    steps: list[int] = []
    torch.manual_seed(0)
    args = few(), processor, Accelerator(cpu=True), tmp_path / "parts", 0
    assert not pretrain(other, *args, is_stopping=lambda: len(steps) == 1, on_step=steps.append)
    assert pretrain(other, *args)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
