"""Dynamic batching: queries that arrive during a model run form the next batch.

A batch is never delayed to fill it, so batching adds no latency for a single client. Serving libraries with batching
fail all requests of a batch if one fails, or have no queue limit; hence this small asyncio implementation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from refersam.inference.queries import Query
from refersam.model.refersam import ReferSamOutput

Run = Callable[[Sequence[Query]], list[ReferSamOutput]]

_log = logging.getLogger(__name__)


class Batcher:
    """Queue of queries for one model in one thread, oldest first. Callers bound its length: one query per request.

    Args:
        run: function that runs the model on queries with the same `batch_key`.
        most: maximum number of phrases per batch.
        observe: callback with the number of phrases of each batch.
    """

    def __init__(self, run: Run, most: int, observe: Callable[[int], None] = lambda _: None) -> None:
        self._run, self._most, self._observe = run, most, observe
        self._waiting: list[tuple[Query, asyncio.Future[ReferSamOutput]]] = []
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start processing; call it from the event loop of the callers of `ask`."""
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """Finish the running batch and cancel the waiting queries."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for _, future in self._waiting:
            future.cancel()
        await asyncio.to_thread(self._thread.shutdown)

    async def ask(self, query: Query) -> ReferSamOutput:
        """Return the model's output for a query, or raise the model's exception; if cancelled, drop the query."""
        future: asyncio.Future[ReferSamOutput] = asyncio.get_running_loop().create_future()
        self._waiting.append((query, future))
        self._arrived.set()
        try:
            return await future
        except asyncio.CancelledError:
            self._waiting = [entry for entry in self._waiting if entry[1] is not future]
            raise

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            batch = self._take()
            if not batch:
                self._arrived.clear()
                continue
            queries = [query for query, _ in batch]
            self._observe(sum(len(query.phrases) for query in queries))
            try:
                answers: Sequence[ReferSamOutput | Exception] = await self._in_thread(queries)
            except Exception as error:
                _log.exception("A batch of %d requests failed", len(batch))
                answers = [error] if len(batch) == 1 else [await self._alone(query) for query in queries]
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():  # the client disconnected
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    async def _in_thread(self, queries: list[Query]) -> list[ReferSamOutput]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, queries)

    async def _alone(self, query: Query) -> ReferSamOutput | Exception:
        """Run one query of a failed batch separately, so that the other queries can succeed."""
        try:
            return (await self._in_thread([query]))[0]
        except Exception as error:
            return error

    def _take(self) -> list[tuple[Query, asyncio.Future[ReferSamOutput]]]:
        """Remove and return the next batch: the oldest query, and others with its `batch_key` up to `most` phrases."""
        waiting = [entry for entry in self._waiting if not entry[1].done()]
        if not waiting:
            self._waiting = []
            return []
        first = waiting[0][0]
        room = max(1, self._most // len(first.phrases))
        batch = [entry for entry in waiting if entry[0].batch_key == first.batch_key][:room]
        taken = {id(future) for _, future in batch}
        self._waiting = [entry for entry in waiting if id(entry[1]) not in taken]
        return batch
