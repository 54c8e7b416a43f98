"""Signals that end a run: remembered once, and at once by Ctrl-C again."""

from __future__ import annotations

import logging
import os
import signal

import pytest

from refersam.training.signals import Stopped, StopSignals, until_stopped


def test_ctrl_c_is_remembered_and_ends_at_once_again(caplog: pytest.LogCaptureFixture) -> None:
    """The first says what happens; afterwards handlers are as before."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with caplog.at_level(logging.WARNING), StopSignals() as signals:
        assert not signals.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        assert (signals.is_set(), signals.received) == (True, "SIGINT")
        assert "Ctrl-C again ends at once" in caplog.text
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_launcher_forwards_what_the_terminal_sent() -> None:
    """Within the grace another one is the same."""
    with StopSignals(grace=60.0) as signals:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == "SIGINT"


def test_an_ignored_interrupt_stays_ignored() -> None:
    """As a shell starts what runs in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert not signals.is_set()
    finally:
        signal.signal(signal.SIGINT, before)


def test_items_until_a_stop() -> None:
    """Those before it."""
    stops = iter([False, False, True])
    items = until_stopped("abc", lambda: next(stops))
    assert [next(items), next(items)] == ["a", "b"]
    with pytest.raises(Stopped):
        next(items)
