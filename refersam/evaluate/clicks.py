"""Automatic clicks on a model's masks, as in the benchmarks of interactive segmentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from refersam.clicks import PADDING, next_clicks
from refersam.evaluate.answers import protocol_answers
from refersam.inference.predictor import ReferSamPredictor
from refersam.inference.prompts import to_input
from refersam.inference.queries import clickable
from refersam.metrics.protocols import Protocol
from refersam.model.refersam import PhraseFeatures, ReferSamOutput


def click_rounds(
    predictor: ReferSamPredictor,
    features: PhraseFeatures,
    output: ReferSamOutput,
    sizes: Sequence[tuple[int, int]],
    masks: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    protocol: Protocol,
    count: int,
) -> Iterator[list[np.ndarray]]:
    """Correct masks by clicks, each at the deepest point of the largest error region (`refersam.clicks`).

    Args:
        predictor: predictor of the model.
        features: features of B phrases.
        output: output of the model for these phrases, without clicks.
        sizes: B times (height, width) of the phrase's image in pixels.
        masks: B masks of `output` at the protocol's size, bool.
        truths: B targets at the protocol's size, bool.
        protocol: evaluation protocol.
        count: number of clicks.

    Yields:
        The B masks after each click at the protocol's size; a mask without any error gets no further click.
    """
    model, processor, current = clickable(predictor.model), predictor.processor, list(masks)
    input_size = (4 * output.low_res_mask_logits.shape[1], 4 * output.low_res_mask_logits.shape[2])
    points, labels = [], []
    for _ in range(count):
        found = [
            next_clicks(torch.from_numpy(mask)[None], torch.from_numpy(truth)[None])
            for mask, truth in zip(current, truths, strict=True)
        ]
        scaled = [to_input(point, m.shape, input_size) for (point, _), m in zip(found, current, strict=True)]
        points.append(torch.cat(scaled).to(model.device))
        labels.append(torch.cat([label for _, label in found]).to(model.device))
        clicks = {"input_points": torch.stack(points, dim=1), "input_labels": torch.stack(labels, dim=1)}
        output = model.decode(features, **clicks, mask_prompt=output.low_res_mask_logits)
        answers = protocol_answers(output, sizes, processor, protocol, model.config.supervise_iou, 0.5)
        for row, answer in enumerate(answers):
            if labels[-1][row] != PADDING:
                current[row] = answer.protocol_mask
        yield list(current)
