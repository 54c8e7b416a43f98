"""Queries: what runs together, and that it answers as alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from refersam import ReferSamPredictor
from refersam.inference.prompts import Prompts
from refersam.inference.queries import Query, encode_queries, run_queries

SIZE = (64, 64)
CLICK, OTHER_CLICK = Prompts(((5, 6),), (1,)), Prompts(((20, 3),), (0,))
BOX = Prompts(box=(1, 2, 30, 31))


@pytest.fixture(scope="module")
def predictor(tiny_model_folder: Path) -> ReferSamPredictor:
    return ReferSamPredictor.from_pretrained(tiny_model_folder, device="cpu")


def prepare(predictor: ReferSamPredictor, seed: int, *phrases: str, prompts: Prompts = Prompts()) -> Query:  # noqa: B008
    """A query about a random image."""
    pixels = np.random.default_rng(seed).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    return Query.prepare(predictor.processor, Image.fromarray(pixels), phrases, prompts=prompts)


def test_keys(predictor: ReferSamPredictor) -> None:
    """Equal for as many phrases and prompts of the same kinds; images that are encoded before run alone."""
    plain, several = prepare(predictor, 0, "star"), prepare(predictor, 1, "star", "circle")
    clicked, boxed = prepare(predictor, 2, "star", prompts=CLICK), prepare(predictor, 3, "star", prompts=BOX)
    refined = clicked.with_prompts(CLICK, SIZE, torch.zeros(1, 16, 16))
    encoded = encode_queries(predictor.model, [plain])[0]
    kinds = [plain, several, clicked, boxed, refined, encoded]
    assert len({query.batch_key for query in kinds}) == len(kinds)
    assert plain.batch_key == prepare(predictor, 9, "a longer phrase").batch_key
    assert clicked.batch_key == prepare(predictor, 9, "circle", prompts=OTHER_CLICK).batch_key


@pytest.mark.parametrize("is_encoded", [False, True], ids=["images", "encoded"])
def test_together_as_alone(predictor: ReferSamPredictor, is_encoded: bool) -> None:
    """Clicks, and clicks with previous masks, of several images in one batch."""
    queries = [
        prepare(predictor, 0, "the red star", prompts=CLICK),
        prepare(predictor, 1, "circle", prompts=OTHER_CLICK),
    ]
    if is_encoded:
        encoded = encode_queries(predictor.model, queries)
        assert all(query.pixel_values is None for query in encoded)
        masks = torch.randn(2, 1, 16, 16)
        pairs = zip(encoded, masks, strict=True)
        queries = [query.with_prompts(query.prompts, SIZE, mask) for query, mask in pairs]
    together = run_queries(predictor.model, queries)
    for query, output in zip(queries, together, strict=True):
        (alone,) = run_queries(predictor.model, [query])
        torch.testing.assert_close(output.mask_logits, alone.mask_logits, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together[0].mask_logits, together[1].mask_logits, atol=1e-3)
