"""Initialisation for training: PyTorch's layers by their type, blocks of the model by their `reset_parameters`.

transformers calls it for each module whose weights were not loaded, children before their parents. The functions of
`transformers.initialization` leave loaded parameters unchanged.
"""

from __future__ import annotations

import math
from functools import singledispatch

from torch import nn
from transformers import initialization as init


@singledispatch
def initialize(module: nn.Module, std: float) -> None:  # noqa: ARG001 - the signature of all types of layers
    """Initialise a module.

    Args:
        module: a block with `reset_parameters`, a layer of one of the types below, or a module without parameters.
        std: standard deviation of the weights of linear layers.
    """
    reset_parameters = getattr(module, "reset_parameters", None)
    if reset_parameters is not None:
        reset_parameters()


@initialize.register
def _(layer: nn.Linear, std: float) -> None:
    init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    if layer.bias is not None:
        init.zeros_(layer.bias)


@initialize.register
def _(layer: nn.Conv2d, std: float) -> None:  # noqa: ARG001
    fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels
    init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
    if layer.bias is not None:
        init.zeros_(layer.bias)


@initialize.register
def _(layer: nn.ConvTranspose2d, std: float) -> None:  # noqa: ARG001
    init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
    if layer.bias is not None:
        init.zeros_(layer.bias)


@initialize.register(nn.LayerNorm)
@initialize.register(nn.GroupNorm)
def _(layer: nn.LayerNorm | nn.GroupNorm, std: float) -> None:  # noqa: ARG001
    init.ones_(layer.weight)
    init.zeros_(layer.bias)


@initialize.register
def _(layer: nn.Embedding, std: float) -> None:  # noqa: ARG001
    init.normal_(layer.weight, std=1.0)
