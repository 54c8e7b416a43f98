"""ReferSAM's loss: binary cross-entropy and dice on uncertain points, for the final and the coarse mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from refersam.model.refersam import ReferSamOutput


class ReferSamLoss(nn.Module):
    """Loss terms of a batch. By default `mask`, `dice`, `coarse_mask` and `coarse_dice` have weight 1 (paper).

    Points are sampled as in PointRend: a share `importance_ratio` of num_points are the most uncertain (smallest
    |logit|) of `oversample_ratio * num_points` uniform candidates, and the others are uniform. Random numbers come from
    CPU generators, so that a seed gives the same points on every device.

    Args:
        num_points: points per mask.
        oversample_ratio: candidates per point.
        importance_ratio: share of points that are selected from the candidates.
        mask_weight: weight of binary cross-entropy, of both masks.
        dice_weight: weight of dice, of both masks.
        coarse_weight: additional weight of both terms of the coarse mask; 0 disables them. A model without coarse mask
            has no such terms.
        iou_weight: weight of the IoU term, the squared difference between predicted and true IoU of the mask
            (threshold 0), 0 for a no-target phrase; a weight of 0 disables it.
        object_weight: weight of the object-score term, BCE on "the phrase has a target"; 0 disables it.
    """

    def __init__(
        self,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_ratio: float = 0.75,
        mask_weight: float = 1.0,
        dice_weight: float = 1.0,
        coarse_weight: float = 1.0,
        iou_weight: float = 0.0,
        object_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if num_points < 1 or oversample_ratio < 1 or not 0 <= importance_ratio <= 1:
            raise ValueError(
                "Expected num_points >= 1, oversample_ratio >= 1 and importance_ratio in [0, 1], but got "
                f"{num_points}, {oversample_ratio} and {importance_ratio}."
            )
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_ratio = importance_ratio
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.coarse_weight = coarse_weight
        self.iou_weight = iou_weight
        self.object_weight = object_weight

    def forward(
        self, output: ReferSamOutput, target_mask: Tensor, seeds: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Compute the terms.

        Args:
            output: output of the model.
            target_mask: (B, H, W) boolean or in [0, 1]; empty for a no-target phrase.
            seeds: B seeds, which make the points of a phrase independent of its batch and process. None uses torch's
                global generator.

        Returns:
            Scalars `mask`, `dice` and `total`, and the weighted ones of `coarse_mask`, `coarse_dice`, `iou` and
            `object`. All are means over the batch.

        Raises:
            ValueError: a target of another shape, or an object-score term for a model without that head.
        """
        logits = output.mask_logits
        if target_mask.shape != logits.shape:
            raise ValueError(
                f"target_mask must have the shape of mask_logits, {tuple(logits.shape)}, but has "
                f"{tuple(target_mask.shape)}."
            )
        target = target_mask.to(torch.float32)
        terms: dict[str, Tensor] = {}
        generators = None if seeds is None else [torch.Generator().manual_seed(seed) for seed in seeds]
        terms["mask"], terms["dice"] = self._point_terms(logits.float(), target, generators)
        total = self.mask_weight * terms["mask"] + self.dice_weight * terms["dice"]
        if self.coarse_weight and output.coarse_mask_logits is not None:
            coarse = output.coarse_mask_logits.float()
            terms["coarse_mask"], terms["coarse_dice"] = self._point_terms(coarse, target, generators)
            total = total + self.coarse_weight * self.mask_weight * terms["coarse_mask"]
            total = total + self.coarse_weight * self.dice_weight * terms["coarse_dice"]
        if self.iou_weight:
            terms["iou"] = iou_term(output.iou_scores.float(), logits, target)
            total = total + self.iou_weight * terms["iou"]
        if self.object_weight:
            if output.object_score_logits is None:
                raise ValueError("object_weight needs a model with config.object_score_head, but this one has none.")
            has_target = target.flatten(1).amax(dim=1)
            terms["object"] = F.binary_cross_entropy_with_logits(output.object_score_logits.float(), has_target)
            total = total + self.object_weight * terms["object"]
        terms["total"] = total
        return terms

    def _point_terms(
        self, logits: Tensor, target: Tensor, generators: Sequence[torch.Generator] | None
    ) -> tuple[Tensor, Tensor]:
        points = self.sample_points(logits, generators)
        sampled, truth = sample_at(logits, points), sample_at(target, points)
        return F.binary_cross_entropy_with_logits(sampled, truth), dice_term(sampled, truth)

    @torch.no_grad()
    def sample_points(self, logits: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Sample points.

        Args:
            logits: (B, H, W) mask logits.
            generators: one generator per sample; None for torch's global generator.

        Returns:
            (B, num_points, 2) points (x, y) in [0, 1].
        """
        batch, count = logits.shape[0], self.num_points
        candidates = _draw(batch, int(count * self.oversample_ratio), generators).to(logits.device)
        num_uncertain = int(self.importance_ratio * count)
        uncertainty = -sample_at(logits, candidates).abs()
        chosen = uncertainty.topk(num_uncertain, dim=1).indices
        uncertain = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
        return torch.cat([uncertain, _draw(batch, count - num_uncertain, generators).to(logits.device)], dim=1)


def _draw(batch: int, count: int, generators: Sequence[torch.Generator] | None) -> Tensor:
    """Draw (batch, count, 2) uniform numbers in [0, 1), on the CPU."""
    if generators is None:
        return torch.rand(batch, count, 2)
    return torch.stack([torch.rand(count, 2, generator=generator) for generator in generators])


def sample_at(maps: Tensor, points: Tensor) -> Tensor:
    """Sample (B, H, W) maps bilinearly at (B, N, 2) points (x, y) in [0, 1]; pixel centres are at (i + 0.5) / n.

    Returns:
        (B, N).
    """
    grid = (2 * points - 1).unsqueeze(2)  # (B, N, 1, 2)
    return F.grid_sample(maps.unsqueeze(1), grid, align_corners=False)[:, 0, :, 0]


def dice_term(logits: Tensor, truth: Tensor) -> Tensor:
    """Compute the mean over the batch of 1 - (2 sum(s y) + 1) / (sum(s) + sum(y) + 1).

    Args:
        logits: (B, N), s = sigmoid(logits).
        truth: (B, N) y in [0, 1].
    """
    probability = logits.sigmoid()
    overlap = 2 * (probability * truth).sum(dim=1) + 1
    return (1 - overlap / (probability.sum(dim=1) + truth.sum(dim=1) + 1)).mean()


def iou_term(predicted: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """Compute the mean over the batch of the squared error of the (B,) predicted IoU of the mask logits >= 0.

    A no-target phrase contributes 0 to the mean, so that the mean over processes equals the mean over all samples.
    """
    with torch.no_grad():
        mask, truth = logits >= 0, target >= 0.5
        intersection = (mask & truth).flatten(1).sum(dim=1)
        union = (mask | truth).flatten(1).sum(dim=1)
        has_target = truth.flatten(1).any(dim=1)
        real = intersection / union.clamp(min=1)
    return ((predicted - real).square() * has_target).mean()
