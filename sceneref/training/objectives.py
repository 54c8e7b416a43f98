"""Auxiliary objectives on rendered scenes: what each phrase mentions, and what each object looks like.

A mask tells what the whole phrase means, and nothing about the steps to it. A rendered scene knows more: in "the star
left of the red ring" which objects are stars, which one is the red ring, and the colour, shape and pattern of every
object. Linear heads read the mentions from the pyramid after each fusion with the text, and the looks from the pyramid
before the first one. They are dropped after training: the features have to represent what the next layers compare.
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
from sceneref.training.labels import CONDITIONS, LOOK_LABELS, MENTIONS
from sceneref.training.looks import LOOKS, LooksHeads
from sceneref.training.positions import PositionHeads
from sceneref.training.settings import ObjectiveSettings

NUM_MENTIONS = 2
"""Objects that the phrase's first description fits, and objects that its other descriptions fit."""


@dataclass
class Features:
    """Features of a forward pass that the heads read.

    Attributes:
        before: pyramids (I, L, D) before text conditioning; one.
        fused: pyramids (B, L, D) after each fusion, in order.
    """

    before: list[Tensor] = field(default_factory=list)
    fused: list[Tensor] = field(default_factory=list)


class GroundingHeads(nn.Module):
    """Linear heads over the pyramid, one after each fusion.

    Args:
        hidden_size: width of the pyramid.
        num_fusions: heads.
    """

    def __init__(self, hidden_size: int, num_fusions: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(hidden_size, NUM_MENTIONS) for _ in range(num_fusions))
        for head in self.heads:
            nn.init.zeros_(cast(nn.Linear, head).weight)
            nn.init.constant_(cast(nn.Linear, head).bias, -2.0)  # few cells belong to a mentioned object

    def forward(self, pyramids: Sequence[Tensor], mention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute segmentation and pointing losses, means over fusions and strides 8 and 16.

        Segmentation is binary cross-entropy plus dice. Pointing is the Kullback-Leibler divergence from the mentioned
        cells to the softmax over all cells; a phrase without a visible mention adds 0, but counts. A mask of an object
        that is rarely mentioned is best left empty, and then teaches nothing; a softmax has to choose.

        Args:
            pyramids: (B, L, D) after each fusion.
            mention_mask: (B, 2, H/8, W/8) in [0, 1].
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
    """(B, N) non-negative weights -> the same in proportion, each row with the sum 1; rows of zeros stay."""
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-6)


class ConditionHeads(nn.Module):
    """Linear heads over the pyramid, one after each fusion, for the condition that a phrase states.

    Args:
        hidden_size: width of the pyramid.
        num_fusions: heads.
    """

    def __init__(self, hidden_size: int, num_fusions: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(hidden_size, 1) for _ in range(num_fusions))

    def forward(self, pyramids: Sequence[Tensor], labels: Mapping[int, Tensor]) -> Tensor:
        """Compute binary cross-entropy: the mean over labelled cells, then over phrases, fusions and levels.

        A phrase without labels adds 0, but counts, so that the mean over processes is the mean over their phrases.

        Args:
            pyramids: (B, L, D) after each fusion.
            labels: by stride of the pyramid's first levels, (B, H/stride, W/stride): 1, 0, or -1 for no label.
        """
        by_level = [of_level.flatten(1) for of_level in labels.values()]
        target = torch.cat(by_level, dim=1)
        # Every level has the same weight, however many cells it has.
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
        model: whose features the heads read.
        settings: weights.

    Raises:
        SettingsError: the model has no interactor, and so no such features.
    """

    def __init__(self, model: ReferSamModel, settings: ObjectiveSettings) -> None:
        super().__init__()
        if not isinstance(model.interactor, Interactor):
            raise SettingsError(
                "sceneref.objectives need a model with an interactor: leave them out, or model.config.use_interactor: "
                "false."
            )
        width = model.config.vision_config.hidden_size
        num_fusions = len(fusions_of(model.interactor))
        self.settings = settings
        grounds = settings.grounding > 0 or settings.pointing > 0
        self.grounding = GroundingHeads(width, num_fusions) if grounds else None
        self.condition = ConditionHeads(width, num_fusions) if settings.conditions else None
        self.looks = LooksHeads(width) if settings.looks else None
        self.positions = PositionHeads(width, 1 + num_fusions) if settings.positions else None
        self._features = Features()

    @contextmanager
    def observe(self, model: ReferSamModel) -> Iterator[None]:
        """Keep the pyramids of a forward pass; see `Objective`."""
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
            Terms `grounding`, `pointing`, `condition`, `position`, the `LOOKS` with their accuracies, and `auxiliary`,
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
        if self.looks is not None:
            terms |= self.looks(before, batch.extra[LOOK_LABELS])
            for name in LOOKS:
                total = total + settings.looks * terms[name]
        return ObjectiveOutput(total, terms | {"auxiliary": total})


def fusions_of(interactor: Interactor) -> list[Fusion]:
    """Return the fusions in the order of their execution."""
    fusions: list[Fusion] = []
    for module in interactor.interactions:
        interaction = cast(Interaction, module)
        fusions += [interaction.fusion, *cast(Sequence[Fusion], interaction.extra_fusions)]
    return fusions
