"""A model whose weights, gradients, moments and averages are shared out between the processes: torch's FSDP.

Each process holds a part of every tensor. A layer is put together where it runs, and taken apart again behind it.
Checkpoints hold whole tensors, so that a run can go on with another number of processes, or unsharded.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from transformers.modeling_layers import GradientCheckpointingLayer

from refersam.model.adapter import Extractor, Injector
from refersam.model.fusion import Fusion

_UNITS = (GradientCheckpointingLayer, Injector, Extractor, Fusion)
"""What is put together and taken apart by itself: layers of SAM's ViT (so named in transformers) and of the text
encoder, and the interactor's parts beside them. All else stays together through a step's forward and backward pass."""


def shard(model: nn.Module, device: torch.device, processes: int) -> None:
    """Keep but this process's part of a model, on its device, in place.

    Args:
        model: the same in all processes.
        device: of this process.
        processes: that share it.
    """
    # The model's masks are views, which only a change in place would harm: the loss makes none.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .FSDPReferSamModel. returned a view")
    mesh = init_device_mesh(device.type, (processes,))
    for module in [module for module in model.modules() if isinstance(module, _UNITS)]:
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for method in ("encode_phrases", "decode"):  # called by themselves in training with clicks
        register_fsdp_forward_method(model, method)


def whole(value: Any, keep: bool = True) -> Any:
    """Nested containers with whole tensors, on the CPU, in place of sharded ones; all processes must ask for it.

    Args:
        value: a state dict, say.
        keep: this process wants them; else it only sends its parts, and gets empty tensors.
    """
    if isinstance(value, DTensor):
        full = cast(DTensor, value.detach()).full_tensor()
        return full.cpu() if keep else full.new_empty(0)
    if isinstance(value, dict):
        return {key: whole(inner, keep) for key, inner in value.items()}
    return [whole(inner, keep) for inner in value] if isinstance(value, list) else value


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, where `like` is sharded and of the same shape; else the tensor itself."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def load_model(model: nn.Module, state: dict[str, Tensor]) -> None:
    """`load_state_dict` of whole tensors.

    Raises:
        RuntimeError: of another model.
    """
    own = model.state_dict()
    model.load_state_dict({name: part_of(value, own.get(name, value)) for name, value in state.items()})


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """`load_state_dict` of whole tensors.

    Raises:
        ValueError: of another model.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        index: {name: part_of(value, parameters[index]) for name, value in values.items()}
        for index, values in state["state"].items()
        if index < len(parameters)
    }
    options = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict({**state, "state": moments})
    for group, own in zip(optimizer.param_groups, options, strict=True):
        group.update(own)  # weight decay and the like are the recipe's, which may have changed


def hollow(model: nn.Module) -> nn.Module:
    """A copy without weights, to which `fill` gives some."""
    known: dict[int, Any] = {
        id(each): nn.Parameter(each.detach().new_empty(0), requires_grad=False) for each in model.parameters()
    }
    return copy.deepcopy(model, known)


def fill(model: nn.Module, parameters: Iterable[Tensor]) -> None:
    """Give a `hollow` model whole tensors of sharded ones; all processes must do so."""
    for target, source in zip(model.parameters(), parameters, strict=True):
        plain = source.detach()
        target.data = plain.full_tensor() if isinstance(plain, DTensor) else plain


def empty(model: nn.Module) -> None:
    """Take a `hollow` model's weights away again."""
    for parameter in model.parameters():
        parameter.data = parameter.detach().new_empty(0)
