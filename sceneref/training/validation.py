"""Validation on rendered scenes of SceneRef's val split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from refersam.data.sample import ReferringImage
from refersam.evaluate import evaluate_images
from refersam.evaluate.processes import Processes
from refersam.inference.predictor import ReferSamPredictor
from refersam.metrics.protocols import PROTOCOLS
from refersam.metrics.results import SampleResult
from refersam.model.refersam import ReferSamModel
from refersam.training.signals import until_stopped
from refersam.training.validation import ValidationSet
from sceneref.benchmark import generate_scene
from sceneref.metrics import sceneref_metrics
from sceneref.training.settings import SceneRefTrainSettings


class SceneValidation(ValidationSet):
    """Scenes of the val split, rendered for each validation.

    Args:
        settings: settings of the run.
    """

    scene_size = 256
    """Side of the scenes in pixels: larger than the network's input, like typical photographs."""
    phrases_per_scene = 6
    protocol = PROTOCOLS["sceneref"]

    def __init__(self, settings: SceneRefTrainSettings) -> None:
        self.settings = settings

    def score(
        self, predictor: ReferSamPredictor, processes: Processes, is_stopping: Callable[[], bool]
    ) -> tuple[Sequence[SampleResult], dict[str, float]]:
        """Score the phrases of all scenes; see `ValidationSet`."""
        own = islice(until_stopped(self.examples(), is_stopping), processes.index, None, processes.count)
        model = predictor.model
        if not isinstance(model, ReferSamModel):
            raise TypeError(f"SceneValidation scores a ReferSamModel, but got a {type(model).__name__}.")
        results: Sequence[SampleResult] = processes.gather(list(evaluate_images(model, predictor.processor, own)))
        return results, sceneref_metrics(results)

    def examples(self) -> Iterator[ReferringImage]:
        """Render the scenes; see `ValidationSet`."""
        scenes = self.settings.sceneref.validation.scenes(self.scene_size, self.phrases_per_scene)
        for index in range(self.settings.data.validation_images or 100):
            yield generate_scene(scenes, "val", 0, index).to_referring_image(f"val_{index}")
