"""SceneRef: a synthetic benchmark of rendered scenes with phrases and exact masks, generated from a seed."""

from sceneref.benchmark import (
    Scene,
    SceneRefDataset,
    SceneRefStream,
    blind_guess_scores,
    generate_scene,
    phrases_about,
)
from sceneref.colours import COLOURS
from sceneref.objects import PATTERNS, SHAPES, SIZES, SceneObject
from sceneref.phrases import ScenePhrase
from sceneref.settings import DEFAULT_PHENOMENA, HELD_OUT_PAIRS, SPLITS, SceneRefSettings
from sceneref.words import Region
from sceneref.writer import write_sceneref

__all__ = [
    "COLOURS",
    "DEFAULT_PHENOMENA",
    "HELD_OUT_PAIRS",
    "PATTERNS",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "Region",
    "Scene",
    "SceneObject",
    "ScenePhrase",
    "SceneRefDataset",
    "SceneRefSettings",
    "SceneRefStream",
    "blind_guess_scores",
    "generate_scene",
    "phrases_about",
    "write_sceneref",
]
