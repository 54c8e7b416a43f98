"""Training loop: optimizer steps, means for the log, and callbacks between steps."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from refersam.training.engine import Engine
from refersam.training.trainee import TrainingBatch


@dataclass(frozen=True)
class LogLine:
    """Means since the previous log line.

    Attributes:
        terms: mean loss terms over the steps that were taken.
        lr_factor: learning rates of the last step as a share of their peaks.
        steps_per_second: speed without the time of `after_step`.
        skipped: number of skipped steps.
    """

    terms: dict[str, float]
    lr_factor: float
    steps_per_second: float
    skipped: int


def run_steps(
    engine: Engine,
    batches: Iterable[Sequence[TrainingBatch]],
    *,
    first: int,
    steps: int,
    log_every: int,
    lr_factor: Callable[[int], float],
    is_stopping: Callable[[], bool],
    on_step: Callable[[int, LogLine | None], None],
    after_step: Callable[[int, bool], bool],
) -> bool:
    """Take the steps `first` to `steps` of a run or phase; return whether all are done, False after a stop.

    Args:
        engine: engine that takes the steps.
        batches: batches of each step, from `first` on.
        first: number of completed steps.
        steps: number of steps of the whole run or phase.
        log_every: number of steps between log lines.
        lr_factor: schedule, from the step to the learning rates as a share of their peaks.
        is_stopping: returns whether this process received a stop signal.
        on_step: called after every step with the number of completed steps, and with a log line if one is due.
        after_step: called after `on_step` with the number of completed steps and whether to stop. It validates, writes
            checkpoints, and returns whether to stop.

    Returns:
        Whether all steps are completed; False after a stop.
    """
    sums: dict[str, float] = defaultdict(float)
    taken = seen = 0
    started = time.monotonic()
    for step, group in enumerate(batches, first):
        factor = lr_factor(step)
        result = engine.take_step(group, step, factor, is_stopping())
        done = step + 1
        seen += 1
        taken += bool(result.terms)
        for name, value in result.terms.items():
            sums[name] += value
        line = None
        if taken and (done % log_every == 0 or done == steps):
            means = {name: value / taken for name, value in sums.items()}
            line = LogLine(means, factor, seen / (time.monotonic() - started), seen - taken)
            sums.clear()
            taken, seen, started = 0, 0, time.monotonic()
        on_step(done, line)
        before = time.monotonic()
        stop = after_step(done, result.stop)
        started += time.monotonic() - before
        if stop:
            return False
    return True
