"""Fixtures of the tests of training on rendered scenes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from refersam.training.loop import LogLine, run_steps
from refersam.training.phases import Phase
from refersam.training.signals import never


@pytest.fixture(autouse=True)
def _few_scenes(few_scenes: None) -> None:
    """Use few and small rendered scenes in every test."""


@pytest.fixture(scope="session")
def train_phase() -> Callable[[Phase], list[dict[str, float]]]:
    """Call with a phase to train it without checkpoints, update its model, and return the terms of each log line."""

    def train(phase: Phase) -> list[dict[str, float]]:
        lines: list[dict[str, float]] = []

        def keep(_done: int, line: LogLine | None) -> None:
            if line is not None:
                lines.append(line.terms)

        engine = phase.build_engine()
        phase.prepare(never)
        run_steps(
            engine,
            ([phase.batch(step)] for step in range(phase.steps)),
            first=0,
            steps=phase.steps,
            log_every=phase.log_every,
            lr_factor=phase.lr_factor,
            is_stopping=never,
            on_step=keep,
            after_step=lambda _done, stop: stop,
        )
        phase.finish(engine)
        return lines

    return train
