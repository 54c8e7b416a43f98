"""Masks, decisions and scores of a model's output, at the sizes that a protocol compares."""

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
    """An evaluation that failed."""


@dataclass(frozen=True, slots=True)
class ProtocolAnswer:
    """Answer of a model to one phrase about an image of H x W pixels.

    Attributes:
        mask: (H, W) bool, where the logits are >= 0, whatever the no-target decision.
        protocol_mask: bool at the protocol's size: logits resized to it, then cut by its rule.
        no_target: the model's no-target decision; None for a model without one.
        score: predicted IoU of the mask, in [0, 1].
        target_probability: probability that the phrase has a target; None for a model without object-score head.
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
    """Yield an answer for each of the B phrases of an output.

    Args:
        output: output of the model for B phrases.
        sizes: B times (height, width) of the phrase's image, in pixels.
        processor: processor of the model.
        protocol: evaluation protocol.
        supervise_iou: `config.supervise_iou` of the model.
        no_target_threshold: probability of a target below which the phrase is judged to have none.

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
    """Score decoded images, for validation during training.

    Args:
        model: model in evaluation mode.
        processor: processor of the model.
        images: images with phrases and masks; the phrases of an image form one batch.
        no_target_threshold: probability of a target below which a phrase is judged to have none.
        protocol: evaluation protocol without a fixed size.

    Yields:
        The counted result of each phrase, in order.

    Raises:
        ValueError: the protocol has a fixed size.
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
