"""Extension point: pretraining phases, which train a part of the model before the first step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from refersam.training.engine import Engine
from refersam.training.trainee import TrainingBatch


class Phase(ABC):
    """Training before the first step of a run, with a module, batches and a schedule of its own."""

    def __init__(self, steps: int, log_every: int, checkpoint_every: int) -> None:
        self.steps, self.log_every, self.checkpoint_every = steps, log_every, checkpoint_every

    @abstractmethod
    def build_engine(self) -> Engine:
        """Return the engine of the phase, with a copy of what it trains; called once, when the phase begins."""

    @abstractmethod
    def prepare(self, is_stopping: Callable[[], bool]) -> None:
        """Prepare what the batches need, if there are steps to take; raise Stopped once `is_stopping` returns True."""

    @abstractmethod
    def batch(self, step: int) -> TrainingBatch:
        """Return the batch of a step for this process, and seed torch's generator for the step."""

    @abstractmethod
    def lr_factor(self, step: int) -> float:
        """Return the learning rates at a step as a share of their peaks."""

    @abstractmethod
    def finish(self, engine: Engine) -> None:
        """Load what was trained into the model."""
