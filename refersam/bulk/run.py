"""Segmentation of many images: threads read ahead, the model runs batches, lines are returned in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from refersam.bulk.items import Item
from refersam.bulk.results import Line
from refersam.errors import ReferSamError
from refersam.image import load_image
from refersam.inference.answers import check_thresholds, read_answers
from refersam.inference.predictor import ReferSamPredictor
from refersam.inference.queries import Query, run_queries


@dataclass(frozen=True)
class BulkSettings:
    """Settings of a run.

    Attributes:
        model: argument of `ReferSamPredictor.from_pretrained`; None for the bundled model.
        device: device; None for the best one available.
        dtype: dtype of the weights.
        threshold: probability from which a pixel belongs to the mask.
        no_target_threshold: probability of a target below which nothing matches; None for the model's default.
        min_component_fraction: a connected component of a mask with less than this fraction of the largest component's
            area is dropped; 0 keeps all; None for the model's default.
        batch_size: largest number of (image, phrase) pairs in a batch.
        workers: threads that read images ahead; with Ray, processes that each hold a model.

    Raises:
        ValueError: a threshold outside [0, 1].
    """

    model: str | None = None
    device: str | None = None
    dtype: str = "float32"
    threshold: float = 0.5
    no_target_threshold: float | None = None
    min_component_fraction: float | None = None
    batch_size: int = 8
    workers: int = 2

    def __post_init__(self) -> None:
        check_thresholds(self.threshold, self.no_target_threshold, self.min_component_fraction)

    def lasting(self) -> dict[str, Any]:
        """Return the settings that the results depend on."""
        names = ("model", "dtype", "threshold", "no_target_threshold", "min_component_fraction")
        return {name: getattr(self, name) for name in names}


class Engine(Protocol):
    """Function from items to lines of results."""

    def __call__(self, items: Iterable[Item]) -> Iterator[Line]:
        """Yield a line for each item, in order; a broken image becomes a line with an error."""


class LocalEngine:
    """Engine that runs in this process.

    Args:
        predictor: predictor of the model.
        settings: settings of the run; model, device and dtype are ignored.
    """

    def __init__(self, predictor: ReferSamPredictor, settings: BulkSettings) -> None:
        self.predictor, self.settings = predictor, settings

    def __call__(self, items: Iterable[Item]) -> Iterator[Line]:
        """See `Engine`; a few images are in memory at a time."""
        pool = ThreadPoolExecutor(self.settings.workers, thread_name_prefix="read")
        try:
            for batch in self._batches(self._prepared(pool, items)):
                yield from self._answer(batch)
        finally:
            pool.shutdown(cancel_futures=True)

    def _prepared(self, pool: ThreadPoolExecutor, items: Iterable[Item]) -> Iterator[tuple[Item, Query | str]]:
        """Yield prepared items in order; threads read at most one batch ahead."""
        waiting: deque[tuple[Item, Future[Query | str]]] = deque()
        for item in items:
            waiting.append((item, pool.submit(self._prepare, item)))
            if len(waiting) > self.settings.batch_size + self.settings.workers:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()

    def _prepare(self, item: Item) -> Query | str:
        """Return the query, or the error message."""
        try:
            return Query.prepare(self.predictor.processor, load_image(item.path), item.phrases)
        except ReferSamError as error:
            return str(error)
        except OSError as error:
            return f"{item.path}: {error.strerror or error}."
        except MemoryError:
            return f"{item.path} needs more memory than there is."

    def _batches(self, prepared: Iterable[tuple[Item, Query | str]]) -> Iterator[list[tuple[Item, Query | str]]]:
        """Group successive images with equal numbers of phrases, up to the batch size."""
        batch: list[tuple[Item, Query | str]] = []
        for item, query in prepared:
            full = (len(batch) + 1) * len(item.phrases) > self.settings.batch_size
            if batch and (full or len(batch[0][0].phrases) != len(item.phrases)):
                yield batch
                batch = []
            batch.append((item, query))
        if batch:
            yield batch

    def _answer(self, batch: list[tuple[Item, Query | str]]) -> Iterator[Line]:
        queries = [query for _, query in batch if isinstance(query, Query)]
        outputs = iter(run_queries(self.predictor.model, queries)) if len(queries) > 1 else None
        for item, query in batch:
            if isinstance(query, str):
                yield {"image": item.image, "phrases": item.phrases, "error": query}
                continue
            results: list[dict[str, Any]] = []
            for part in [query] if outputs is not None else _parts(query, self.settings.batch_size):
                output = next(outputs) if outputs is not None else run_queries(self.predictor.model, [part])[0]
                answers = read_answers(
                    self.predictor.model,
                    self.predictor.processor,
                    output,
                    part,
                    self.settings.threshold,
                    self.settings.no_target_threshold,
                    self.settings.min_component_fraction,
                )
                results += [answer.as_dict() for answer in answers]
            line: Line = {"image": item.image, "width": query.width, "height": query.height, "results": results}
            if self.predictor.domain is not None:
                line["domain"] = self.predictor.domain
            yield line


def _parts(query: Query, most: int) -> Iterator[Query]:
    """Split a query into queries of at most `most` phrases."""
    for start in range(0, len(query.phrases), most):
        yield query.part(start, start + most)
