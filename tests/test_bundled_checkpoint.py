"""The bundled checkpoint, as the package ships it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refersam import ReferSamPredictor
from refersam.checkpoints.folders import BUNDLED_CHECKPOINT
from refersam.evaluate import evaluate_images
from sceneref import SceneRefSettings, generate_scene
from sceneref.metrics import sceneref_metrics

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def predictor() -> ReferSamPredictor:
    return ReferSamPredictor.from_pretrained(device="cpu")


def test_size_and_switches(predictor):
    """At most 25 MB, with confidence and no-target decision, without pickles."""
    files = [path for path in BUNDLED_CHECKPOINT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25e6
    assert {path.suffix for path in files} == {".json", ".md", ".safetensors"}
    assert predictor.model.config.supervise_iou
    assert predictor.model.config.object_score_head


def test_reads_any_word(predictor):
    """Unknown words are tokenized by their characters."""
    ids = predictor.processor(text="the xylophone, zebra's 42 q!")["input_ids"][0]
    assert predictor.processor.tokenizer.unk_token_id not in ids.tolist()


ABSENT = {"the blue circle", "the yellow ring", "the green heart"}
"""Phrases of the examples without a target in their image."""
POINTS = {
    "scene_1.png": {"the orange star": (82, 40), "the white diamond": (100, 198)},
    "scene_2.png": {"the black triangle": (172, 109), "the large red object": (93, 154)},
    "scene_3.png": {"the large green square": (89, 47), "the circle above the other circle": (164, 74)},
    "scene_4.png": {
        "the large dotted circle": (212, 155),
        "the pink square": (57, 40),
        "the largest diamond": (158, 55),
    },
    "scene_5.png": {"the green square": (96, 68)},
    "scene_7.png": {"the large purple heart": (97, 119), "the leftmost cyan heart": (56, 222)},
    "scene_8.png": {"the large green hexagon": (64, 137), "the brown hexagon": (172, 152)},
}
"""Pixels (x, y) in the middle of the only target of each phrase."""


@pytest.fixture(scope="module")
def answers(predictor):
    """Return all examples with their results, by image and phrase."""
    examples = json.loads((EXAMPLES / "phrases.json").read_text())
    assert {path.name for path in EXAMPLES.glob("scene_*.png")} == set(examples)
    return {
        name: dict(zip(phrases, predictor.predict(EXAMPLES / name, phrases), strict=True))
        for name, phrases in examples.items()
    }


def test_examples_are_answered(answers):
    """Targets get a mask within the image and a high score; absent objects get none."""
    absent = set()
    for name, found in answers.items():
        with Image.open(EXAMPLES / name) as image:
            width, height = image.size
        for phrase, answer in found.items():
            assert answer.mask.shape == (height, width)
            if phrase in ABSENT:
                absent.add(phrase)
                assert (answer.no_target, answer.area, answer.box) == (True, 0, None), phrase
                assert answer.score < 0.2, phrase
                continue
            assert not answer.no_target, phrase
            assert answer.score > 0.5, phrase
            left, top, right, bottom = answer.box
            assert 0 <= left < right <= width, phrase
            assert 0 <= top < bottom <= height, phrase
            assert 100 < answer.area < width * height / 8, phrase
    assert absent == ABSENT


def test_examples_are_answered_by_the_object_that_is_named(answers):
    """The mask of each phrase contains the pixel of its target, and none of the other phrases' targets."""
    for name, points in POINTS.items():
        for phrase in points:
            mask = answers[name][phrase].mask
            assert [other for other, (x, y) in points.items() if mask[y, x]] == [phrase]


def test_answers_depend_on_the_phrase(predictor):
    """On unused test scenes, the model is better than the best phrase-blind mask for the same phrases."""
    settings = SceneRefSettings(width=128, height=128, phrases_per_scene=6)
    scenes = [generate_scene(settings, "test", 0, index) for index in range(10)]
    images = [scene.to_referring_image(str(index)) for index, scene in enumerate(scenes)]
    results = list(evaluate_images(predictor.model, predictor.processor, images))
    metrics = sceneref_metrics(results)
    shuffled = []
    for item in images:
        # The same masks, each compared with the target of the next phrase of the image.
        rolled = np.roll(np.arange(len(item.phrases)), 1)
        shuffled.append(
            type(item)(
                item.image,
                item.phrases,
                item.masks[rolled],
                item.sample_ids,
                tuple(item.tags[index] for index in rolled),
            )
        )
    wrong = sceneref_metrics(evaluate_images(predictor.model, predictor.processor, shuffled))
    assert metrics["mIoU"] > wrong["mIoU"] + 5
