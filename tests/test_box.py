"""The model in the box, as the package ships it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refersam import ReferSamPredictor
from refersam.evaluate import evaluate_images
from refersam.metrics import sceneref_metrics
from refersam.predictor import MODEL_IN_THE_BOX
from refersam.training.sources import scene_to_referring_image
from sceneref import SceneRefSettings, generate_scene

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def predictor() -> ReferSamPredictor:
    return ReferSamPredictor.from_pretrained(device="cpu")


def test_size_and_switches(predictor):
    """25 MB at the most, with confidence and no-target decision, never a pickle."""
    files = [path for path in MODEL_IN_THE_BOX.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25e6
    assert {path.suffix for path in files} == {".json", ".md", ".safetensors"}
    assert predictor.model.config.supervise_iou
    assert predictor.model.config.object_score_head


def test_reads_any_word(predictor):
    """Words that were never seen are read by their characters."""
    ids = predictor.processor(text="the xylophone, zebra's 42 q!")["input_ids"][0]
    assert predictor.processor.tokenizer.unk_token_id not in ids.tolist()


def test_examples_are_answered(predictor):
    """Every example picture exists and every phrase gets an answer of the picture's size."""
    examples = json.loads((EXAMPLES / "phrases.json").read_text())
    assert len(examples) >= 6
    for picture, phrases in examples.items():
        results = predictor.predict(EXAMPLES / picture, phrases)
        with Image.open(EXAMPLES / picture) as image:
            size = image.size
        for result in results:
            assert result.mask.shape == size[::-1]
            assert 0 <= result.score <= 1
            assert result.no_target == (not result.mask.any()) or result.mask.sum() == 0


def test_answers_depend_on_the_phrase(predictor):
    """Over fresh test scenes the model beats what a phrase-blind guess could score on the same phrases."""
    settings = SceneRefSettings(width=128, height=128, phrases_per_scene=6)
    scenes = [generate_scene(settings, "test", 0, index) for index in range(20)]
    images = [scene_to_referring_image(scene, str(index)) for index, scene in enumerate(scenes)]
    results = list(evaluate_images(predictor.model, predictor.processor, images))
    metrics = sceneref_metrics(results)
    shuffled = []
    for item in images:
        # The same answers, each compared with the truth of the next phrase of the picture.
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
