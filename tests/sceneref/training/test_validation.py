"""Validation on rendered scenes: their content, and shares of several processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from refersam import ReferSamPredictor
from refersam.evaluate.processes import Processes
from refersam.training.signals import Stopped
from refersam.training.validation import Validator
from sceneref.training.settings import SceneRefTrainSettings
from sceneref.training.validation import SceneValidation

Miniature = Callable[..., SceneRefTrainSettings]
WORDS = {"left", "second", "star", "circle", "striped", "large"}


def test_content_of_the_scenes(miniature: Miniature) -> None:
    """Number of objects and kinds of phrases as set; the benchmark's by default; the same scenes each time."""
    own = {"max_objects": 3, "named": ["colour"], "phenomena": {"attribute": 1.0}, "difficulty": 0.0}
    words = []
    for section in ({"validation": own}, {}):
        validation = SceneValidation(miniature(data={"validation_images": 6}, sceneref=section))
        images = list(validation.examples())
        assert len(images) == 6
        assert {image.image.shape for image in images} == {(96, 96, 3)}
        phrases = [phrase for image in images for phrase in image.phrases]
        assert phrases == [phrase for image in validation.examples() for phrase in image.phrases]
        words.append({word for phrase in phrases for word in phrase.split()})
    assert not words[0] & WORDS
    assert words[1] & WORDS


def test_shares_of_a_validation_add_up(tiny_model_folder: Any, miniature: Miniature) -> None:
    """With equal weights, two processes have the same pixel counts as one."""
    predictor = ReferSamPredictor.from_pretrained(tiny_model_folder, device="cpu")
    validation = SceneValidation(miniature(data={"validation_images": 4}))
    whole = Validator(validation, predictor.processor, Processes()).score(predictor.model)
    found: list[Any] = []

    class Pretended(Processes):
        """One of two processes, which stores its results for the other."""

        def gather(self, items: list[Any]) -> list[Any]:
            found.extend(items)
            return list(found)

    halves = [
        Validator(validation, predictor.processor, Pretended(index, 2)).score(predictor.model) for index in (0, 1)
    ]
    assert whole["pixels in union"] > halves[0]["pixels in union"] > 0
    assert halves[1] == pytest.approx(whole)
    for name in ("phrases", "pixels in common", "pixels in union"):
        assert halves[1][name] == whole[name]
    assert "mIoU/attribute" in whole


def test_a_validation_is_abandoned(tiny_model_folder: Any, miniature: Miniature) -> None:
    """Before the next image."""
    predictor = ReferSamPredictor.from_pretrained(tiny_model_folder, device="cpu")
    validator = Validator(SceneValidation(miniature()), predictor.processor, Processes())
    with pytest.raises(Stopped):
        validator.score(predictor.model, lambda: True)
