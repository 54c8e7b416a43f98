"""Extension point: objectives in addition to the model's loss."""

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
        loss: weighted scalar, added to the total loss.
        terms: scalars by name, for the log.
    """

    loss: Tensor
    terms: dict[str, Tensor]


class Objective(nn.Module):
    """An additional loss; subclasses are returned by `Extension.build_objectives`.

    The parameters of an objective are trained by AdamW and stored in checkpoints, but are not part of the final model.
    """

    learning_rate: ClassVar[float] = 2e-3
    """Peak learning rate of the objective's own parameters."""

    def observe(self, model: ReferSamModel) -> AbstractContextManager[None]:  # noqa: ARG002
        """Return a context manager around the model's forward pass, for hooks that record its features."""
        return nullcontext()

    def forward(self, model: ReferSamModel, batch: Batch, output: ReferSamOutput) -> ObjectiveOutput:
        """Compute the loss of a batch.

        Args:
            model: the model that produced `output`.
            batch: batch on the model's device; `batch.extra` contains the source's tensors for objectives.
            output: output of the model for this batch.
        """
        raise NotImplementedError
