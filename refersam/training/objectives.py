"""Extension point: further objectives beside the model's own loss."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from torch import Tensor, nn

from refersam.model.refersam import ReferSamModel, ReferSamOutput

if TYPE_CHECKING:
    from refersam.training.data import Batch


class ObjectiveOutput(NamedTuple):
    """Result of an objective for one batch.

    Attributes:
        loss: scalar, weighted; added to the total loss.
        terms: scalars by name, for the log.
    """

    loss: Tensor
    terms: dict[str, Tensor]


class Objective(nn.Module):
    """A loss beside the model's own; subclass it and return it from `Extension.build_objectives`.

    Parameters of an objective are trained with it by AdamW, kept in checkpoints, and not part of the final model.
    """

    learning_rate: ClassVar[float] = 2e-3
    """Peak learning rate of the objective's own parameters."""

    def observe(self, model: ReferSamModel) -> AbstractContextManager[None]:  # noqa: ARG002
        """Return a context that is entered around the model's forward pass, for hooks that keep its features."""
        return nullcontext()

    def forward(self, model: ReferSamModel, batch: Batch, output: ReferSamOutput) -> ObjectiveOutput:
        """Compute the loss of a batch.

        Args:
            model: that produced `output`.
            batch: on the model's device; `batch.extra` has what the source collated for objectives.
            output: of the model for this batch.
        """
        raise NotImplementedError
