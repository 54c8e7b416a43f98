"""Guard against bad steps: steps with a NaN or exploding loss are skipped; too many of them end the run."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from refersam.errors import first_of
from refersam.training.errors import TrainingError

logger = logging.getLogger(__name__)

WINDOW = 100
"""Number of recent steps in which skipped steps are counted."""
EXPLOSION = 20.0
"""Multiple of the recent mean loss from which a loss counts as exploding."""
_FIRST_MEAN = 20  # number of steps after which the mean is used
_MOMENTUM = 0.98
_MOST_NAMES = 8


class StepGuard:
    """Record of recent losses and skipped steps.

    Args:
        max_skipped: maximum number of skipped steps among the last 100.
        explosion: multiple of the recent mean loss from which a loss counts as exploding.
    """

    def __init__(self, max_skipped: int, explosion: float = EXPLOSION) -> None:
        self.explosion, self.max_skipped = explosion, max_skipped
        self.mean, self.count = 0.0, 0
        self.skipped: list[int] = []

    def is_bad(self, loss: float, norm: float) -> bool:
        """Return whether a step must be skipped.

        Args:
            loss: mean loss of the step over all processes.
            norm: norm of the gradient over all processes.
        """
        exploded = self.count >= _FIRST_MEAN and loss > self.explosion * self.mean
        return exploded or not math.isfinite(loss) or not math.isfinite(norm)

    def accept(self, loss: float) -> None:
        """Record a step that was taken."""
        self.count += 1
        momentum = min(_MOMENTUM, 1 - 1 / self.count)
        self.mean = momentum * self.mean + (1 - momentum) * loss

    def skip(self, step: int, loss: float, norm: float, samples: Sequence[str]) -> None:
        """Record a skipped step.

        Raises:
            TrainingError: too many skipped steps; the message names the samples.
        """
        self.skipped = [old for old in self.skipped if old > step - WINDOW] + [step]
        names = first_of(samples, _MOST_NAMES)
        what = f"the loss is {loss:.4g}, the gradient's norm {norm:.4g}, at step {step}, with the samples {names}"
        if len(self.skipped) <= self.max_skipped:
            logger.warning("Skipping a step: %s.", what)
            return
        raise TrainingError(
            f"Too many bad steps: {what}; {len(self.skipped)} of the last {WINDOW} steps had a NaN or exploding loss. "
            "Check these samples, or lower optimizer.learning_rate."
        )

    def state_dict(self) -> dict[str, float | int | list[int]]:
        """Return the state for a checkpoint."""
        return {"mean": self.mean, "count": self.count, "skipped": self.skipped}

    def load_state_dict(self, state: dict) -> None:
        """Restore the state of a checkpoint."""
        self.mean, self.count, self.skipped = state["mean"], state["count"], list(state["skipped"])
