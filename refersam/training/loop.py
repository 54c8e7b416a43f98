"""The training loop: steps, means for the log, and what happens between steps."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from refersam.training.engine import Engine
from refersam.training.trainee import TrainingBatch


@dataclass(frozen=True)
class LogLine:
    """Means since the previous log line: loss terms over the steps taken, learning rates as a share of their peaks at
    the last step, speed without `after_step`, and the number of skipped steps.
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
        batches: of each step from `first` on.
        lr_factor: from a step to the learning rates as a share of their peaks.
        is_stopping: whether this process was asked to stop.
        on_step: called after every step with the steps done; with a log line every `log_every` steps.
        after_step: called then with the steps done and whether to stop. It validates and writes checkpoints, and
            returns whether to stop.
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
