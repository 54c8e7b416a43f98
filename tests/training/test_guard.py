"""Guard: which steps are skipped, and when the run ends."""

from __future__ import annotations

import math

import pytest

from refersam.training.errors import TrainingError
from refersam.training.guard import StepGuard


def test_what_is_bad() -> None:
    """NaN, or far above the recent mean once there is one; high initial losses are accepted."""
    guard = StepGuard(explosion=10, max_skipped=1)
    assert guard.is_bad(math.nan, 1)
    assert guard.is_bad(1, math.inf)
    assert not guard.is_bad(1e6, 1)
    for _ in range(20):
        guard.accept(2.0)
    assert guard.mean == pytest.approx(2)
    assert not guard.is_bad(19.9, 1)
    assert guard.is_bad(20.1, 1)
    assert not guard.is_bad(2, 1e6)  # a large gradient is clipped


def test_steps_in_a_hundred_count() -> None:
    """Old skipped steps do not count; too many end the run and name the first samples."""
    guard = StepGuard(explosion=10, max_skipped=2)
    for step in (0, 50, 150, 151):
        guard.skip(step, math.nan, 1, ["a"])
    names = [f"s{index}" for index in range(11)]
    with pytest.raises(
        TrainingError,
        match=r"^Too many bad steps: the loss is nan.* at step 152, with the samples s0, .*, s7 and 3 more; 3 of",
    ):
        guard.skip(152, math.nan, 1, names)


def test_it_survives_a_checkpoint() -> None:
    """The whole state is restored."""
    guard = StepGuard(explosion=10, max_skipped=2)
    guard.accept(3.0)
    guard.skip(7, math.nan, 1, ["a"])
    other = StepGuard(explosion=10, max_skipped=2)
    other.load_state_dict(guard.state_dict())
    assert vars(other) == vars(guard)
