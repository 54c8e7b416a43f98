"""One-line representations of objects at a prompt and in a notebook."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from refersam import ReferSamPredictor
from refersam.inference.answers import Answer
from refersam.inference.onnx_model import Images, OnnxModel
from refersam.inference.queries import Query, run_queries
from sceneref import SceneRefSettings, generate_scene


@pytest.fixture(scope="module")
def predictor(tiny_model_folder: Path) -> ReferSamPredictor:
    """The random tiny model."""
    return ReferSamPredictor.from_pretrained(tiny_model_folder, device="cpu")


def test_a_result_by_hand() -> None:
    """Phrase, score, box and area, or no match; long phrases are truncated."""
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    answer = Answer("the star", mask, mask.astype(np.float32), 0.904, False)
    assert repr(answer) == "Answer('the star', score=0.90, box=(2, 1, 5, 3), area=6, of 6 x 4 pixels)"
    absent = Answer("red\n" * 5000, mask & False, mask.astype(np.float32), 0.01, True)
    assert repr(absent).endswith(", score=0.01, nothing matches, of 6 x 4 pixels)")
    assert len(repr(absent)) < 200


def public_objects(predictor: ReferSamPredictor) -> dict[str, Any]:
    """Objects by the text that their representation starts with."""
    image = Image.new("RGB", (53, 37))
    scene = generate_scene(SceneRefSettings(width=64, height=64), "val", 0, 0)
    inputs = [SimpleNamespace(name="pixel_values", shape=(1, 3, 64, 64))]
    session = SimpleNamespace(get_inputs=lambda: inputs, get_outputs=list)
    query = Query.prepare(predictor.processor, image, ["star " * 500, "circle"])
    encoded = predictor.set_image(image)
    return {
        "Segmentation('the star', score=": predictor.predict(image, "the star"),
        "EncodedImage(image=RGB image 53 x 37, features=ImageFeatures(patches=float32 (1, 16, ": encoded,
        "ImageFeatures(patches=float32 (1, 16, ": encoded.features,
        "pixel_values=float32 (1, 3, 64, 64)": query,
        "ReferSamOutput(mask_logits=float32 (2, 64, 64), ": run_queries(predictor.model, [query])[0],
        f"ReferSamPredictor(ReferSamModel, {predictor.model.num_parameters():,} parameters, cpu, float32)": predictor,
        "max_text_tokens=20)": predictor.processor,
        "ReferSamImageProcessor(size={'height': 64, 'width': 64}": predictor.processor.image_processor,
        "OnnxModel(7,000 parameters)": OnnxModel(session, predictor.model.config, 7000),
        "Images(pixel_values=float32 (1, 3, 4, 4))": Images(torch.zeros(1, 3, 4, 4)),
        "Scene(image=uint8 (64, 64, 3), ": scene,
        "ReferringImage(image=uint8 (64, 64, 3), ": scene.to_referring_image("x"),
    }


def test_all_are_one_line(predictor: ReferSamPredictor) -> None:
    """They are short."""
    for text, value in public_objects(predictor).items():
        shown = repr(value)
        assert text in shown
        assert "\n" not in shown
        assert len(shown) < 600, shown


def test_a_notebook_shows_the_overlay(predictor: ReferSamPredictor) -> None:
    """In full size, or reduced if it is large."""
    result = predictor.predict(Image.new("RGB", (53, 37), "red"), "star", no_target_threshold=0)
    shown = Image.open(io.BytesIO(result._repr_png_()))
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(result.overlay()))
    large = predictor.predict(Image.new("RGB", (3000, 1500)), "star")
    assert Image.open(io.BytesIO(large._repr_png_())).size == (1024, 512)
