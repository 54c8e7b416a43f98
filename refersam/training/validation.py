"""Validation while training: the evaluator on the averaged weights, and what they see in a few fixed samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
from PIL import Image

from refersam.data.datasets import open_dataset
from refersam.data.index import group_by_image
from refersam.data.sample import ReferringImage, ReferringSample
from refersam.drawing import contact_sheet, draw_overlay
from refersam.evaluate import evaluate_images, evaluate_model
from refersam.evaluate.processes import Processes
from refersam.metrics import sceneref_metrics
from refersam.metrics.protocols import PROTOCOLS, Protocol, default_protocol
from refersam.metrics.results import SampleResult
from refersam.metrics.summary import sum_pixels
from refersam.model.refersam import ReferSamModel
from refersam.predictor import ReferSamPredictor
from refersam.processor import ReferSamProcessor
from refersam.training.settings import SceneSettings, TrainSettings
from refersam.training.signals import Stopped, never, until_stopped
from refersam.training.sources import scene_to_referring_image
from sceneref import generate_scene

_SHOWN_PICTURES, _SHOWN_PHRASES = 4, 2
_TRUTH_COLOUR = (30, 200, 90)


class Validator:
    """Scores a model on the validation split of a run.

    Args:
        settings: of the run.
        processor: of the model.
        processes: that share the work.

    Raises:
        DataError: no such data set, or something in it that cannot be used.
    """

    drawn_side = 256
    """Of SceneRef's pictures, in pixels: larger than the network's input, as a user's picture would be."""

    def __init__(self, settings: TrainSettings, processor: ReferSamProcessor, processes: Processes) -> None:
        self.settings, self.processor, self.processes = settings, processor, processes
        self.samples: Sequence[ReferringSample] = ()
        self.protocol: Protocol = PROTOCOLS["sceneref"]
        data = settings.data
        if data.root is not None:
            name = data.validation_dataset or data.dataset
            split_by = data.split_by if name == data.dataset else None
            groups = open_dataset(data.root, name, data.validation_split, split_by).images()
            self.samples = [sample for group in groups[: data.validation_pictures] for sample in group]
            self.protocol = default_protocol(name, (sample.has_target for sample in self.samples))

    @property
    def metric(self) -> str:
        """The protocol's first metric, by which checkpoints are compared: more is better."""
        return self.protocol.metrics[0]

    def score(self, model: ReferSamModel, is_stopping: Callable[[], bool] = never) -> dict[str, float]:
        """The protocol's metrics in percent, and the integers of pixels behind them.

        Args:
            model: to validate.
            is_stopping: asked after each picture or batch whether to abandon the validation; with several processes
                none may do so alone.

        Raises:
            Stopped: `is_stopping` returned True.
            DataError: broken pictures or masks.
            EvaluationError: outputs that are not numbers.
        """
        if self.settings.data.is_drawn:
            own = islice(until_stopped(self._scenes(), is_stopping), self.processes.index, None, self.processes.count)
            results: Sequence[SampleResult] = self.processes.gather(
                list(evaluate_images(model.eval(), self.processor, own))
            )
            metrics = sceneref_metrics(results)
        else:

            def stop_if_asked(_what: str, _done: int, _total: int) -> None:
                if is_stopping():
                    raise Stopped

            evaluation = evaluate_model(
                ReferSamPredictor(model, self.processor),
                self.samples,
                self.protocol,
                workers=self.settings.data.workers,
                processes=self.processes,
                progress=stop_if_asked,
            )
            results, metrics = evaluation.results, evaluation.metrics
        common, union = sum_pixels(self.protocol, results)
        return {**metrics, "pixels in common": common, "pixels in union": union}

    def _scenes(self) -> Iterator[ReferringImage]:
        settings = (self.settings.data.validation_scenes or SceneSettings()).scenes(self.drawn_side, 6)
        for index in range(self.settings.data.validation_pictures or 100):
            yield scene_to_referring_image(generate_scene(settings, "val", 0, index), f"val_{index}")

    def draw(self, model: ReferSamModel) -> Image.Image:
        """A sheet of the first samples, the same each time: truth, then what the model says."""
        predictor = ReferSamPredictor(model, self.processor)
        tiles = []
        for picture in self._shown():
            image = Image.fromarray(picture.image)
            phrases = picture.phrases[:_SHOWN_PHRASES]
            for truth, answer in zip(picture.masks, predictor.predict(image, phrases), strict=False):
                found = "no target" if answer.no_target else f"score {answer.score:.2f}"
                tiles.append((answer.phrase, draw_overlay(image, np.asarray(truth), _TRUTH_COLOUR)))
                tiles.append((found, answer.overlay()))
        return contact_sheet(tiles)

    def _shown(self) -> Iterator[ReferringImage]:
        if self.settings.data.is_drawn:
            return islice(self._scenes(), _SHOWN_PICTURES)
        groups = group_by_image(self.samples)[:_SHOWN_PICTURES]
        return (ReferringImage.load(group[:_SHOWN_PHRASES]) for group in groups)
