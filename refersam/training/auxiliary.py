"""Auxiliary losses of drawn scenes: to find every object that a phrase mentions, and to tell what each one looks like.

A mask says what the whole phrase means, and nothing of how to get there. A drawn scene knows more: in "the star left of
the red ring" which objects are stars, which one is the red ring, and of every object its colour, shape and pattern.
Linear heads read the mentions from the pyramid after each of its fusions with the text, the looks from the pyramid
before the first one, and are thrown away after the training: the features have to hold what the next layers compare.
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
from refersam.model.pyramid import map_to_tokens
from refersam.model.refersam import ReferSamModel
from refersam.training.looks import LOOKS, LooksHeads
from refersam.training.positions import PositionHeads
from refersam.training.settings import LossSettings, SettingsError

NUM_MENTIONS = 2
"""What the first description in a phrase fits, and what the others fit."""


@dataclass
class Seen:
    """Features of a forward pass that the heads read.

    Attributes:
        before: (I, L, D) pyramids before the text is heard, one.
        fused: (B, L, D) pyramids after each fusion, in order.
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
            nn.init.constant_(cast(nn.Linear, head).bias, -2.0)  # few cells are of an object that is mentioned

    def forward(self, pyramids: Sequence[Tensor], mention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Binary cross-entropy and dice; and how well the heads point: both means over fusions and strides 8 and 16.

        Pointing is the Kullback-Leibler divergence from the mentioned cells to the softmax over all; a phrase that
        mentions nothing in sight adds 0, but counts. Where an object is seldom mentioned and hard to tell, a mask is
        best left empty, and then teaches nothing; a pointer has to choose.

        Args:
            pyramids: (B, L, D) after each fusion.
            mention_mask: (B, 2, H/8, W/8) in [0, 1].
        """
        wanted = [map_to_tokens(truth) for truth in (mention_mask, F.avg_pool2d(mention_mask, 2))]  # (B, cells, 2)
        lengths = [truth.shape[1] for truth in wanted]
        masks, pointing = mention_mask.new_zeros(()), mention_mask.new_zeros(())
        for head, pyramid in zip(self.heads, pyramids, strict=True):
            found = head(pyramid[:, : sum(lengths)]).float().split(lengths, dim=1)
            for logits, truth in zip(found, wanted, strict=True):
                each = logits.transpose(1, 2).flatten(0, 1), truth.transpose(1, 2).flatten(0, 1)  # (2 B, cells)
                masks = masks + F.binary_cross_entropy_with_logits(*each) + dice_term(*each)
                pointing = pointing + F.kl_div(each[0].log_softmax(dim=1), shares(each[1]), reduction="batchmean")
        return masks / (len(self.heads) * len(wanted)), pointing / (len(self.heads) * len(wanted))


def shares(weights: Tensor) -> Tensor:
    """(B, N) weights, not negative -> in proportion, so that each row adds up to 1; 0 where all of a row are 0."""
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-6)


class ConditionHeads(nn.Module):
    """Linear heads over the pyramid, one after each fusion, for what a phrase says beside its descriptions.

    Args:
        hidden_size: width of the pyramid.
        num_fusions: heads.
    """

    def __init__(self, hidden_size: int, num_fusions: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(hidden_size, 1) for _ in range(num_fusions))

    def forward(self, pyramids: Sequence[Tensor], labels: Mapping[int, Tensor]) -> Tensor:
        """Binary cross-entropy: the mean over cells with a label, over phrases, fusions and levels.

        A phrase without labels adds 0, but counts: so the mean over processes is that over all of their phrases.

        Args:
            pyramids: (B, L, D) after each fusion.
            labels: by stride, of the pyramid's first levels, (B, H/stride, W/stride): 1, 0, or -1 for none.
        """
        by_level = [of_level.flatten(1) for of_level in labels.values()]
        wanted = torch.cat(by_level, dim=1)
        # Each level weighs as much, however many cells it has.
        weights = torch.cat([shares(of_level >= 0) for of_level in by_level], dim=1) / len(by_level)
        total = weights.new_zeros(())
        for head, pyramid in zip(self.heads, pyramids, strict=True):
            logits = head(pyramid[:, : wanted.shape[1]]).float().squeeze(2)
            error = F.binary_cross_entropy_with_logits(logits, wanted.clamp(min=0).float(), reduction="none")
            total = total + (error * weights).sum(dim=1).mean()
        return total / len(self.heads)


class AuxiliaryHeads(nn.Module):
    """The heads that the settings ask for.

    Args:
        model: whose features they read.
        settings: with their weights.

    Raises:
        SettingsError: the model has no interactor, and so no such features.
    """

    def __init__(self, model: ReferSamModel, settings: LossSettings) -> None:
        super().__init__()
        if not isinstance(model.interactor, Interactor):
            raise SettingsError(
                "loss.grounding_weight, pointing_weight, looks_weight, condition_weight and position_weight need a "
                "model with an interactor: leave them out, or use_interactor: false."
            )
        width = model.config.vision_config.hidden_size
        num_fusions = len(fusions_of(model.interactor))
        self.settings = settings
        grounds = settings.grounding_weight > 0 or settings.pointing_weight > 0
        self.grounding = GroundingHeads(width, num_fusions) if grounds else None
        self.condition = ConditionHeads(width, num_fusions) if settings.condition_weight else None
        self.looks = LooksHeads(width) if settings.looks_weight else None
        self.positions = PositionHeads(width, 1 + num_fusions) if settings.position_weight else None

    def forward(
        self,
        seen: Seen,
        mention_mask: Tensor | None,
        look_labels: Mapping[int, Tensor] | None,
        condition_labels: Mapping[int, Tensor] | None,
        centres: Tensor | None,
    ) -> dict[str, Tensor]:
        """Loss terms, how many cells are right, and `auxiliary`, the weighted sum of the terms.

        Args:
            seen: what the model saw.
            mention_mask, look_labels, condition_labels: of `refersam.training.data.Batch`; a term without is left out.
            centres: of the pyramid's tokens, see `PositionHeads`; likewise.

        Returns:
            `grounding`, `pointing`, `condition`, the `LOOKS`, `position`, `auxiliary`.
        """
        terms: dict[str, Tensor] = {}
        total: Tensor | float = 0.0
        if self.grounding is not None and mention_mask is not None:
            terms["grounding"], terms["pointing"] = self.grounding(seen.fused, mention_mask)
            total = total + self.settings.grounding_weight * terms["grounding"]
            total = total + self.settings.pointing_weight * terms["pointing"]
        if self.condition is not None and condition_labels is not None:
            terms["condition"] = self.condition(seen.fused, condition_labels)
            total = total + self.settings.condition_weight * terms["condition"]
        if self.positions is not None and centres is not None:
            terms["position"] = self.positions([seen.before[0], *seen.fused], centres)
            total = total + self.settings.position_weight * terms["position"]
        if self.looks is not None and look_labels is not None:
            terms |= self.looks(seen.before[0], look_labels)
            total = total + self.settings.looks_weight * sum(terms[name] for name in LOOKS)
        return terms | {"auxiliary": cast(Tensor, total)}


@contextmanager
def seen_by(model: ReferSamModel) -> Iterator[Seen]:
    """What the model's forward pass sees inside of the context."""
    seen = Seen()

    def keep_before(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        seen.before.append(output)

    def keep_fused(_module: nn.Module, _inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        seen.fused.append(output[1])

    interactor = cast(Interactor, model.interactor)
    handles = [module.register_forward_hook(keep_fused) for module in fusions_of(interactor)]
    handles.append(cast(Interaction, interactor.interactions[0]).extractor.register_forward_hook(keep_before))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def fusions_of(interactor: Interactor) -> list[Fusion]:
    """In the order they run."""
    fusions: list[Fusion] = []
    for module in interactor.interactions:
        interaction = cast(Interaction, module)
        fusions += [interaction.fusion, *cast(Sequence[Fusion], interaction.extra_fusions)]
    return fusions
