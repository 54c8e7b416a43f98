"""Small draws from a numpy generator; `Generator.choice` is twenty times slower for one item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One of the items, each as likely."""
    return items[int(rng.random() * len(items))]


def weighted(rng: np.random.Generator, items: Sequence[T], weights: Sequence[float]) -> T:
    """One of the items, with chances proportional to its weight (not all zero)."""
    rest = rng.random() * sum(weights)
    for item, weight in zip(items, weights, strict=True):
        rest -= weight
        if rest < 0 and weight > 0:
            return item
    return next(item for item, weight in zip(reversed(items), reversed(weights), strict=True) if weight > 0)


def sample(rng: np.random.Generator, items: Sequence[T], count: int) -> list[T]:
    """`count` different items in random order."""
    order = rng.permutation(len(items))[:count]
    return [items[int(i)] for i in order]


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number from `low` to `high`, uniformly."""
    return low + (high - low) * float(rng.random())
