"""SAM's ViT layers as training runs them: skipped at random (drop-path), and recomputed instead of stored."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from refersam.model.sam import Sam


def layer_rates(num_layers: int, highest: float) -> list[float]:
    """Drop-path rate of each layer: from 0 for the first, linearly to `highest` for the last."""
    return [highest * index / max(1, num_layers - 1) for index in range(num_layers)]


def run_layers(sam: Sam, patches: Tensor, layers: range, drop_rates: Sequence[float], recompute: bool) -> Tensor:
    """(B, h, w, D) through ViT layers.

    Args:
        sam: SAM's parts.
        patches: ViT tokens.
        layers: which.
        drop_rates: of every layer of the ViT; see `drop_path`.
        recompute: store the layers' inputs alone, and run them again for the gradient.
    """
    for index in layers:
        layer = partial(sam.run_layers, first=index, last=index)
        changed = checkpoint(layer, patches, use_reentrant=False) if recompute else layer(patches)
        patches = drop_path(patches, changed, drop_rates[index])
    return patches


def drop_path(before: Tensor, after: Tensor, rate: float) -> Tensor:
    """Skip a residual layer in some samples of the batch, keeping its expectation.

    Args:
        before: (B, ...) input of the layer.
        after: (B, ...) its output.
        rate: chance that a sample skips it; 0 gives `after` itself.
    """
    if rate == 0:
        return after
    kept = torch.rand(before.shape[0], *([1] * (before.ndim - 1)), device=before.device) >= rate
    return before + (after - before) * kept / (1 - rate)
