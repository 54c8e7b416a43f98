"""Worker processes that ignore stop signals and exit with their parent."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from refersam.errors import ReferSamError

if TYPE_CHECKING:
    from torch.utils.data import DataLoader, Dataset

STOP_SIGNALS: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)
"""Signals that stop a run. Windows has no SIGUSR1."""

_CHECK_SECONDS = 1.0
"""Interval in seconds between checks of the parent process."""


def load_in_workers(dataset: Dataset[Any], workers: int, seed: int = 0) -> Iterator[Any]:
    """Yield the items of a data set in order, loaded by `workers` processes (0: by this process).

    The global random generator is not used. Exceptions of workers lose their type. The data set should therefore return
    a `ReferSamError` as the item for broken data; this function raises it.
    """
    import torch
    from torch.utils.data import DataLoader

    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=start_worker if workers else None,
        generator=torch.Generator().manual_seed(seed),
    )
    items = _in_order(loader)
    _running.add(items)
    atexit.unregister(_close_running)  # registered again to run before the exit handlers of torch
    atexit.register(_close_running)
    return items


def _in_order(loader: DataLoader[Any]) -> Generator[Any, None, None]:
    items: Any
    with _signals_blocked():  # workers start with blocked signals, until they ignore them
        items = iter(loader)
    try:
        for item in items:
            if isinstance(item, ReferSamError):
                raise item
            yield item
    finally:  # a traceback may keep the iterator and its workers alive until the program ends
        if loader.num_workers:
            items._shutdown_workers()


_running: weakref.WeakSet[Generator[Any, None, None]] = weakref.WeakSet()


def _close_running() -> None:
    """Stop the workers of active generators at program exit.

    multiprocessing would send SIGTERM, which the workers ignore, and would wait forever.
    """
    for items in list(_running):
        items.close()


def start_worker(_worker: int) -> None:
    """Initialize a `DataLoader` worker: set one thread and call `leave_signals_to_parent`."""
    import torch

    torch.set_num_threads(1)
    leave_signals_to_parent()


def leave_signals_to_parent() -> None:
    """Ignore `STOP_SIGNALS` in this worker process, and exit when the parent exits, even by kill -9.

    A terminal or `timeout` sends a signal to the whole process group. The parent finishes its work and stops its
    workers; an earlier exit of a worker would cause an error in the parent.
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
    # A pipe or handle detects the exit of the parent. Siblings may keep the pipe open, but then the parent id changes.
    while parent.is_alive() and os.getppid() == parent_id:
        parent.join(_CHECK_SECONDS)
    os._exit(1)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block `STOP_SIGNALS` for new processes; deliver signals of this thread on exit from the context."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
