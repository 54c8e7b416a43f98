"""Experiment trackers: TensorBoard, and Weights & Biases or trackio if a recipe names them."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from refersam.optional import how_to_install
from refersam.training.settings import SettingsError, TrainSettings

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """Tracker of values and images."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log the values of a step by name."""

    def show(self, name: str, image: np.ndarray, step: int) -> None:
        """Log an (H, W, 3) uint8 image."""

    def finish(self) -> None:
        """Close the tracker."""


class TensorBoard:
    """Writer of TensorBoard event files; earlier events after the resumed step are purged.

    Args:
        folder: folder of the event files.
        step: step that the run resumes from.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def show(self, name: str, image: np.ndarray, step: int) -> None:
        """See `Tracker`."""
        self._writer.add_image(name, image, step, dataformats="HWC")

    def finish(self) -> None:
        """See `Tracker`."""
        self._writer.close()


class WebTracker:
    """Weights & Biases or trackio, which have the same interface.

    Args:
        module: name of the module.
        run: name of the run.
        settings: settings of the run.
    """

    def __init__(self, module: str, run: str, settings: dict[str, Any]) -> None:
        self._module = importlib.import_module(module)
        self._run = self._module.init(project="refersam", name=run, config=settings)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        self._run.log(dict(values), step=step)

    def show(self, name: str, image: np.ndarray, step: int) -> None:
        """See `Tracker`."""
        self._run.log({name: self._module.Image(image)}, step=step)

    def finish(self) -> None:
        """See `Tracker`."""
        self._run.finish()


def check_trackers(settings: TrainSettings) -> None:
    """Check that all trackers of a recipe are installed.

    Raises:
        SettingsError: a tracker is not installed.
    """
    for name in settings.trackers:
        if find_spec(name) is None:
            raise SettingsError(f"trackers: {name} is not installed: pip install {name}, or remove it.")


def open_trackers(folder: Path, step: int, settings: TrainSettings) -> list[Tracker]:
    """Open all trackers of a run.

    Args:
        folder: folder of the run.
        step: step that the run resumes from.
        settings: settings of the run.
    """
    trackers: list[Tracker] = []
    try:
        trackers.append(TensorBoard(folder / "tensorboard", step))
    except ImportError:
        logger.warning(
            "TensorBoard is not installed; no event files are written. To enable it: %s.", how_to_install("train")
        )
    for name in settings.trackers:
        trackers.append(WebTracker(name, folder.resolve().name, settings.model_dump(mode="json")))
    return trackers
