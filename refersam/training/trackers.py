"""Who reads along: TensorBoard always, Weights & Biases or trackio where a recipe names them."""

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
    """Takes numbers and pictures."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers of a step, by name."""

    def show(self, name: str, image: np.ndarray, step: int) -> None:
        """A picture, (H, W, 3) uint8."""

    def finish(self) -> None:
        """Nothing comes after this."""


class TensorBoard:
    """Event files in a folder; those of later steps than a resumed run's first are disregarded.

    Args:
        folder: for the files.
        step: that the run goes on from.
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
    """Weights & Biases or trackio, which are called alike.

    Args:
        module: its name.
        run: name of the run.
        settings: of the run.
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
    """Before anything else starts.

    Raises:
        SettingsError: a tracker that is not installed.
    """
    for name in settings.trackers:
        if find_spec(name) is None:
            raise SettingsError(f"trackers: {name} is not installed: pip install {name}, or leave it out.")


def open_trackers(folder: Path, step: int, settings: TrainSettings) -> list[Tracker]:
    """All of a run.

    Args:
        folder: of the run.
        step: that it goes on from.
        settings: of the run.
    """
    trackers: list[Tracker] = []
    try:
        trackers.append(TensorBoard(folder / "tensorboard", step))
    except ImportError:
        logger.warning("TensorBoard is not installed, so nothing is written for it: %s.", how_to_install("train"))
    for name in settings.trackers:
        trackers.append(WebTracker(name, folder.resolve().name, settings.model_dump(mode="json")))
    return trackers
