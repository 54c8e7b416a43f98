"""Optimizers, what each parameter's rate is, and the rate's schedule."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from torch.overrides import TorchFunctionMode

from refersam.training.settings import OptimizerSettings

_VIT_LAYER = re.compile(r"sam\.vision_encoder\.layers\.(\d+)\.")


class _CpuStaysFloat32(TorchFunctionMode):
    """Tensors of a CPU are copied where they would be rounded to bfloat16."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.bfloat16 and args[0].device.type == "cpu":
            return args[0].clone()
        return func(*args, **(kwargs or {}))


class CpuMuon(Muon):
    """torch's Muon; on a CPU its matrix products are in the gradient's own format.

    torch rounds them to bfloat16. A CPU without instructions for it multiplies such matrices tens of times slower.
    """

    def step(self, closure: Any = None) -> Any:
        """As torch's."""
        with _CpuStaysFloat32():
            return super().step(closure)


def build_optimizers(model: nn.Module, settings: OptimizerSettings) -> list[Optimizer]:
    """Return AdamW, and Muon before it if `muon_learning_rate` is set.

    Muon takes the matrices of linear layers. Weight decay is only on matrices and kernels. There is a group for each
    rate, with and without decay.
    """
    weights = {id(m.weight): m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)}
    depth = sum(name.endswith("layer_norm1.weight") for name, _ in model.named_parameters() if _VIT_LAYER.match(name))
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            module = weights.get(id(parameter))
            is_matrix = isinstance(module, nn.Linear) and min(module.weight.shape) > 1
            use_muon = is_matrix and settings.muon_learning_rate is not None
            groups[use_muon, module is None, lr_scale(name, depth, settings)].append(parameter)
    muon: list[dict[str, Any]] = []
    adamw: list[dict[str, Any]] = []
    for (use_muon, is_plain, share), parameters in sorted(groups.items(), key=lambda item: (item[0][:2], -item[0][2])):
        if use_muon:
            muon.append({"params": parameters, "lr": share * (settings.muon_learning_rate or 0.0)})
        else:
            decay = 0.0 if is_plain else settings.weight_decay
            adamw.append({"params": parameters, "lr": share * settings.learning_rate, "weight_decay": decay})
    optimizers: list[Optimizer] = []
    if muon:
        optimizers.append(CpuMuon(muon, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"))
    if adamw:
        optimizers.append(AdamW(adamw, betas=(0.9, settings.beta2), fused=True))
    return optimizers


def lr_scale(name: str, depth: int, settings: OptimizerSettings) -> float:
    """Return the share of the peak learning rate for a parameter. Of `depth` ViT layers the last has one factor of
    `layer_decay`, and so on down to the patch embedding; the neck has none.
    """
    if name.startswith("text_encoder."):
        return settings.text_encoder_lr_scale
    if name.startswith("interactor.spatial_prior."):
        return settings.spatial_prior_lr_scale
    if not name.startswith("sam.vision_encoder."):
        return 1.0
    if name.startswith("sam.vision_encoder.neck."):
        return settings.image_encoder_lr_scale
    layer = _VIT_LAYER.match(name)
    below = depth - int(layer.group(1)) if layer else depth + 1
    return float(settings.image_encoder_lr_scale * settings.layer_decay**below)


def lr_factor(step: int, steps: int, settings: OptimizerSettings) -> float:
    """Share of the highest rate at a step: linear warm-up, constant, polynomial decay to zero at the end."""
    warm = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    warm = settings.warmup_from + (1 - settings.warmup_from) * warm
    start = settings.decay_from * steps
    decay = max(0.0, min(1.0, (steps - step) / (steps - start))) ** settings.decay_power
    return warm * decay
