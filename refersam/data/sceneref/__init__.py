"""SceneRef: pictures, phrases and exact masks from a seed."""

from refersam.data.sceneref.benchmark import (
    Scene,
    SceneRefDataset,
    SceneRefStream,
    blind_guess_scores,
    generate_scene,
    phrases_about,
)
from refersam.data.sceneref.colours import COLOURS
from refersam.data.sceneref.objects import PATTERNS, SHAPES, SIZES, SceneObject
from refersam.data.sceneref.phrases import ScenePhrase
from refersam.data.sceneref.settings import DEFAULT_PHENOMENA, HELD_OUT_PAIRS, SPLITS, SceneRefSettings
from refersam.data.sceneref.words import Place
from refersam.data.sceneref.writer import write_sceneref

__all__ = [
    "COLOURS",
    "DEFAULT_PHENOMENA",
    "HELD_OUT_PAIRS",
    "PATTERNS",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "Place",
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
