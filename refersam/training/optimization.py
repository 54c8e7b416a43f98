"""Optimizers and the rate's schedule."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Muon, Optimizer

from refersam.training.settings import OptimizerSettings


def build_optimizers(model: nn.Module, settings: OptimizerSettings) -> list[Optimizer]:
    """AdamW, and Muon before it where `matrix_rate` asks for it.

    Muon takes the matrices of linear layers; kernels, norms, biases, gates, tokens and embeddings are AdamW's. Weight
    decay is only on matrices and kernels.
    """
    matrices: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    weights = {id(m.weight): m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)}
    for parameter in model.parameters():
        if parameter.requires_grad:
            module = weights.get(id(parameter))
            is_matrix = isinstance(module, nn.Linear) and min(module.weight.shape) > 1
            use_muon = is_matrix and settings.matrix_rate is not None
            (plain if module is None else matrices if use_muon else decayed).append(parameter)
    optimizers: list[Optimizer] = []
    if matrices and settings.matrix_rate is not None:
        optimizers.append(
            Muon(
                matrices,
                lr=settings.matrix_rate,
                weight_decay=settings.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    optimizers.append(
        torch.optim.AdamW(
            [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=settings.learning_rate,
            betas=(0.9, settings.beta2),
            fused=True,
        )
    )
    return optimizers


def rate_factor(step: int, steps: int, settings: OptimizerSettings) -> float:
    """Share of the highest rate at a step: linear warm-up, constant, polynomial decay to zero at the end."""
    warm = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    start = settings.decay_from * steps
    decay = max(0.0, min(1.0, (steps - step) / (steps - start))) ** settings.decay_power
    return warm * decay
