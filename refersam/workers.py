"""Worker processes: they leave signals to their parent, and end when it does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

STOP_SIGNALS: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)
"""Signals that ask a run to stop. Windows has no SIGUSR1."""

_CHECK_SECONDS = 1.0
"""Between two looks at whether the parent is alive."""


def iterate_in_workers(loader: DataLoader[Any]) -> Iterator[Any]:
    """Start the workers of a loader, which must have `start_worker` as its `worker_init_fn`.

    A worker is born with the signals blocked, so that none can end it before it ignores them.
    """
    with _signals_blocked():
        return iter(loader)


def start_worker(_worker: int) -> None:
    """Initialize a worker of a `DataLoader`: one thread, and `leave_signals_to_parent`."""
    import torch

    torch.set_num_threads(1)
    leave_signals_to_parent()


def leave_signals_to_parent() -> None:
    """Ignore `STOP_SIGNALS` in this worker process, and end it when its parent ends, even by kill -9.

    A terminal or `timeout` sends a signal to the whole process group. The parent finishes its work and ends its
    workers; a worker that died first would be an error there.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()


def _end_with_parent() -> None:
    parent, parent_id = multiprocessing.parent_process(), os.getppid()
    if parent is None:
        return
    # A pipe or handle shows the parent's end. Siblings may hold the pipe open, but then the parent's id changes.
    while parent.is_alive() and os.getppid() == parent_id:
        parent.join(_CHECK_SECONDS)
    os._exit(1)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Within it, processes start with `STOP_SIGNALS` blocked; for this thread they wait until its end."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
