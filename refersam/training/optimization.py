"""Optimizer groups and the rate's schedule."""

from __future__ import annotations

import torch
from torch import nn

from refersam.training.settings import OptimizerSettings


def build_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW; weight decay only on matrices and kernels, not on norms, biases, gates, tokens and embeddings."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    weights = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    }
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decayed if id(parameter) in weights else plain).append(parameter)
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        betas=(0.9, settings.beta2),
        fused=True,
    )


def rate_factor(step: int, steps: int, settings: OptimizerSettings) -> float:
    """Share of the highest rate at a step: linear warm-up, constant, polynomial decay to zero at the end."""
    warm = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    start = settings.decay_from * steps
    decay = max(0.0, min(1.0, (steps - step) / (steps - start))) ** settings.decay_power
    return warm * decay
