"""Which steps are taken: one whose loss is no number, or explodes, is skipped, and too many of them end the run."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from refersam.errors import first_of
from refersam.training.errors import TrainingError

logger = logging.getLogger(__name__)

WINDOW = 100
"""Steps within which skipped ones are counted."""
EXPLOSION = 20.0
"""A loss of this many times the recent mean is exploding."""
_FIRST_MEAN = 20  # steps until the recent mean says something
_MOMENTUM = 0.98
_MOST_NAMES = 8


class StepGuard:
    """Skips steps with a NaN loss or one of `explosion` times the recent mean, and ends the run after more than
    `max_skipped` of them in 100 steps.
    """

    def __init__(self, max_skipped: int, explosion: float = EXPLOSION) -> None:
        self.explosion, self.max_skipped = explosion, max_skipped
        self.mean, self.count = 0.0, 0
        self.skipped: list[int] = []

    def is_bad(self, loss: float, norm: float) -> bool:
        """Whether a step must be skipped, by its loss and gradient norm over all processes."""
        exploded = self.count >= _FIRST_MEAN and loss > self.explosion * self.mean
        return exploded or not math.isfinite(loss) or not math.isfinite(norm)

    def accept(self, loss: float) -> None:
        """A step that was taken."""
        self.count += 1
        momentum = min(_MOMENTUM, 1 - 1 / self.count)
        self.mean = momentum * self.mean + (1 - momentum) * loss

    def skip(self, step: int, loss: float, norm: float, samples: Sequence[str]) -> None:
        """Record a skipped step; raise TrainingError, naming the samples, for one too many."""
        self.skipped = [old for old in self.skipped if old > step - WINDOW] + [step]
        names = first_of(samples, _MOST_NAMES)
        what = f"the loss is {loss:.4g}, the gradient's norm {norm:.4g}, at step {step}, with the samples {names}"
        if len(self.skipped) <= self.max_skipped:
            logger.warning("A step is skipped: %s.", what)
            return
        raise TrainingError(
            f"{what[0].upper()}{what[1:]}; {len(self.skipped)} steps of the last {WINDOW} were of that kind: look at "
            "these samples, or lower optimizer.learning_rate."
        )

    def state_dict(self) -> dict[str, float | int | list[int]]:
        """For a checkpoint."""
        return {"mean": self.mean, "count": self.count, "skipped": self.skipped}

    def load_state_dict(self, state: dict) -> None:
        """From a checkpoint."""
        self.mean, self.count, self.skipped = state["mean"], state["count"], list(state["skipped"])
