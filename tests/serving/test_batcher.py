"""What runs together, and who gets which answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest
import torch

from refersam.inference.prompts import Prompts
from refersam.inference.queries import Query
from refersam.model.refersam import ReferSamOutput
from refersam.serving.batcher import Batcher


def query(number: int, phrases: int = 1) -> Query:
    """A query with a recognisable image."""
    ids = torch.ones(phrases, 3, dtype=torch.long)
    return Query(
        ("x",) * phrases, 4, 4, torch.full((1, 3, 2, 2), float(number)), ids, ids, 0, ("",) * phrases, ((),) * phrases
    )


class Model:
    """Answers with the image's number; waits until it is let go on."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go_on = threading.Event()

    def __call__(self, queries: Sequence[Query]) -> list[ReferSamOutput]:
        numbers = [int(query.pixel_values[0, 0, 0, 0]) for query in queries]
        self.batches.append(numbers)
        assert self.go_on.wait(10)
        if 13 in numbers:
            raise ValueError("13")
        return [ReferSamOutput(mask_logits=torch.tensor(float(number))) for number in numbers]


async def ask_all(batcher: Batcher, model: Model, queries: Sequence[Query]) -> list[float | BaseException]:
    """All at once, the first alone at the model."""
    batcher.start()
    tasks = [asyncio.create_task(batcher.ask(queries[0]))]
    while not model.batches:
        await asyncio.sleep(0.001)
    tasks += [asyncio.create_task(batcher.ask(query)) for query in queries[1:]]
    await asyncio.sleep(0.01)
    model.go_on.set()
    outputs = await asyncio.gather(*tasks, return_exceptions=True)
    await batcher.stop()
    return [out if isinstance(out, BaseException) else float(out.mask_logits) for out in outputs]


def test_what_waits_runs_together_and_each_gets_its_own() -> None:
    """Up to a full batch; others with another number of phrases keep their turn."""
    model, sizes = Model(), list[int]()
    queries = [query(n, 2 if n in (2, 5) else 1) for n in range(8)]
    answers = asyncio.run(ask_all(Batcher(model, 4, sizes.append), model, queries))
    assert answers == list(map(float, range(8)))
    assert model.batches == [[0], [1, 3, 4, 6], [2, 5], [7]]
    assert sizes == [1, 4, 4, 1]


def test_clicks_run_with_clicks() -> None:
    """A query with clicks waits for no other, but does not run in one batch with a query without."""
    model, sizes = Model(), list[int]()
    clicks = Prompts(((1, 1),), (1,))
    queries = [query(n).with_prompts(clicks, (32, 32)) if n in (2, 4) else query(n) for n in range(5)]
    assert asyncio.run(ask_all(Batcher(model, 4, sizes.append), model, queries)) == [0, 1, 2, 3, 4]
    assert model.batches == [[0], [1, 3], [2, 4]]


def test_one_with_more_phrases_than_a_batch_runs_alone() -> None:
    """It is not split, and not refused."""
    model = Model()
    assert asyncio.run(ask_all(Batcher(model, 4), model, [query(0), query(1, 9), query(2, 9)])) == [0.0, 1.0, 2.0]
    assert model.batches == [[0], [1], [2]]


def test_one_that_fails_fails_alone() -> None:
    """Its neighbours are run again, one by one."""
    model = Model()
    answers = asyncio.run(ask_all(Batcher(model, 8), model, [query(n) for n in (0, 1, 13, 2)]))
    assert [answer for answer in answers if not isinstance(answer, Exception)] == [0.0, 1.0, 2.0]
    assert isinstance(answers[2], ValueError)


def test_who_gives_up_costs_nothing() -> None:
    """Its query leaves the queue, and the others are answered."""

    async def work() -> list[float]:
        model = Model()
        batcher = Batcher(model, 8)
        batcher.start()
        first = asyncio.create_task(batcher.ask(query(0)))
        while not model.batches:
            await asyncio.sleep(0.001)
        second = asyncio.create_task(batcher.ask(query(1)))
        third = asyncio.create_task(batcher.ask(query(2)))
        await asyncio.sleep(0.01)
        second.cancel()
        model.go_on.set()
        answers = [float((await task).mask_logits) for task in (first, third)]
        assert model.batches == [[0], [2]]
        await batcher.stop()
        return answers

    assert asyncio.run(work()) == [0.0, 2.0]


def test_stopping_cancels_what_waits() -> None:
    """No caller waits for ever."""

    async def work() -> None:
        model = Model()
        batcher = Batcher(model, 8)
        batcher.start()
        first = asyncio.create_task(batcher.ask(query(0)))
        while not model.batches:
            await asyncio.sleep(0.001)
        second = asyncio.create_task(batcher.ask(query(1)))
        await asyncio.sleep(0.01)
        model.go_on.set()
        await batcher.stop()
        with pytest.raises(asyncio.CancelledError):
            await second
        first.cancel()

    asyncio.run(work())
