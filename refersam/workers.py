"""Worker processes: they leave signals to their parent, and end when it does."""

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
"""Signals that ask a run to stop. Windows has no SIGUSR1."""

_CHECK_SECONDS = 1.0
"""Between two looks at whether the parent is alive."""


def load_in_workers(dataset: Dataset[Any], workers: int, seed: int = 0) -> Iterator[Any]:
    """Yield the items of a data set in order, prepared by `workers` processes (0: by this one); the global random
    generator is not used.

    An exception of a worker loses its type: broken data should be an item of type `ReferSamError`, which is then
    raised.
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
    atexit.unregister(_close_running)  # registered anew to be called before what torch has registered
    atexit.register(_close_running)
    return items


def _in_order(loader: DataLoader[Any]) -> Generator[Any, None, None]:
    items: Any
    with _signals_blocked():  # a worker is born with the signals blocked, so that none ends it before it ignores them
        items = iter(loader)
    try:
        for item in items:
            if isinstance(item, ReferSamError):
                raise item
            yield item
    finally:  # the traceback of an error may keep the iterator, and so its workers, until the program ends
        if loader.num_workers:
            items._shutdown_workers()


_running: weakref.WeakSet[Generator[Any, None, None]] = weakref.WeakSet()


def _close_running() -> None:
    """End the workers of generators that are still in use when the program ends.

    multiprocessing would send the workers SIGTERM, which they ignore, and would wait for them forever.
    """
    for items in list(_running):
        items.close()


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
