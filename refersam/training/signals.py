"""Signals that stop a run early with a checkpoint, such as a cluster's time limit or Ctrl-C."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TypeVar

import torch
from accelerate import Accelerator

from refersam.workers import STOP_SIGNALS

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

INTERRUPT = signal.SIGINT.name


class Stopped(Exception):
    """Work was abandoned because of a stop signal."""


class StopSignals:
    """Context in which SIGTERM, SIGUSR1 and the first SIGINT are recorded instead of ending the process.

    A SIGINT after any other signal raises KeyboardInterrupt. A SIGINT that is ignored on entry stays ignored.

    Args:
        grace: seconds after a SIGINT in which a second one is ignored, since launchers forward the terminal's SIGINT to
            processes that already received it.

    Attributes:
        received: name of the first signal; None if there was none.
    """

    def __init__(self, grace: float = 0.0) -> None:
        self.grace = grace
        self.received: str | None = None
        self._received_at = 0.0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # only the main thread may set handlers
            for number in STOP_SIGNALS:
                if number.name != INTERRUPT or signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def is_set(self) -> bool:
        """Return whether a signal was received."""
        return self.received is not None

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.received is None:
            self.received, self._received_at = name, time.monotonic()
            if name == INTERRUPT:
                logger.warning(
                    "Stopping after the current step, with a checkpoint. Press Ctrl-C again to stop at once."
                )
        elif name == INTERRUPT and time.monotonic() - self._received_at >= self.grace:
            raise KeyboardInterrupt


def never() -> bool:
    """Return False, for work that cannot be stopped."""
    return False


def until_stopped(items: Iterable[Item], is_stopping: Callable[[], bool]) -> Iterator[Item]:
    """Yield the items; raise Stopped before the next one once `is_stopping` returns True."""
    for item in items:
        if is_stopping():
            raise Stopped
        yield item


def any_process(flag: bool, accelerator: Accelerator) -> bool:
    """Return whether the flag is set in any process; all processes must call it."""
    if accelerator.num_processes == 1:
        return flag
    total = accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), reduction="sum")
    return bool(total > 0)
