"""Extension point: pretraining phases, which train a part of the model before the first training step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from refersam.training.engine import Engine
from refersam.training.trainee import TrainingBatch


class Phase(ABC):
    """Pretraining before the first step of a run, with its own module, batches and schedule.

    Args:
        steps: number of optimizer steps.
        log_every: number of steps between log lines.
        checkpoint_every: number of steps between checkpoints.
    """

    def __init__(self, steps: int, log_every: int, checkpoint_every: int) -> None:
        self.steps, self.log_every, self.checkpoint_every = steps, log_every, checkpoint_every

    @abstractmethod
    def build_engine(self) -> Engine:
        """Return the engine, with a copy of the trained parts; called once, at the start of the phase."""

    @abstractmethod
    def prepare(self, is_stopping: Callable[[], bool]) -> None:
        """Prepare the data of the batches; called if there are steps left.

        Args:
            is_stopping: called repeatedly; True stops the preparation.

        Raises:
            Stopped: `is_stopping` returned True.
        """

    @abstractmethod
    def batch(self, step: int) -> TrainingBatch:
        """Return the batch of a step for this process, and seed torch's generator for the step."""

    @abstractmethod
    def lr_factor(self, step: int) -> float:
        """Return the learning rates at a step as a share of their peaks."""

    @abstractmethod
    def finish(self, engine: Engine) -> None:
        """Load the trained weights into the model."""
