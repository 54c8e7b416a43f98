"""A small data set of rendered scenes, and the tiny model over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from refersam.data import ReferringDataset, open_dataset
from refersam.evaluate import Evaluation, evaluate_model
from refersam.inference.predictor import ReferSamPredictor
from refersam.metrics import PROTOCOLS
from sceneref import SceneRefSettings, write_sceneref


@pytest.fixture(scope="session")
def scenes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data root with 5 images of SceneRef, not square, 3 to 4 phrases each."""
    root = tmp_path_factory.mktemp("scenes")
    write_sceneref(root, "val", 5, 0, SceneRefSettings(width=80, height=72, phrases_per_scene=4))
    return root


@pytest.fixture(scope="session")
def scenes(scenes_root: Path) -> ReferringDataset:
    """Its samples."""
    dataset = open_dataset(scenes_root, "sceneref", "val")
    assert 0 < sum(sample.has_target for sample in dataset) < len(dataset)
    return dataset


@pytest.fixture(scope="session")
def tiny_predictor(tiny_model_folder: Path) -> ReferSamPredictor:
    """Random weights; its masks are lively."""
    return ReferSamPredictor.from_pretrained(tiny_model_folder, device="cpu")


@pytest.fixture(scope="session")
def scored(tiny_predictor: ReferSamPredictor, scenes: ReferringDataset) -> Evaluation:
    """By the protocol gres."""
    return evaluate_model(tiny_predictor, scenes, PROTOCOLS["gres"])
