"""What an optimizer step trains: a module from a batch to loss terms."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple, Protocol, cast

import torch
from accelerate.utils import convert_to_fp32
from torch import Tensor, nn

from refersam.losses import ReferSamLoss
from refersam.model.refersam import ReferSamModel
from refersam.training.data import Batch
from refersam.training.objectives import Objective
from refersam.training.settings import LossSettings


class TrainingBatch(Protocol):
    """What an engine needs of a batch."""

    @property
    def sample_ids(self) -> Sequence[str]:
        """Names of the samples, for error messages."""

    def to(self, device: torch.device, /) -> TrainingBatch:
        """Return the batch on a device."""


class LossTerms(NamedTuple):
    """Loss terms of a batch: scalars by name, of which "total" is minimised, and whether the output of each of
    `sample_ids` is finite (None: unknown).
    """

    terms: dict[str, Tensor]
    finite: Tensor | None = None


class ReferSamTrainee(nn.Module):
    """The model to train with its loss and further objectives, whose losses are added."""

    def __init__(self, model: ReferSamModel, loss: ReferSamLoss, objectives: Sequence[Objective] = ()) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.objectives = nn.ModuleList(objectives)

    def forward(self, batch: Batch) -> LossTerms:
        """Compute all loss terms of a batch; those of the loss in float32, whatever the precision."""
        objectives = [cast(Objective, module) for module in self.objectives]
        with ExitStack() as stack:
            for objective in objectives:
                stack.enter_context(objective.observe(self.model))
            output = self.model(batch.pixel_values, batch.input_ids, batch.attention_mask)
        output = convert_to_fp32(output)
        with torch.autocast(batch.pixel_values.device.type, enabled=False):
            terms = self.loss(output, batch.target_mask, batch.seeds)
        for objective in objectives:
            added = objective(self.model, batch, output)
            terms |= added.terms | {"total": terms["total"] + added.loss}
        with torch.no_grad():
            finite = output.mask_logits.flatten(1).isfinite().all(dim=1)
        return LossTerms(terms, finite)


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
