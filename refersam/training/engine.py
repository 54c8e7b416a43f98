"""Optimizer steps on any devices: forward, backward, clipping, weight averaging, and the guard against bad losses."""

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
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from refersam.inference.devices import warn_if_emulated
from refersam.model.refersam import ReferSamModel
from refersam.training import sharding
from refersam.training.clicks import ClickTraining
from refersam.training.errors import TrainingError
from refersam.training.guard import StepGuard
from refersam.training.objectives import Objective
from refersam.training.optimization import build_optimizers
from refersam.training.settings import TrainSettings
from refersam.training.trainee import LossTerms, ReferSamTrainee, TrainingBatch, build_loss


@dataclass(frozen=True)
class StepResult:
    """Result of a step.

    Attributes:
        terms: loss terms, means over the step and all processes, and "grad norm"; empty if the step was skipped.
        stop: whether any process received a stop signal.
    """

    terms: dict[str, float]
    stop: bool


def build_accelerator(settings: TrainSettings) -> Accelerator:
    """Return the accelerator: devices and processes of the launcher, mixed precision of the recipe.

    Raises:
        TrainingError: a kind of distributed training or a precision that is not supported.
    """
    # Several processes use CPUs only if there is no accelerator; accelerate selects the device of a single process.
    on_cpus = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available()
    # A dozen of SAM's parameters and BERT's pooler are unused and get no gradient.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    try:
        accelerator = Accelerator(cpu=on_cpus, mixed_precision=settings.precision, kwargs_handlers=[unused])
    except ValueError as error:
        raise TrainingError(f"precision {settings.precision} is not available on this device: {error}") from error
    known = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
    if accelerator.distributed_type not in known:
        raise TrainingError(
            f"The launcher requests {accelerator.distributed_type.value}, but training runs as multi-GPU or multi-CPU: "
            "choose that in `accelerate config`, or use torchrun. To shard the model, set sharding: full."
        )
    if settings.precision == "bf16":
        warn_if_emulated(accelerator.device, torch.bfloat16)
    return accelerator


class Engine:
    """Take optimizer steps on a trainee.

    Args:
        trainee: module from a batch to `LossTerms`.
        optimizers: optimizers of its parameters.
        accelerator: accelerator of this process.
        guard: guard that decides which steps are skipped.
        clipped: part of the trainee whose gradient is clipped.
        max_grad_norm: maximum norm of the gradient.
        is_sharded: whether the trainee's weights are already sharded over the processes.
    """

    def __init__(
        self,
        trainee: nn.Module,
        optimizers: Sequence[Optimizer],
        accelerator: Accelerator,
        *,
        guard: StepGuard,
        clipped: nn.Module,
        max_grad_norm: float,
        is_sharded: bool = False,
    ) -> None:
        self.accelerator, self.guard = accelerator, guard
        self.plain_trainee = trainee
        self.trainee = trainee if is_sharded else accelerator.prepare(trainee)
        self.peak_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        self.optimizers = [accelerator.prepare(optimizer) for optimizer in optimizers]
        self._clipped, self._max_grad_norm = clipped, max_grad_norm

    def take_step(
        self, batches: Sequence[TrainingBatch], step: int, lr_factor: float, stop: bool = False
    ) -> StepResult:
        """Run forward and backward passes and step the optimizers, unless the loss is bad.

        Args:
            batches: batches whose gradients are accumulated.
            step: index of the step.
            lr_factor: learning rates as a share of their peaks.
            stop: whether this process received a stop signal.

        Raises:
            TrainingError: too many bad steps.
        """
        self._set_rates(lr_factor)
        sums: dict[str, Tensor] = {}
        suspects: list[str] = []
        for index, batch in enumerate(batches):
            with ExitStack() as stack:
                if index < len(batches) - 1:
                    stack.enter_context(self.accelerator.no_sync(self.trainee))
                terms = self._backward(batch, 1 / len(batches), suspects)
            for name, value in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach() / len(batches)
        clipped = self.accelerator.clip_grad_norm_(self._clipped.parameters(), self._max_grad_norm)
        norm = float(sharding.whole(clipped))
        gathered = torch.stack([*sums.values(), torch.full_like(sums["total"], float(stop))])
        *values, stopping = self.accelerator.reduce(gathered, reduction="mean").tolist()
        means = dict(zip(sums, values, strict=True))
        # The gradient scaler of fp16 skips steps with overflowing gradients itself, and lowers its scale.
        is_fp16 = self.accelerator.mixed_precision == "fp16"
        if self.guard.is_bad(means["total"], 0.0 if is_fp16 else norm):
            self._zero_gradients()
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.update()  # required before the next step
            self.guard.skip(step, means["total"], norm, self._names(suspects, batches))
            return StepResult({}, stopping > 0)
        self.guard.accept(means["total"])
        for optimizer in self.optimizers:
            optimizer.step()
        self._zero_gradients()
        self._after_step()
        return StepResult(means | {"grad norm": norm}, stopping > 0)

    def _backward(self, batch: TrainingBatch, share: float, suspects: list[str]) -> dict[str, Tensor]:
        batch = batch.to(self.accelerator.device)
        with self.accelerator.autocast():
            result: LossTerms = self.trainee(batch)
        self.accelerator.backward(result.terms["total"] * share)
        if result.finite is not None:
            suspects += [name for name, fine in zip(batch.sample_ids, result.finite.tolist(), strict=True) if not fine]
        return result.terms

    def _after_step(self) -> None:
        """Update state that depends on the weights, after each step."""

    def _set_rates(self, lr_factor: float) -> None:
        for optimizer, rates in zip(self.optimizers, self.peak_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = lr_factor * rate

    def _zero_gradients(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def _names(self, suspects: list[str], batches: Sequence[TrainingBatch]) -> list[str]:
        """Return the names of samples with non-finite masks in all processes; of all samples if there are none."""
        everything = [name for batch in batches for name in batch.sample_ids]
        several = self.accelerator.num_processes > 1
        found = gather_object(suspects) if several else suspects
        return list(dict.fromkeys(found or (gather_object(everything) if several else everything)))

    def state_dict(self) -> dict[str, Any]:
        """Return the full state except random generators; all processes must call it."""
        scaler = self.accelerator.scaler
        state = {
            **self._weights(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": {} if scaler is None else scaler.state_dict(),
            "guard": self.guard.state_dict(),
        }
        gathered: dict[str, Any] = sharding.whole(state, keep=self.accelerator.is_main_process)
        return gathered

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`, with or without sharding.

        Raises:
            KeyError, ValueError, RuntimeError: state of another trainee.
        """
        self._load_weights(state)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            sharding.load_optimizer(optimizer, saved)
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.guard.load_state_dict(state["guard"])

    def _weights(self) -> dict[str, Any]:
        return {"trainee": self.plain_trainee.state_dict()}

    def _load_weights(self, state: dict[str, Any]) -> None:
        self.plain_trainee.load_state_dict(state["trainee"])


class ReferSamEngine(Engine):
    """Take optimizer steps on a ReferSAM model, and average its weights.

    Args:
        model: model to train.
        settings: settings of the run.
        accelerator: accelerator of this process.
        objectives: objectives whose losses are added to the model's.
    """

    def __init__(
        self,
        model: ReferSamModel,
        settings: TrainSettings,
        accelerator: Accelerator,
        objectives: Sequence[Objective] = (),
    ) -> None:
        self._average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.optimizer.ema_decay))
        self._hollow: nn.Module | None = None
        if settings.sharding == "full" and accelerator.num_processes > 1:
            self._hollow = sharding.hollow(model).to(accelerator.device)
            for full in (model, self._average.module):
                sharding.shard(full, accelerator.device, accelerator.num_processes)
        self._average.to(accelerator.device)
        optimizers = build_optimizers(model, settings.optimizer)
        clicks = ClickTraining(settings.clicks) if settings.clicks.share else None
        trainee = ReferSamTrainee(model, build_loss(settings.loss, model), objectives, clicks)
        groups = [
            {"params": parameters, "lr": objective.learning_rate}
            for objective in objectives
            if (parameters := list(objective.parameters()))
        ]
        if groups:
            trainee.objectives.to(accelerator.device)
            optimizers.append(torch.optim.AdamW(groups, weight_decay=0.0))
        model.train()  # restores frozen parameters after loading, before DDP registers the trainable ones
        super().__init__(
            trainee,
            optimizers,
            accelerator,
            guard=StepGuard(settings.max_skipped),
            clipped=model,
            max_grad_norm=settings.optimizer.max_grad_norm,
            is_sharded=self._hollow is not None,
        )
        self.model = model

    @contextmanager
    def averaged_model(self) -> Iterator[ReferSamModel]:
        """Provide the model with averaged weights; all processes must enter, since sharded weights are gathered."""
        if self._hollow is None:
            yield cast(ReferSamModel, self._average.module)
            return
        sharding.fill(self._hollow, self._average.module.parameters())
        try:
            yield cast(ReferSamModel, self._hollow)
        finally:
            sharding.empty(self._hollow)

    def load_average(self, state: dict[str, Any]) -> None:
        """Restore the averaged weights only."""
        sharding.load_model(self._average, state["average"])

    def _after_step(self) -> None:
        self._average.update_parameters(self.model)

    def _weights(self) -> dict[str, Any]:
        trainee = cast(ReferSamTrainee, self.plain_trainee)
        return {
            "model": self.model.state_dict(),
            "average": self._average.state_dict(),
            "objectives": trainee.objectives.state_dict(),
        }

    def _load_weights(self, state: dict[str, Any]) -> None:
        sharding.load_model(self.model, state["model"])
        sharding.load_model(self._average, state["average"])
        cast(ReferSamTrainee, self.plain_trainee).objectives.load_state_dict(state["objectives"])
