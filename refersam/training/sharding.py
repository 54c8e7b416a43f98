"""Sharding of a model's weights, gradients, optimizer states and averages over processes with torch's FSDP.

Each process stores a shard of every tensor. A layer's weights are gathered before it runs and freed afterwards.
Checkpoints contain full tensors, so that a run can resume with another number of processes, or without sharding.
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
"""Modules that are gathered and freed separately: layers of SAM's ViT and of the text encoder, which are subclasses of
`GradientCheckpointingLayer`, and the interactor's parts. All other weights stay gathered during a step."""


def shard(model: nn.Module, device: torch.device, processes: int) -> None:
    """Shard a model over processes in place, with this process's shards on its device.

    Args:
        model: model with the same weights in all processes.
        device: device of this process.
        processes: number of processes.
    """
    # The model returns views, which must not be changed in place; the loss does not do that.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .FSDPReferSamModel. returned a view")
    mesh = init_device_mesh(device.type, (processes,))
    for module in [module for module in model.modules() if isinstance(module, _UNITS)]:
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for method in ("encode_phrases", "decode"):  # called by themselves in training with clicks
        register_fsdp_forward_method(model, method)


def whole(value: Any, keep: bool = True) -> Any:
    """Gather the sharded tensors of nested containers to the CPU; all processes must call it.

    Args:
        value: nested containers, such as a state dict.
        keep: whether this process keeps the full tensors; otherwise it gets empty tensors.
    """
    if isinstance(value, DTensor):
        full = cast(DTensor, value.detach()).full_tensor()
        return full.cpu() if keep else full.new_empty(0)
    if isinstance(value, dict):
        return {key: whole(inner, keep) for key, inner in value.items()}
    return [whole(inner, keep) for inner in value] if isinstance(value, list) else value


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """Return this process's shard of a full tensor if `like` is sharded and has its shape; else the tensor itself."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def load_model(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Load a state dict of full tensors into a model, sharded or not.

    Raises:
        RuntimeError: state dict of another model.
    """
    own = model.state_dict()
    model.load_state_dict({name: part_of(value, own.get(name, value)) for name, value in state.items()})


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load a state dict of full tensors into an optimizer, sharded or not.

    Raises:
        ValueError: state dict of another model.
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
        group.update(own)  # options such as weight decay come from the recipe, which may have changed


def hollow(model: nn.Module) -> nn.Module:
    """Return a copy of a model without weights, for `fill`."""
    known: dict[int, Any] = {
        id(each): nn.Parameter(each.detach().new_empty(0), requires_grad=False) for each in model.parameters()
    }
    return copy.deepcopy(model, known)


def fill(model: nn.Module, parameters: Iterable[Tensor]) -> None:
    """Gather sharded weights into a `hollow` model; all processes must call it."""
    for target, source in zip(model.parameters(), parameters, strict=True):
        plain = source.detach()
        target.data = plain.full_tensor() if isinstance(plain, DTensor) else plain


def empty(model: nn.Module) -> None:
    """Free the weights of a `hollow` model."""
    for parameter in model.parameters():
        parameter.data = parameter.detach().new_empty(0)
