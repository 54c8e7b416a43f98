"""Stop signals: recorded once; a second Ctrl-C stops at once."""

from __future__ import annotations

import logging
import os
import signal

import pytest

from refersam.training.signals import Stopped, StopSignals, until_stopped


def test_ctrl_c_is_remembered_and_ends_at_once_again(caplog: pytest.LogCaptureFixture) -> None:
    """The first signal logs a message; handlers are restored afterwards."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with caplog.at_level(logging.WARNING), StopSignals() as signals:
        assert not signals.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        assert (signals.is_set(), signals.received) == (True, "SIGINT")
        assert "Press Ctrl-C again to stop at once" in caplog.text
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_launcher_forwards_what_the_terminal_sent() -> None:
    """Within the grace period, a second signal is ignored."""
    with StopSignals(grace=60.0) as signals:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == "SIGINT"


def test_an_ignored_interrupt_stays_ignored() -> None:
    """As shells start background jobs."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert not signals.is_set()
    finally:
        signal.signal(signal.SIGINT, before)


def test_items_until_a_stop() -> None:
    """Items before the stop are yielded."""
    stops = iter([False, False, True])
    items = until_stopped("abc", lambda: next(stops))
    assert [next(items), next(items)] == ["a", "b"]
    with pytest.raises(Stopped):
        next(items)
