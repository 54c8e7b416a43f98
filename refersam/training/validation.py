"""Validation during training: metrics of the averaged weights, and their masks for a few fixed samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
from PIL import Image

from refersam.data.datasets import open_dataset
from refersam.data.index import group_by_image
from refersam.data.sample import ReferringImage
from refersam.drawing import contact_sheet, draw_overlay
from refersam.evaluate import evaluate_model
from refersam.evaluate.processes import Processes
from refersam.inference.predictor import ReferSamPredictor
from refersam.metrics.protocols import Protocol, default_protocol
from refersam.metrics.results import SampleResult
from refersam.metrics.summary import sum_pixels
from refersam.model.refersam import ReferSamModel
from refersam.processor import ReferSamProcessor
from refersam.training.settings import TrainSettings
from refersam.training.signals import Stopped, never

_SHOWN_IMAGES, _SHOWN_PHRASES = 4, 2
_TRUTH_COLOUR = (30, 200, 90)


class ValidationSet(ABC):
    """Extension point: what validation runs on.

    Attributes:
        protocol: to score by; its first metric ranks checkpoints, higher is better.
    """

    protocol: Protocol

    @abstractmethod
    def score(
        self, predictor: ReferSamPredictor, processes: Processes, is_stopping: Callable[[], bool]
    ) -> tuple[Sequence[SampleResult], dict[str, float]]:
        """Score a model; return counted samples, and metrics in percent.

        `processes` share the work. Raises Stopped once `is_stopping`, called after each image or batch, returns True;
        DataError for unreadable images or masks; EvaluationError for NaN outputs.
        """

    @abstractmethod
    def examples(self) -> Iterator[ReferringImage]:
        """Return images to look at, the same each time."""


class DatasetValidation(ValidationSet):
    """The validation split of `settings.data`; raises DataError for data that cannot be used."""

    def __init__(self, settings: TrainSettings) -> None:
        data = settings.data
        name = data.validation_dataset or data.dataset
        split_by = data.split_by if name == data.dataset else None
        groups = open_dataset(data.root or "", name, data.validation_split, split_by).images()
        self.workers = data.workers
        self.samples = [sample for group in groups[: data.validation_images] for sample in group]
        self.protocol = default_protocol(name, (sample.has_target for sample in self.samples))

    def score(
        self, predictor: ReferSamPredictor, processes: Processes, is_stopping: Callable[[], bool]
    ) -> tuple[Sequence[SampleResult], dict[str, float]]:
        """Run the evaluator; see `ValidationSet`."""

        def stop_if_asked(_what: str, _done: int, _total: int) -> None:
            if is_stopping():
                raise Stopped

        evaluation = evaluate_model(
            predictor, self.samples, self.protocol, workers=self.workers, processes=processes, progress=stop_if_asked
        )
        return evaluation.results, evaluation.metrics

    def examples(self) -> Iterator[ReferringImage]:
        """Return the first images of the split; see `ValidationSet`."""
        return (ReferringImage.load(group[:_SHOWN_PHRASES]) for group in group_by_image(self.samples))


class Validator:
    """Scores a model and draws its masks; `processes` share the work."""

    def __init__(self, validation: ValidationSet, processor: ReferSamProcessor, processes: Processes) -> None:
        self.validation, self.processor, self.processes = validation, processor, processes

    @property
    def metric(self) -> str:
        """The protocol's first metric, by which checkpoints are compared: higher is better."""
        return self.validation.protocol.metrics[0]

    def score(self, model: ReferSamModel, is_stopping: Callable[[], bool] = never) -> dict[str, float]:
        """Return the metrics in percent and the pixel counts behind them; see `ValidationSet.score` for errors. With
        several processes, none may stop alone.
        """
        predictor = ReferSamPredictor(model, self.processor)
        results, metrics = self.validation.score(predictor, self.processes, is_stopping)
        intersection, union = sum_pixels(self.validation.protocol, results)
        return {**metrics, "pixels in common": intersection, "pixels in union": union}

    def draw(self, model: ReferSamModel) -> Image.Image:
        """Draw true and predicted masks of the first samples on one sheet."""
        predictor = ReferSamPredictor(model, self.processor)
        tiles = []
        for example in islice(self.validation.examples(), _SHOWN_IMAGES):
            image = Image.fromarray(example.image)
            phrases = example.phrases[:_SHOWN_PHRASES]
            for truth, answer in zip(example.masks, predictor.predict(image, phrases), strict=False):
                caption = "no target" if answer.no_target else f"score {answer.score:.2f}"
                tiles.append((answer.phrase, draw_overlay(image, np.asarray(truth), _TRUTH_COLOUR)))
                tiles.append((caption, answer.overlay()))
        return contact_sheet(tiles)
