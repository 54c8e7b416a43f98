"""Training with simulated clicks and boxes: rounds of corrections, each with its loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from refersam.clicks import next_clicks, noisy_boxes
from refersam.inference.components import label_components
from refersam.model.refersam import PhraseFeatures, ReferSamModel, ReferSamOutput
from refersam.training.data import Batch
from refersam.training.settings import ClickSettings

BOX_SHARE = 0.25
"""Share of the batches whose first correction is a box."""
MASK_SHARE = 0.8
"""Share of the rounds that are given the previous mask; the others start from the coarse mask."""
RANDOM_SHARE = 0.5
"""Share of the rounds whose clicks are anywhere in the inner half of an error region, not at its deepest point."""
SWITCH_SHARE = 0.2
"""Share of the phrases that are corrected to the target of another phrase of their image, by a click on it."""
PART_SHARE = 0.1
"""Share of the phrases of which a connected component is taken out of the target, by a click on it."""
CLICK_STRIDE = 4
"""Clicks are searched in cells of this many pixels, the resolution of SAM's decoder."""


class ClickTraining:
    """Rounds of corrections for batches of a run.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: ClickSettings) -> None:
        self.settings = settings
        self._cached: dict[int, PhraseFeatures] = {}

    def encode(self, model: ReferSamModel, batch: Batch) -> PhraseFeatures:
        """Compute the decoder's input; frozen, in evaluation mode and kept for a batch that comes again with `only`."""
        inputs = (batch.pixel_values, batch.input_ids, batch.attention_mask)
        if not self.settings.only:
            return model.encode_phrases(*inputs)
        kept = self._cached.get(batch.cache_key) if batch.cache_key is not None else None
        if kept is None:
            model.eval()
            with torch.no_grad():
                features = model.encode_phrases(*inputs)
            kept = replace(features, coarse_mask_logits=None, guide=None)  # the guide is the batch's images
            if batch.cache_key is not None:
                self._cached[batch.cache_key] = kept
        return replace(kept, guide=batch.pixel_values if model.upsampler.uses_guide else None)

    def rounds(
        self, model: ReferSamModel, features: PhraseFeatures, output: ReferSamOutput, batch: Batch
    ) -> Iterator[tuple[ReferSamOutput, Tensor]]:
        """Correct a first output; everything that is drawn follows from the batch's seeds.

        Args:
            model: to be trained.
            features: of the batch.
            output: of the model without corrections.
            batch: of the model's input.

        Yields:
            After each correction the output and its (B, H, W) target in [0, 1].
        """
        draw = torch.Generator().manual_seed(batch.seeds[0])
        if not _happens(self.settings.share, draw):
            return
        count = int(torch.randint(1, self.settings.rounds + 1, (1,), generator=draw))
        targets = _Targets.draw(batch, draw)
        clicks: list[tuple[Tensor, Tensor]] = []
        boxes: Tensor | None = None
        if _happens(BOX_SHARE, draw):
            boxes = noisy_boxes(targets.corrected >= 0.5, draw)
        for number in range(count):
            if number or boxes is None:
                clicks.append(_clicks(targets, output, draw, is_first=number == 0))
            mask = output.low_res_mask_logits.detach() if _happens(MASK_SHARE, draw) else None
            points = torch.stack([point for point, _ in clicks], dim=1) if clicks else None
            labels = torch.stack([label for _, label in clicks], dim=1) if clicks else None
            output = model.decode(features, points, labels, boxes, mask)
            yield output, targets.corrected


@dataclass(frozen=True)
class _Targets:
    """What a user wants, where it is not what the phrase names.

    Attributes:
        corrected: (B, H, W) in [0, 1].
        switched: (B,) bool: the target is that of another phrase.
        removed: (B, H, W) bool: component that is taken out of the phrase's own target.
    """

    corrected: Tensor
    switched: Tensor
    removed: Tensor

    @classmethod
    def draw(cls, batch: Batch, draw: torch.Generator) -> _Targets:
        target = batch.target_mask
        is_inside = target >= 0.5
        phrases = len(target) // len(batch.pixel_values)
        chance = torch.rand(len(target), generator=draw).to(target.device)
        shift = int(torch.randint(1, max(2, phrases), (1,), generator=draw))
        others = target.unflatten(0, (-1, phrases)).roll(shift, dims=1).flatten(0, 1)
        overlap = (is_inside & (others >= 0.5)).flatten(1).any(dim=1)
        switched = (chance < SWITCH_SHARE) & ~overlap & (others >= 0.5).flatten(1).any(dim=1)
        removed = torch.zeros_like(is_inside)
        for row in torch.nonzero((chance >= SWITCH_SHARE) & (chance < SWITCH_SHARE + PART_SHARE)).flatten().tolist():
            components = torch.from_numpy(label_components(is_inside[row].cpu().numpy()))
            if components.max() > 1:
                chosen = torch.randint(1, int(components.max()) + 1, (1,), generator=draw)
                removed[row] = (components == chosen).to(removed.device)
        corrected = torch.where(switched[:, None, None], others, target * ~removed)
        return cls(corrected, switched, removed)


def _clicks(
    targets: _Targets, output: ReferSamOutput, draw: torch.Generator, *, is_first: bool
) -> tuple[Tensor, Tensor]:
    """Return (B, 2) points and (B,) labels of the next click on each mask."""
    predicted, truth = output.mask_logits.detach() >= 0, targets.corrected >= 0.5
    if is_first:  # on the object, or on the part, that the phrase does not tell
        predicted = predicted & ~targets.switched[:, None, None]
        taken = targets.removed.flatten(1).any(dim=1)[:, None, None]
        predicted, truth = torch.where(taken, targets.removed, predicted), truth & ~taken
    predicted, truth = (_coarser(mask) for mask in (predicted, truth))
    share = 0.5 if _happens(RANDOM_SHARE, draw) else 1.0
    points, labels = next_clicks(predicted, truth, share, draw)
    return CLICK_STRIDE * points + (CLICK_STRIDE - 1) / 2, labels


def _coarser(masks: Tensor) -> Tensor:
    """Reduce (B, H, W) masks by `CLICK_STRIDE`."""
    return F.avg_pool2d(masks[:, None].float(), CLICK_STRIDE)[:, 0] > 0.5


def _happens(share: float, draw: torch.Generator) -> bool:
    return float(torch.rand(1, generator=draw)) < share
