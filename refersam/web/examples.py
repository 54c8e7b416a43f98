"""Example images of the page: SceneRef scenes with phrases, rendered at start."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from sceneref import SceneRefSettings, generate_scene

SCENES = SceneRefSettings(width=384, height=288, min_objects=5, max_objects=7, phrases_per_scene=6, difficulty=0.5)
NUMBERS = (3, 7, 9, 12)
"""Scene numbers in the val split, which is not used for training."""

PHRASES_SHOWN = 3


def draw_examples(folder: Path) -> list[tuple[Path, str]]:
    """Render the example images into a directory; return each path with its phrases, one per line."""
    examples = []
    for number in NUMBERS:
        scene = generate_scene(SCENES, "val", 1, number)
        path = folder / f"scene_{number}.png"
        Image.fromarray(scene.image).save(path)
        examples.append((path, "\n".join(phrase.text for phrase in scene.phrases[:PHRASES_SHOWN])))
    return examples
