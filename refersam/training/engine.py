"""One optimizer step, whatever the devices: model, averaged weights, optimizers, loss, and the guard over them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, gather_object
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from refersam.losses import ReferSamLoss
from refersam.model.pyramid import PyramidGeometry
from refersam.model.refersam import ReferSamModel, ReferSamOutput
from refersam.predictor import warn_if_emulated
from refersam.training import sharding
from refersam.training.auxiliary import AuxiliaryHeads, Seen, seen_by
from refersam.training.data import Batch
from refersam.training.errors import TrainingError
from refersam.training.guard import StepGuard
from refersam.training.optimization import build_optimizers
from refersam.training.settings import TrainSettings

HEAD_RATE = 2e-3
"""Highest rate of the auxiliary heads, which start from nothing, whatever the model starts from."""


@dataclass(frozen=True)
class StepResult:
    """What a step came to.

    Attributes:
        terms: of the loss, means over the step and all processes, and "grad norm"; empty where it was skipped.
        stop: a process was asked to stop.
    """

    terms: dict[str, float]
    stop: bool


def build_accelerator(settings: TrainSettings) -> Accelerator:
    """Devices, processes and mixed precision as the launcher and the recipe say.

    Raises:
        TrainingError: a way of sharing the work that this loop does not know.
    """
    # Several processes meet on CPUs only where they are told to; a single one finds its own device.
    on_cpus = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available()
    # A dozen of SAM's parameters and BERT's pooler take no part and never get a gradient.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    try:
        accelerator = Accelerator(cpu=on_cpus, mixed_precision=settings.precision, kwargs_handlers=[unused])
    except ValueError as error:  # a device without that number format
        raise TrainingError(f"precision {settings.precision} is not to be had here: {error}") from error
    known = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
    if accelerator.distributed_type not in known:
        raise TrainingError(
            f"The launcher asks for {accelerator.distributed_type.value}, but training starts as multi-GPU or multi-"
            "CPU: choose that in `accelerate config`, or use torchrun. To share out the model, set sharding: full."
        )
    if settings.precision == "bf16":
        warn_if_emulated(accelerator.device, torch.bfloat16)
    return accelerator


class Engine:
    """Takes steps.

    Args:
        model: to be trained.
        settings: of the run.
        accelerator: of this process.
    """

    def __init__(self, model: ReferSamModel, settings: TrainSettings, accelerator: Accelerator) -> None:
        self.settings, self.accelerator = settings, accelerator
        self._average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.optimizer.ema_decay))
        self._hollow: nn.Module | None = None
        if settings.sharding == "full" and accelerator.num_processes > 1:
            self._hollow = sharding.hollow(model).to(accelerator.device)
            for whole in (model, self._average.module):
                sharding.shard(whole, accelerator.device, accelerator.num_processes)
        self._average.to(accelerator.device)
        optimizers = build_optimizers(model, settings.optimizer)
        self.heads: nn.Module | None = None
        if settings.loss.needs_heads:
            heads = AuxiliaryHeads(model, settings.loss).to(accelerator.device)
            optimizers.append(torch.optim.AdamW(heads.parameters(), lr=HEAD_RATE, weight_decay=0.0))
            self.heads = accelerator.prepare(heads)
        self.highest_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        model.train()  # freezes again what loading made trainable, before DDP counts gradients to wait for
        self.model = model if self._hollow is not None else accelerator.prepare(model)
        self.optimizers = [accelerator.prepare(optimizer) for optimizer in optimizers]
        wanted = settings.loss
        self.loss = ReferSamLoss(
            wanted.num_points,
            mask_weight=wanted.mask_weight,
            dice_weight=wanted.dice_weight,
            coarse_weight=wanted.coarse_weight,
            iou_weight=wanted.iou_weight if model.config.supervise_iou else 0.0,
            object_weight=wanted.object_weight if model.config.object_score_head else 0.0,
        )
        self.guard = StepGuard(settings.explosion, settings.max_skipped)

    @property
    def plain_model(self) -> ReferSamModel:
        """The model without what was wrapped around it."""
        return cast(ReferSamModel, self.accelerator.unwrap_model(self.model))

    @property
    def _trained(self) -> list[nn.Module]:
        return [self.model] if self.heads is None else [self.model, self.heads]

    @contextmanager
    def averaged_model(self) -> Iterator[ReferSamModel]:
        """The model with averaged weights; all processes enter, since a sharded one is put together for the context."""
        if self._hollow is None:
            yield cast(ReferSamModel, self._average.module)
            return
        sharding.fill(self._hollow, self._average.module.parameters())
        try:
            yield cast(ReferSamModel, self._hollow)
        finally:
            sharding.empty(self._hollow)

    def take_step(self, batches: Sequence[Batch], step: int, factor: float, stop: bool = False) -> StepResult:
        """Forward, backward, and a step of the optimizers, unless its loss is bad.

        Args:
            batches: whose gradients are added up.
            step: its number.
            factor: share of the highest rates.
            stop: this process was asked to stop.

        Raises:
            TrainingError: too many bad steps.
        """
        self._set_rates(factor)
        sums: dict[str, Tensor] = {}
        suspects: list[str] = []
        for index, batch in enumerate(batches):
            is_last = index == len(batches) - 1
            with ExitStack() as stack:
                for module in () if is_last else self._trained:
                    stack.enter_context(self.accelerator.no_sync(module))
                output, terms = self._backward(batch, 1 / len(batches))
            suspects += _suspects(output, batch)
            for name, value in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach() / len(batches)
        clipped = self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.optimizer.max_grad_norm)
        norm = float(sharding.whole(clipped))
        gathered = torch.stack([*sums.values(), torch.full_like(sums["total"], float(stop))])
        *values, stopping = self.accelerator.reduce(gathered, reduction="mean").tolist()
        means = dict(zip(sums, values, strict=True))
        # fp16 has a scaler of its own, which skips a step whose gradients overflow, and lowers its scale.
        is_bad = self.guard.is_bad(means["total"], 0.0 if self.settings.precision == "fp16" else norm)
        if is_bad:
            self._zero_gradients()
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.update()  # else it would refuse the next step's gradients
            self.guard.skip(step, means["total"], norm, self._names(suspects, batches))
            return StepResult({}, stopping > 0)
        self.guard.accept(means["total"])
        for optimizer in self.optimizers:
            optimizer.step()
        self._zero_gradients()
        self._average.update_parameters(self.plain_model)
        return StepResult(means | {"grad norm": norm}, stopping > 0)

    def _backward(self, batch: Batch, share: float) -> tuple[ReferSamOutput, dict[str, Tensor]]:
        batch = batch.to(self.accelerator.device)
        seen = Seen()
        with ExitStack() as stack:
            if self.heads is not None:
                seen = stack.enter_context(seen_by(self.plain_model))
            stack.enter_context(self.accelerator.autocast())
            output = self.model(batch.pixel_values, batch.input_ids, batch.attention_mask)
        terms = self.loss(output, batch.target_mask, batch.seeds)
        if self.heads is not None:
            height, width = batch.pixel_values.shape[2:]
            geometry = PyramidGeometry.of_image(height, width, batch.pixel_values.device)
            labels = batch.mention_mask, batch.look_labels, batch.condition_labels
            more = self.heads(seen, *labels, geometry.reference_points)
            terms |= more | {"total": terms["total"] + more["auxiliary"]}
        self.accelerator.backward(terms["total"] * share)
        return output, terms

    def _set_rates(self, factor: float) -> None:
        for optimizer, rates in zip(self.optimizers, self.highest_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = factor * rate

    def _zero_gradients(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def _names(self, suspects: list[str], batches: Sequence[Batch]) -> list[str]:
        """Of the samples whose masks are no numbers, in all processes; of all samples where there are none."""
        everything = [name for batch in batches for name in batch.sample_ids]
        several = self.accelerator.num_processes > 1
        found = gather_object(suspects) if several else suspects
        return list(dict.fromkeys(found or (gather_object(everything) if several else everything)))

    def state_dict(self) -> dict[str, Any]:
        """All that decides about further steps, but random states; of use to the main process, but all must call."""
        scaler = self.accelerator.scaler
        state = {
            "model": self.plain_model.state_dict(),
            "average": self._average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": {} if scaler is None else scaler.state_dict(),
            "guard": self.guard.state_dict(),
            "heads": {} if self.heads is None else self.accelerator.unwrap_model(self.heads).state_dict(),
        }
        gathered: dict[str, Any] = sharding.whole(state, keep=self.accelerator.is_main_process)
        return gathered

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave, with or without sharding.

        Raises:
            KeyError, ValueError, RuntimeError: of another model.
        """
        sharding.load_model(self.plain_model, state["model"])
        sharding.load_model(self._average, state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            sharding.load_optimizer(optimizer, saved)
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.guard.load_state_dict(state["guard"])
        if self.heads is not None:
            self.accelerator.unwrap_model(self.heads).load_state_dict(state["heads"])

    def load_average(self, state: dict[str, Any]) -> None:
        """The averaged weights alone."""
        sharding.load_model(self._average, state["average"])


@torch.no_grad()
def _suspects(output: ReferSamOutput, batch: Batch) -> list[str]:
    fine = output.mask_logits.flatten(1).isfinite().all(dim=1).tolist()
    return [name for name, is_fine in zip(batch.sample_ids, fine, strict=True) if not is_fine]
