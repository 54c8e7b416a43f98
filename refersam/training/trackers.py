"""Experiment trackers: TensorBoard always, Weights & Biases or trackio where a recipe names them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from refersam.optional import how_to_install
from refersam.training.settings import SettingsError, TrainSettings

logger = logging.getLogger(__name__)


class WebTracker:
    """The run `name` of Weights & Biases or trackio, which have the same interface."""

    def __init__(self, module: str, name: str, settings: dict[str, Any]) -> None:
        self._module = import_module(module)
        self._run = self._module.init(project="refersam", name=name, config=settings)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log the numbers of a step by name."""
        self._run.log(dict(values), step=step)

    def show(self, name: str, image: np.ndarray, step: int) -> None:
        """Log an image, (H, W, 3) uint8."""
        self._run.log({name: self._module.Image(image)}, step=step)

    def finish(self) -> None:
        """Close the run."""
        self._run.finish()


class TensorBoard:
    """Event files in a folder; events of steps after `step`, where a resumed run starts, are discarded."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1)
        self.finish = self._writer.close

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log the numbers of a step by name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def show(self, name: str, image: np.ndarray, step: int) -> None:
        """Log an image, (H, W, 3) uint8."""
        self._writer.add_image(name, image, step, dataformats="HWC")


def check_trackers(settings: TrainSettings) -> None:
    """Raise SettingsError for a tracker that is not installed."""
    for name in settings.trackers:
        if find_spec(name) is None:
            raise SettingsError(f"trackers: {name} is not installed: pip install {name}, or leave it out.")


def open_trackers(folder: Path, step: int, settings: TrainSettings) -> list[TensorBoard | WebTracker]:
    """Return the trackers of the run in `folder`, which starts or resumes after `step` steps."""
    trackers: list[TensorBoard | WebTracker] = []
    try:
        trackers.append(TensorBoard(folder / "tensorboard", step))
    except ImportError:
        logger.warning("TensorBoard is not installed, so nothing is written for it: %s.", how_to_install("train"))
    name, values = folder.resolve().name, settings.model_dump(mode="json")
    return [*trackers, *(WebTracker(module, name, values) for module in settings.trackers)]
