"""SAM's ViT layers in training: stochastic depth (drop path) and gradient checkpointing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from refersam.model.sam import Sam


def layer_rates(num_layers: int, max_rate: float) -> list[float]:
    """Return the drop-path rate of each layer, linear from 0 for the first to `max_rate` for the last."""
    return [max_rate * index / max(1, num_layers - 1) for index in range(num_layers)]


def run_layers(
    sam: Sam, patches: Tensor, layers: range, drop_rates: Sequence[float], gradient_checkpointing: bool
) -> Tensor:
    """Run ViT layers.

    Args:
        sam: SAM's parts.
        patches: (B, h, w, D) ViT tokens.
        layers: indices of the layers.
        drop_rates: drop-path rate of every layer of the ViT; see `drop_path`.
        gradient_checkpointing: store the inputs of the layers only, and compute the layers again for the gradient.

    Returns:
        (B, h, w, D).
    """
    for index in layers:
        layer = partial(sam.run_layers, first=index, last=index)
        changed = checkpoint(layer, patches, use_reentrant=False) if gradient_checkpointing else layer(patches)
        patches = drop_path(patches, changed, drop_rates[index])
    return patches


def drop_path(before: Tensor, after: Tensor, rate: float) -> Tensor:
    """Skip a residual layer in random samples of the batch; the expectation of the result is unchanged.

    Args:
        before: (B, ...) input of the layer.
        after: (B, ...) output of the layer.
        rate: probability that a sample skips the layer; 0 returns `after` itself.
    """
    if rate == 0:
        return after
    kept = torch.rand(before.shape[0], *([1] * (before.ndim - 1)), device=before.device) >= rate
    return before + (after - before) * kept / (1 - rate)
