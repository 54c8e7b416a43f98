"""Auxiliary objectives on rendered scenes: mentioned objects, object attributes, conditions and token positions.

The target mask supervises only the meaning of the whole phrase. A rendered scene has labels for the intermediate steps:
for "the star left of the red ring", which objects are stars, which one is the red ring, and the colour, shape and
pattern of every object. Linear heads predict the mentioned objects from the pyramid after each fusion with the text,
and the attributes from the pyramid before the first fusion. The heads are discarded after training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refersam.losses import dice_term
from refersam.model.fusion import Fusion
from refersam.model.interactor import Interaction, Interactor
from refersam.model.pyramid import PyramidGeometry, map_to_tokens
from refersam.model.refersam import ReferSamModel, ReferSamOutput
from refersam.training.data import Batch
from refersam.training.objectives import Objective, ObjectiveOutput
from refersam.training.settings import SettingsError
from sceneref.training.attributes import ATTRIBUTE_CLASSES, AttributeHeads
from sceneref.training.labels import ATTRIBUTES, CONDITIONS, MENTIONS
from sceneref.training.positions import PositionHeads
from sceneref.training.settings import ObjectiveSettings

NUM_MENTIONS = 2
"""Objects that match the phrase's first description, and objects that match its other descriptions."""


@dataclass
class Features:
    """Intermediate features of a forward pass, the input of the heads.

    Attributes:
        before: one (I, L, D) pyramid, before text conditioning.
        fused: (B, L, D) pyramids after each fusion, in order.
    """

    before: list[Tensor] = field(default_factory=list)
    fused: list[Tensor] = field(default_factory=list)


class GroundingHeads(nn.Module):
    """Linear heads that segment the mentioned objects from the pyramid, one head after each fusion.

    Args:
        hidden_size: width of the pyramid.
        num_fusions: number of heads.
    """

    def __init__(self, hidden_size: int, num_fusions: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(hidden_size, NUM_MENTIONS) for _ in range(num_fusions))
        for head in self.heads:
            nn.init.zeros_(cast(nn.Linear, head).weight)
            nn.init.constant_(cast(nn.Linear, head).bias, -2.0)  # few cells belong to a mentioned object

    def forward(self, pyramids: Sequence[Tensor], mention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute segmentation and pointing losses, means over fusions and strides 8 and 16.

        Segmentation is binary cross-entropy plus dice. Pointing is the Kullback-Leibler divergence between the
        normalised mention mask and the softmax over all cells; a phrase without a visible mention contributes 0. The
        optimal segmentation of a rarely mentioned object is an empty mask without a useful gradient; the softmax of the
        pointing loss avoids this solution.

        Args:
            pyramids: (B, L, D) pyramids after each fusion.
            mention_mask: (B, 2, H/8, W/8) in [0, 1].

        Returns:
            Segmentation loss and pointing loss, scalars.
        """
        targets = [map_to_tokens(truth) for truth in (mention_mask, F.avg_pool2d(mention_mask, 2))]  # (B, cells, 2)
        lengths = [truth.shape[1] for truth in targets]
        masks, pointing = mention_mask.new_zeros(()), mention_mask.new_zeros(())
        for head, pyramid in zip(self.heads, pyramids, strict=True):
            predicted = head(pyramid[:, : sum(lengths)]).float().split(lengths, dim=1)
            for logits, truth in zip(predicted, targets, strict=True):
                each = logits.transpose(1, 2).flatten(0, 1), truth.transpose(1, 2).flatten(0, 1)  # (2 B, cells)
                masks = masks + F.binary_cross_entropy_with_logits(*each) + dice_term(*each)
                pointing = pointing + F.kl_div(each[0].log_softmax(dim=1), normalised(each[1]), reduction="batchmean")
        return masks / (len(self.heads) * len(targets)), pointing / (len(self.heads) * len(targets))


def normalised(weights: Tensor) -> Tensor:
    """Scale each row of (B, N) non-negative weights to the sum 1; rows of zeros stay zero."""
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-6)


class ConditionHeads(nn.Module):
    """Linear heads that segment the condition stated by a phrase, one head after each fusion.

    Args:
        hidden_size: width of the pyramid.
        num_fusions: number of heads.
    """

    def __init__(self, hidden_size: int, num_fusions: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(hidden_size, 1) for _ in range(num_fusions))

    def forward(self, pyramids: Sequence[Tensor], labels: Mapping[int, Tensor]) -> Tensor:
        """Compute binary cross-entropy: the mean over labelled cells, then over phrases, fusions and levels.

        A phrase without labels contributes 0 to the mean, so that the mean over processes equals the mean over all of
        their phrases.

        Args:
            pyramids: (B, L, D) pyramids after each fusion.
            labels: by stride of the pyramid's first levels, (B, H/stride, W/stride): 1, 0, or -1 for no label.
        """
        by_level = [of_level.flatten(1) for of_level in labels.values()]
        target = torch.cat(by_level, dim=1)
        # All levels have the same weight, independent of their number of cells.
        weights = torch.cat([normalised(of_level >= 0) for of_level in by_level], dim=1) / len(by_level)
        total = weights.new_zeros(())
        for head, pyramid in zip(self.heads, pyramids, strict=True):
            logits = head(pyramid[:, : target.shape[1]]).float().squeeze(2)
            error = F.binary_cross_entropy_with_logits(logits, target.clamp(min=0).float(), reduction="none")
            total = total + (error * weights).sum(dim=1).mean()
        return total / len(self.heads)


class SceneObjectives(Objective):
    """The auxiliary objectives with a weight above 0.

    Args:
        model: model that provides the features.
        settings: weights of the objectives.

    Raises:
        SettingsError: the model has no interactor.
    """

    def __init__(self, model: ReferSamModel, settings: ObjectiveSettings) -> None:
        super().__init__()
        if not isinstance(model.interactor, Interactor):
            raise SettingsError(
                "sceneref.objectives need a model with an interactor: remove them, or "
                "model.config.use_interactor: false."
            )
        width = model.config.vision_config.hidden_size
        num_fusions = len(fusions_of(model.interactor))
        self.settings = settings
        grounds = settings.grounding > 0 or settings.pointing > 0
        self.grounding = GroundingHeads(width, num_fusions) if grounds else None
        self.condition = ConditionHeads(width, num_fusions) if settings.conditions else None
        self.attributes = AttributeHeads(width) if settings.attributes else None
        self.positions = PositionHeads(width, 1 + num_fusions) if settings.positions else None
        self._features = Features()

    @contextmanager
    def observe(self, model: ReferSamModel) -> Iterator[None]:
        """Record the pyramids of a forward pass; see `Objective`."""
        self._features = features = Features()

        def keep_before(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            features.before.append(output)

        def keep_fused(_module: nn.Module, _inputs: Any, output: tuple[Tensor, Tensor]) -> None:
            features.fused.append(output[1])

        interactor = cast(Interactor, model.interactor)
        handles = [module.register_forward_hook(keep_fused) for module in fusions_of(interactor)]
        handles.append(cast(Interaction, interactor.interactions[0]).extractor.register_forward_hook(keep_before))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def forward(self, model: ReferSamModel, batch: Batch, output: ReferSamOutput) -> ObjectiveOutput:  # noqa: ARG002
        """Compute the weighted sum of the losses; see `Objective`.

        Returns:
            Terms `grounding`, `pointing`, `condition`, `position`, those of `AttributeHeads.forward`, and `auxiliary`,
            the weighted sum.
        """
        settings, before, fused = self.settings, self._features.before[0], self._features.fused
        self._features = Features()  # frees the graph after the step
        terms: dict[str, Tensor] = {}
        total = batch.pixel_values.new_zeros(())
        if self.grounding is not None:
            terms["grounding"], terms["pointing"] = self.grounding(fused, batch.extra[MENTIONS])
            total = total + settings.grounding * terms["grounding"] + settings.pointing * terms["pointing"]
        if self.condition is not None:
            terms["condition"] = self.condition(fused, batch.extra[CONDITIONS])
            total = total + settings.conditions * terms["condition"]
        if self.positions is not None:
            height, width = batch.pixel_values.shape[2:]
            geometry = PyramidGeometry.of_image(height, width, batch.pixel_values.device)
            terms["position"] = self.positions([before, *fused], geometry.reference_points)
            total = total + settings.positions * terms["position"]
        if self.attributes is not None:
            terms |= self.attributes(before, batch.extra[ATTRIBUTES])
            for name in ATTRIBUTE_CLASSES:
                total = total + settings.attributes * terms[name]
        return ObjectiveOutput(total, terms | {"auxiliary": total})


def fusions_of(interactor: Interactor) -> list[Fusion]:
    """Return the fusions in the order of their execution."""
    fusions: list[Fusion] = []
    for module in interactor.interactions:
        interaction = cast(Interaction, module)
        fusions += [interaction.fusion, *cast(Sequence[Fusion], interaction.extra_fusions)]
    return fusions
