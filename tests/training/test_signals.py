"""Signals that announce the end of a run, on every system."""

from __future__ import annotations

import runpy
import signal

import pytest

from refersam.training import signals


def test_a_system_without_sigusr1(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has none: the module is still imported, and listens to the other one."""
    assert signals.SIGNALS == (signal.SIGTERM, signal.SIGUSR1)
    monkeypatch.delattr(signal, "SIGUSR1")
    assert runpy.run_path(signals.__file__)["SIGNALS"] == (signal.SIGTERM,)
