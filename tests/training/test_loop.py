"""Training loop with a fake engine: means for the log, stops, order of the callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from refersam.training import loop
from refersam.training.engine import StepResult
from refersam.training.loop import LogLine, run_steps


class PretendedEngine:
    """Engine whose loss in a step is the index of the step.

    Attributes:
        skipped: steps that are skipped.
        stopping: steps in which a process was asked to stop.
        taken: arguments of all steps.
    """

    def __init__(self, skipped: Sequence[int] = (), stopping: Sequence[int] = ()) -> None:
        self.skipped, self.stopping = skipped, stopping
        self.taken: list[tuple[Any, ...]] = []

    def take_step(self, batches: Sequence[str], step: int, lr_factor: float, stop: bool = False) -> StepResult:
        """See `Engine`."""
        self.taken.append((batches, step, lr_factor, stop))
        terms = {} if step in self.skipped else {"total": float(step), "square": float(step**2)}
        return StepResult(terms, stop or step in self.stopping)


def run(engine: PretendedEngine, first: int = 0, **changes: Any) -> tuple[bool, list[tuple[int, LogLine | None]]]:
    """Run to step 6; return whether all steps are completed, and the arguments of `on_step`."""
    calls: list[tuple[int, LogLine | None]] = []
    arguments: dict[str, Any] = {
        "first": first,
        "steps": 6,
        "log_every": 1,
        "lr_factor": lambda step: 0.0,
        "is_stopping": lambda: False,
        "on_step": lambda done, line: calls.append((done, line)),
        "after_step": lambda done, stop: stop,
        **changes,
    }
    is_complete = run_steps(engine, ([f"batch {step}"] for step in range(first, 6)), **arguments)  # type: ignore[arg-type]
    return is_complete, calls


def test_means_since_the_previous_line() -> None:
    """A line every four steps and after the last one; `on_step` is called after every step."""
    is_complete, calls = run(PretendedEngine(), log_every=4, lr_factor=lambda step: step / 10)
    assert is_complete
    assert [done for done, _ in calls] == [1, 2, 3, 4, 5, 6]
    lines = {done: line for done, line in calls if line is not None}
    assert list(lines) == [4, 6]
    assert lines[4].terms == {"total": 1.5, "square": 3.5}
    assert lines[6].terms == {"total": 4.5, "square": 20.5}
    assert [line.lr_factor for line in lines.values()] == [0.3, 0.5]
    assert [line.skipped for line in lines.values()] == [0, 0]


def test_lines_are_due_by_the_number_of_the_step() -> None:
    """A resumed run logs at the same steps; means are over the steps since it resumed."""
    engine = PretendedEngine()
    _, calls = run(engine, first=3, log_every=4)
    assert [(done, line.terms["total"]) for done, line in calls if line is not None] == [(4, 3.0), (6, 4.5)]
    assert [(batches, step) for batches, step, *_ in engine.taken] == [
        (["batch 3"], 3),
        (["batch 4"], 4),
        (["batch 5"], 5),
    ]


def test_skipped_steps_are_no_part_of_the_means() -> None:
    """They are counted; without a completed step, the line is postponed."""
    _, calls = run(PretendedEngine(skipped=[1, 2, 5]), log_every=2)
    lines = {done: (line.terms["total"], line.skipped) for done, line in calls if line is not None}
    assert lines == {2: (0.0, 1), 4: (3.0, 1), 6: (4.0, 1)}
    _, calls = run(PretendedEngine(skipped=[0, 1, 4]))
    lines = {done: (line.terms["total"], line.skipped) for done, line in calls if line is not None}
    assert lines == {3: (2.0, 2), 4: (3.0, 0), 6: (5.0, 1)}


def test_after_step_comes_last() -> None:
    """Each step is reported, then validated and saved, before the next batch is prepared."""
    events: list[object] = []

    def batches() -> Iterator[list[str]]:
        for step in range(2):
            events.append(f"batch {step}")
            yield []

    def take_step(_batches: Sequence[str], step: int, *_rest: object) -> StepResult:
        events.append(f"step {step}")
        return StepResult({"total": 0.0}, False)

    engine = PretendedEngine()
    engine.take_step = take_step  # type: ignore[method-assign, assignment]
    run_steps(
        engine,  # type: ignore[arg-type]
        batches(),  # type: ignore[arg-type]
        first=0,
        steps=2,
        log_every=1,
        lr_factor=lambda step: 1.0,
        is_stopping=lambda: False,
        on_step=lambda done, line: events.append(("on", done, line is not None)),
        after_step=lambda done, stop: bool(events.append(("after", done, stop))),
    )
    first = ["batch 0", "step 0", ("on", 1, True), ("after", 1, False)]
    assert events == [*first, "batch 1", "step 1", ("on", 2, True), ("after", 2, False)]


@pytest.mark.parametrize("where", ["this process", "another process"])
def test_a_stop(where: str) -> None:
    """After the step of the signal, which is reported; no further batch is prepared."""
    engine = PretendedEngine(stopping=[] if where == "this process" else [2])
    asked = iter([False, False, where == "this process"])
    seen: list[tuple[int, bool]] = []
    is_complete, calls = run(
        engine,
        log_every=10,
        is_stopping=lambda: next(asked),
        after_step=lambda *step: bool(seen.append(step)) or step[1],
    )
    assert not is_complete
    assert seen == [(1, False), (2, False), (3, True)]
    assert calls == [(1, None), (2, None), (3, None)]
    assert [stop for *_, stop in engine.taken] == [False, False, where == "this process"]


def test_after_step_decides_about_the_stop() -> None:
    """The last step is completed; a validation may stop the run even if the step did not."""
    is_complete, calls = run(PretendedEngine(stopping=[5]), after_step=lambda done, stop: stop and done < 6)
    assert (is_complete, len(calls)) == (True, 6)
    is_complete, calls = run(PretendedEngine(), after_step=lambda done, stop: done == 2)
    assert (is_complete, len(calls)) == (False, 2)


def test_speed_leaves_out_what_after_step_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Excludes validations and checkpoints, includes skipped steps."""
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])

    def wait(seconds: float, result: bool = False) -> bool:
        now[0] += seconds
        return result

    engine = PretendedEngine(skipped=[1])
    take_step: Callable[..., StepResult] = engine.take_step

    def slow(*arguments: Any) -> StepResult:
        wait(0.5)
        return take_step(*arguments)

    engine.take_step = slow  # type: ignore[method-assign]
    _, calls = run(engine, log_every=3, after_step=lambda done, stop: wait(100.0, stop))
    assert [line.steps_per_second for _, line in calls if line is not None] == pytest.approx([2.0, 2.0])


def test_nothing_is_left() -> None:
    """All steps are already completed."""
    engine = PretendedEngine()
    assert run(engine, first=6) == (True, [])
    assert engine.taken == []
