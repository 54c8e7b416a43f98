"""Mask features, and memory of features within a forward pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from torch import Tensor
from twins import randomise

from refersam import ReferSamModel
from refersam.model.interactor import MaskFeatures


@torch.no_grad()
def test_mask_features_share_the_prior_between_phrases() -> None:
    """One image's prior with two phrases' levels gives the results of single phrases."""
    layer = MaskFeatures(prior_channels=4, hidden_size=8)
    randomise(layer)
    prior, level8 = torch.randn(1, 4, 8, 16), torch.randn(2, 8, 4, 8)
    detail = layer.detail(prior)
    together = layer(detail, level8)
    assert together.shape == (2, 8, 8, 16)
    torch.testing.assert_close(together, torch.cat([layer(detail, level8[:1]), layer(detail, level8[1:])]))
    assert (together[0] - together[1]).abs().max() > 0.1


@torch.no_grad()
def test_only_cached_features_outlive_the_first_fusion(small_config: Callable[..., Any]) -> None:
    """`forward` frees the pyramid that it computed itself; features of the caller stay complete and unchanged."""
    model = ReferSamModel(small_config()).eval()
    pixels, ids = torch.randn(1, 3, 64, 64), torch.randint(3, 50, (1, 5))
    created: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []
    first, second = model.interactor.interactions[:2]
    first.extractor.register_forward_hook(lambda _module, _inputs, output: created.append(weakref.ref(output)))
    second.injector.register_forward_pre_hook(lambda _module, _inputs: alive.append(created[-1]() is not None))
    direct = model(pixels, ids)
    features = model.encode_image(pixels)
    kept = features.pyramid.clone()
    cached = model(None, ids, image_features=features)
    assert alive == [False, True]
    assert torch.equal(features.pyramid, kept)
    torch.testing.assert_close(cached.mask_logits, direct.mask_logits, rtol=0, atol=0)
    with pytest.raises(FrozenInstanceError):
        features.pyramid = kept  # type: ignore[misc]
