"""Source of training images: scenes rendered during training, without repetition, along a curriculum."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refersam.data.sample import ReferringImage
from refersam.errors import DataError
from refersam.training.augmentation import augment
from refersam.training.sources import Source, augmentation_generator
from sceneref.benchmark import generate_scene
from sceneref.settings import SceneRefSettings
from sceneref.training.labels import SceneLabels, collate_labels
from sceneref.training.rewording import RewordingDraw, reword
from sceneref.training.settings import SceneRefTrainSettings, StageSettings

_REVIEW = 3
"""Random stream that selects the images of the previous stage."""


class SceneSource(Source):
    """The training split of SceneRef.

    Args:
        settings: settings of the run.
    """

    tokenizer_images = 1500

    def __init__(self, settings: SceneRefTrainSettings) -> None:
        self.settings = settings

    def load(self, index: int, progress: float) -> ReferringImage:
        """Render an image; see `Source`."""
        settings, section = self.settings, self.settings.sceneref
        stage, previous = self.stages_at(progress)
        if self._is_review(index, stage.review):
            stage = previous
        side = section.scene_sizes[index % len(section.scene_sizes)]
        try:
            scene = generate_scene(stage.scenes(side, settings.data.phrases_per_image), "train", settings.seed, index)
        except RuntimeError as error:
            raise DataError(f"Scene {index} cannot be rendered. {error}") from error
        image = scene.to_referring_image(f"scene_{index}")
        if section.objectives.needs_objects:
            image = replace(image, extra=SceneLabels.of_scene(scene))
        rng = augmentation_generator(settings, index)
        image = augment(image, settings.data.augment, rng)
        draws = RewordingDraw.of_phrases(len(image.phrases), rng)
        phrases = tuple(
            reword(phrase, section.rewording, draw) for phrase, draw in zip(image.phrases, draws, strict=True)
        )
        return image if phrases == image.phrases else replace(image, phrases=phrases)

    def phrases(self) -> Iterable[str]:
        """Return phrases of simple scenes, which cover the whole vocabulary; see `Source`."""
        scenes = SceneRefSettings(width=64, height=64, phrases_per_scene=12, difficulty=0.0)
        for index in range(self.tokenizer_images):
            for phrase in generate_scene(scenes, "train", self.settings.seed, index).phrases:
                yield phrase.text

    def image_size(self, progress: float) -> int | None:
        """Return the input size of the stage; see `Source`."""
        return self.stages_at(progress)[0].image_size

    def collate_extra(
        self, images: Sequence[ReferringImage], chosen: Sequence[Sequence[int]], image_size: int
    ) -> dict[str, Any]:
        """Collate the labels of the scenes for `SceneObjectives`; see `Source`."""
        if not self.settings.sceneref.objectives.needs_objects:
            return {}
        return collate_labels(images, chosen, image_size)

    def stages_at(self, progress: float) -> tuple[StageSettings, StageSettings]:
        """Return the current stage of the curriculum and the previous one; for the first stage, both are the same.

        Args:
            progress: share of completed steps, in [0, 1).
        """
        stages = self.settings.sceneref.stages
        current = next((i for i, stage in enumerate(stages) if progress < stage.until), len(stages) - 1)
        return stages[current], stages[max(0, current - 1)]

    def _is_review(self, index: int, share: float) -> bool:
        return share > 0 and bool(np.random.default_rng([self.settings.seed, _REVIEW, index]).random() < share)
