"""Trainee: a module from a batch to loss terms, which the optimizer steps train."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple, Protocol, cast

import torch
from accelerate.utils import convert_to_fp32
from torch import Tensor, nn

from refersam.losses import ReferSamLoss
from refersam.model.refersam import ReferSamModel, ReferSamOutput
from refersam.training.clicks import ClickTraining
from refersam.training.data import Batch
from refersam.training.objectives import Objective
from refersam.training.settings import LossSettings


class TrainingBatch(Protocol):
    """Interface of a batch for an engine."""

    @property
    def sample_ids(self) -> Sequence[str]:
        """Names of the samples, for error messages."""

    def to(self, device: torch.device, /) -> TrainingBatch:
        """Return the batch on a device."""


class LossTerms(NamedTuple):
    """Loss terms of a batch.

    Attributes:
        terms: scalars by name; "total" is minimised, the others are logged.
        finite: (B,) whether the model's output for each sample is finite; None if unknown.
    """

    terms: dict[str, Tensor]
    finite: Tensor | None = None


class ReferSamTrainee(nn.Module):
    """The model with its loss and additional objectives.

    Args:
        model: to be trained.
        loss: of the model's output.
        objectives: whose losses are added.
        clicks: corrections by simulated clicks; None for none.
    """

    def __init__(
        self,
        model: ReferSamModel,
        loss: ReferSamLoss,
        objectives: Sequence[Objective] = (),
        clicks: ClickTraining | None = None,
    ) -> None:
        super().__init__()
        self.model, self.loss, self.clicks = model, loss, clicks
        self.objectives = nn.ModuleList(objectives)

    def forward(self, batch: Batch) -> LossTerms:
        """Compute all loss terms of a batch; `loss` is computed in float32 independent of the precision."""
        objectives = [cast(Objective, module) for module in self.objectives]
        with ExitStack() as stack:
            for objective in objectives:
                stack.enter_context(objective.observe(self.model))
            if self.clicks is None:
                features, output = None, self.model(batch.pixel_values, batch.input_ids, batch.attention_mask)
            else:
                features = self.clicks.encode(self.model, batch)
                output = self.model.decode(features)
        output = convert_to_fp32(output)
        with torch.autocast(batch.pixel_values.device.type, enabled=False):
            terms = self.loss(output, batch.target_mask, batch.seeds)
        if self.clicks is not None and features is not None:
            totals = [
                self._corrected_loss(corrected, target, batch)
                for corrected, target in self.clicks.rounds(self.model, features, output, batch)
            ]
            terms["clicks"] = torch.stack(totals or [torch.zeros_like(terms["total"])]).mean()
            terms["total"] = terms["total"] + terms["clicks"]
        for objective in objectives:
            added = objective(self.model, batch, output)
            terms |= added.terms | {"total": terms["total"] + added.loss}
        with torch.no_grad():
            finite = output.mask_logits.flatten(1).isfinite().all(dim=1)
        return LossTerms(terms, finite)

    def _corrected_loss(self, output: ReferSamOutput, target: Tensor, batch: Batch) -> Tensor:
        """Compute the loss of a corrected mask; the coarse mask, which no click changes, has its loss already."""
        with torch.autocast(batch.pixel_values.device.type, enabled=False):
            corrected = replace(convert_to_fp32(output), coarse_mask_logits=None)
            return self.loss(corrected, target, batch.seeds)["total"]


def build_loss(settings: LossSettings, model: ReferSamModel) -> ReferSamLoss:
    """Return the loss with the recipe's weights; terms for which the model has no head get the weight 0."""
    return ReferSamLoss(
        settings.num_points,
        mask_weight=settings.mask_weight,
        dice_weight=settings.dice_weight,
        coarse_weight=settings.coarse_weight,
        iou_weight=settings.iou_weight if model.config.supervise_iou else 0.0,
        object_weight=settings.object_weight if model.config.object_score_head else 0.0,
    )
