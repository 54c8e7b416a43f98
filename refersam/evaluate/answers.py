"""From a model's output to masks, decisions and scores, as a protocol wants them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from refersam.data.sample import ReferringImage
from refersam.errors import ReferSamError
from refersam.inference.answers import NanOutputError, confidence, phrase_outputs
from refersam.inference.runtimes import Processor
from refersam.metrics.protocols import PROTOCOLS, Protocol
from refersam.metrics.results import SampleResult, compare_masks, judge_target
from refersam.model.refersam import ReferSamModel, ReferSamOutput


class EvaluationError(ReferSamError, RuntimeError):
    """An evaluation that cannot go on."""


@dataclass(frozen=True, slots=True)
class ProtocolAnswer:
    """What a model says of one phrase about an image of H x W pixels.

    Attributes:
        mask: (H, W) bool, where the logits are >= 0, whatever the no-target decision.
        protocol_mask: bool at the protocol's size: logits resized to it, then cut by its rule.
        no_target: its decision; None for a model without one.
        score: the IoU that it expects, in [0, 1].
        target_probability: that the phrase has a target; None for a model without such a head.
    """

    mask: np.ndarray
    protocol_mask: np.ndarray
    no_target: bool | None
    score: float
    target_probability: float | None


def protocol_answers(
    output: ReferSamOutput,
    sizes: Iterable[tuple[int, int]],
    processor: Processor,
    protocol: Protocol,
    supervise_iou: bool,
    no_target_threshold: float,
) -> Iterator[ProtocolAnswer]:
    """One answer for each of the output's B phrases.

    Args:
        output: of the model.
        sizes: B times (height, width) of the phrase's image, in pixels.
        processor: of the model.
        protocol: to score by.
        supervise_iou: of the model's configuration.
        no_target_threshold: below this probability of a target the decision is that there is none.

    Raises:
        EvaluationError: NaN or infinite outputs.
    """
    decides = output.object_score_logits is not None
    try:
        for one in phrase_outputs(output, sizes, processor):
            height, width = one.logits.shape[1:]
            own, size = (height, width), protocol.size(height, width)
            compared = one.logits if size == own else processor.mask_logits(one.output, own, size)
            yield ProtocolAnswer(
                mask=(one.logits[0] >= 0).cpu().numpy(),
                protocol_mask=_cut(compared[0], protocol).cpu().numpy(),
                no_target=one.target_probability < no_target_threshold if decides else None,
                score=float(confidence(one.output, one.logits.sigmoid(), supervise_iou)),
                target_probability=one.target_probability if decides else None,
            )
    except NanOutputError as error:
        raise EvaluationError("The model's output has NaN or infinite values: use --dtype float32.") from error


def _cut(logits: Tensor, protocol: Protocol) -> Tensor:
    positive: Tensor = protocol.cut(logits.sigmoid() if protocol.cut.scale == "probability" else logits)
    return positive


@torch.inference_mode()
def evaluate_images(
    model: ReferSamModel,
    processor: Processor,
    images: Iterable[ReferringImage],
    no_target_threshold: float = 0.5,
    protocol: Protocol = PROTOCOLS["sceneref"],
) -> Iterator[SampleResult]:
    """Score images that are decoded already, as validation during training does.

    Args:
        model: in evaluation mode.
        processor: of the model.
        images: images with phrases; the phrases of one image are run together.
        no_target_threshold: a phrase is judged to have no target where its probability of having one is below this.
        protocol: one that compares at the images' own size: the masks are at that size.

    Yields:
        One result per phrase, in order.

    Raises:
        ValueError: a protocol with a size of its own.
    """
    if protocol.side is not None:
        raise ValueError(f"Decoded masks are compared at the image's own size, but {protocol.name} resizes them.")
    device, dtype = next(model.parameters()).device, model.dtype
    for item in images:
        inputs = processor(images=item.image, text=item.phrases)
        output = model(
            inputs["pixel_values"].to(device, dtype),
            inputs["input_ids"].to(device),
            inputs["attention_mask"].to(device),
        )
        sizes = [item.masks.shape[1:]] * len(item.phrases)
        answers = protocol_answers(output, sizes, processor, protocol, model.config.supervise_iou, no_target_threshold)
        for answer, truth, tags in zip(answers, item.masks, item.tags, strict=True):
            intersection, predicted, true = compare_masks(answer.protocol_mask, truth)
            judged = judge_target(answer.no_target, predicted)
            yield SampleResult(
                intersection,
                predicted,
                true,
                bool(true),
                judged,
                tags,
                answer.score,
                answer.target_probability,
            )
