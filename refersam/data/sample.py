"""The one type that every reader yields: a picture with all its phrases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ReferringImage:
    """A picture and what is asked of it; the phrases of one picture stay together, so it is decoded once.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        phrases: n phrases.
        masks: (n, H, W) bool, the target of each; empty where a phrase has none.
        sample_ids: n names, unique in the data set.
        tags: n tuples, the phrase's phenomenon first; empty where the data set has none.
    """

    image: np.ndarray
    phrases: tuple[str, ...]
    masks: np.ndarray
    sample_ids: tuple[str, ...]
    tags: tuple[tuple[str, ...], ...]
