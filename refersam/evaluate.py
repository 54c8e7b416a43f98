"""Run a model over pictures with phrases and compare with the truth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from refersam.data.sample import ReferringImage
from refersam.metrics import SampleResult, compare_masks
from refersam.model.refersam import ReferSamModel
from refersam.predictor import confidence, target_probability
from refersam.processor import ReferSamProcessor


@torch.inference_mode()
def evaluate_images(
    model: ReferSamModel,
    processor: ReferSamProcessor,
    images: Iterable[ReferringImage],
    no_target_threshold: float = 0.5,
) -> Iterator[SampleResult]:
    """Compare at the pictures' own size: logits resized, then cut at 0.

    Args:
        model: in evaluation mode.
        processor: of the model.
        images: pictures with phrases; the phrases of one picture are run together.
        no_target_threshold: a phrase is judged to have no target where its probability of having one is below this.

    Yields:
        One result per phrase, in order.
    """
    device, dtype = next(model.parameters()).device, model.dtype
    for item in images:
        inputs = processor(images=item.image, text=item.phrases)
        output = model(
            inputs["pixel_values"].to(device, dtype),
            inputs["input_ids"].to(device),
            inputs["attention_mask"].to(device),
        )
        height, width = item.image.shape[:2]
        logits = processor.resize_logits(output.mask_logits, height, width)
        masks = (logits >= 0).cpu().numpy()
        judged = (target_probability(output) >= no_target_threshold).tolist()
        scores = confidence(output, logits.sigmoid(), model.config.supervise_iou).tolist()
        for index, truth in enumerate(item.masks):
            intersection, union = compare_masks(masks[index], truth)
            yield SampleResult(intersection, union, bool(truth.any()), judged[index], item.tags[index], scores[index])
