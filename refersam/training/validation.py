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
    """Extension point: data and scoring of validation.

    Attributes:
        protocol: evaluation protocol; its first metric ranks checkpoints, higher is better.
    """

    protocol: Protocol

    @abstractmethod
    def score(
        self, predictor: ReferSamPredictor, processes: Processes, is_stopping: Callable[[], bool]
    ) -> tuple[Sequence[SampleResult], dict[str, float]]:
        """Score a model; return counted samples, and metrics in percent.

        Args:
            predictor: predictor of the model.
            processes: processes that share the work.
            is_stopping: called after each image or batch; True abandons the validation.

        Returns:
            Results of the samples, and metrics in percent.

        Raises:
            Stopped: `is_stopping` returned True.
            DataError: images or masks that cannot be read.
            EvaluationError: NaN outputs.
        """

    @abstractmethod
    def examples(self) -> Iterator[ReferringImage]:
        """Return example images for display, the same at each call."""


class DatasetValidation(ValidationSet):
    """A split of a data set.

    Args:
        settings: settings of the run.

    Raises:
        DataError: no such data set, or invalid data.
    """

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
    """Score a model and draw its masks.

    Args:
        validation: data and protocol.
        processor: processor of the model.
        processes: processes that share the work.
    """

    def __init__(self, validation: ValidationSet, processor: ReferSamProcessor, processes: Processes) -> None:
        self.validation, self.processor, self.processes = validation, processor, processes

    @property
    def metric(self) -> str:
        """The protocol's first metric, by which checkpoints are compared: higher is better."""
        return self.validation.protocol.metrics[0]

    def score(self, model: ReferSamModel, is_stopping: Callable[[], bool] = never) -> dict[str, float]:
        """Return the metrics in percent, with the pixel counts of intersection and union.

        Args:
            model: model to validate.
            is_stopping: called after each image or batch; True abandons the validation. With several processes, it must
                return the same value in all of them.

        Raises:
            Stopped: `is_stopping` returned True.
            DataError: images or masks that cannot be read.
            EvaluationError: NaN outputs.
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
