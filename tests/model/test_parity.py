"""Parity with the authors' implementation: every stage, the losses and all gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from refersam import ReferSamModel, ReferSamOutput
from refersam.checkpoints.keys import AUTHORS_KEYS, rename_keys
from refersam.losses import ReferSamLoss
from refersam.model.pyramid import PyramidGeometry

STAGE_TOLERANCE = 1e-5
"""Largest difference by largest reference value, in float32 (measured: at most 2.2e-6)."""
LOSS_TOLERANCE = 1e-4
"""Relative (measured: 8e-7). Rounding may swap candidates of nearly equal |logit|, hence the larger tolerance."""
GRADIENT_TOLERANCE = 1e-3
GRADIENT_FLOOR = 1e-7
"""Gradient norms by relative (measured: 3e-5) or absolute difference, whichever is met."""
ZERO_GRADIENT = 2e-7
"""Norms below this are mathematically zero (biases of keys, the prompter's level embedding): rounding errors."""

# bfloat16 has 8 bits of mantissa, a relative error of 2^-9 = 0.2 % per operation, and 8 ViT layers with 6 fusions
# pile it up.
BF16_LOGIT_TOLERANCE = 0.05
"""Root mean square of the difference by that of the reference (measured: 0.024 to 0.030)."""
BF16_MASK_AGREEMENT = 0.98
"""Share of pixels on the same side of 0 (measured: 0.990 to 0.994)."""

CASES = [("bert_tiny", 0), ("bert_tiny", 1), ("clip_tiny", 0), ("clip_tiny", 1)]
INPUTS = ("pixel_values", "input_ids", "attention_mask")
STAGES = (
    "text_features",
    "projected_text_features",
    "pyramid_stride4",
    "pyramid_stride8",
    "pyramid_stride16",
    "pyramid_stride32",
    "image_embeddings",
    "prompts",
    "coarse_mask_logits",
    "low_res_masks",
    "iou_predictions",
    "mask_logits",
)
LOSSES = {
    "loss/loss_mask": "mask",
    "loss/loss_dice": "dice",
    "loss/loss_mask_aux": "coarse_mask",
    "loss/loss_dice_aux": "coarse_dice",
    "loss/total_loss": "total",
}


def run_stages(model: ReferSamModel, inputs: dict[str, Tensor]) -> tuple[ReferSamOutput, dict[str, Tensor]]:
    """Return the model's output and all intermediate results, under the names of the case files."""
    seen: dict[str, Any] = {}
    parts = {"text": model.text_encoder, "interactor": model.interactor, "prompter": model.prompter}
    hooks = [
        part.register_forward_hook(lambda _module, _inputs, output, name=name: seen.update({name: output}))
        for name, part in parts.items()
    ]
    try:
        output = model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    geometry = PyramidGeometry.of_image(*inputs["pixel_values"].shape[2:], torch.device("cpu"))
    level8, level16, level32 = geometry.to_maps(seen["interactor"].pyramid)
    return output, {
        "text_features": seen["text"].last_hidden_state,
        "projected_text_features": seen["interactor"].text,
        "pyramid_stride4": seen["interactor"].mask_features,
        "pyramid_stride8": level8,
        "pyramid_stride16": level16,
        "pyramid_stride32": level32,
        "image_embeddings": seen["interactor"].image_embedding,
        "prompts": seen["prompter"].tokens,
        "coarse_mask_logits": output.coarse_mask_logits.unsqueeze(1),
        "low_res_masks": output.low_res_mask_logits.unsqueeze(1),
        "iou_predictions": output.iou_scores.unsqueeze(1),
        "mask_logits": output.mask_logits,
    }


def relative_error(ours: Tensor, reference: Tensor) -> float:
    """Return the largest difference by the largest reference value; shapes must be equal."""
    assert ours.shape == reference.shape
    return ((ours - reference).abs().max() / reference.abs().max()).item()


@pytest.mark.parametrize(("name", "number"), CASES)
def test_every_stage_and_output(load_parity: Callable, load_case: Callable, name: str, number: int) -> None:
    """All tensors of a case agree, and every tensor of a case is compared."""
    case, _ = load_case(name, number)
    assert set(case) == {*INPUTS, "target_mask", *STAGES, *LOSSES}
    with torch.no_grad():
        _, stages = run_stages(load_parity(name).model, {key: case[key] for key in INPUTS})
    errors = {stage: relative_error(stages[stage], case[stage]) for stage in STAGES}
    assert {stage: error for stage, error in errors.items() if not error <= STAGE_TOLERANCE} == {}


@pytest.mark.parametrize(("name", "number"), CASES)
def test_losses_and_gradients(load_parity: Callable, load_case: Callable, name: str, number: int) -> None:
    """Loss terms agree with the same seed, and so does the gradient norm of every parameter."""
    case, reference_norms = load_case(name, number)
    parity = load_parity(name)
    model = parity.model
    output = model(**{key: case[key] for key in INPUTS})
    torch.manual_seed(123)
    losses = ReferSamLoss(num_points=parity.sizes["refersam"]["loss_num_points"])(output, case["target_mask"])
    assert set(losses) == set(LOSSES.values())
    for theirs, ours in LOSSES.items():
        assert losses[ours].item() == pytest.approx(case[theirs].item(), rel=LOSS_TOLERANCE), theirs

    losses["total"].backward()
    renamed, unknown = rename_keys(reference_norms, AUTHORS_KEYS)
    assert unknown == []
    parameters = dict(model.named_parameters())
    fixed = {"sam.prompt_encoder.shared_embedding.positional_embedding"}  # a buffer of the authors
    assert set(renamed.values()) == parameters.keys() - fixed
    wrong = []
    for theirs, ours in renamed.items():
        gradient = parameters[ours].grad
        norm, reference = 0.0 if gradient is None else gradient.norm().item(), reference_norms[theirs] or 0.0
        close = math.isclose(norm, reference, rel_tol=GRADIENT_TOLERANCE, abs_tol=GRADIENT_FLOOR)
        if reference < ZERO_GRADIENT:
            close = norm < 5 * ZERO_GRADIENT
        if reference_norms[theirs] is None:
            close = norm == 0
        if not close:
            wrong.append((ours, norm, reference))
    assert wrong == []
    assert sum((reference or 0) > ZERO_GRADIENT for reference in reference_norms.values()) > 700


def test_clip_is_frozen_and_bert_is_not(load_parity: Callable) -> None:
    """As in the authors' training: BERT is fine-tuned, CLIP is frozen, and SAM's encoder is trained in both."""
    for name, trained in (("bert_tiny", True), ("clip_tiny", False)):
        model = load_parity(name).model
        assert all(parameter.requires_grad is trained for parameter in model.text_encoder.parameters())
        assert all(parameter.requires_grad for parameter in model.sam.vision_encoder.parameters())


@pytest.mark.parametrize(("name", "number"), CASES)
def test_bfloat16(load_parity: Callable, load_case: Callable, name: str, number: int) -> None:
    """In bfloat16, logits and masks stay near the reference, and every output is bfloat16."""
    case, _ = load_case(name, number)
    model = load_parity(name).model.to(torch.bfloat16)
    with torch.no_grad():
        output = model(case["pixel_values"].bfloat16(), case["input_ids"], case["attention_mask"])
    assert {value.dtype for value in output.values()} == {torch.bfloat16}
    logits, reference = output.mask_logits.float(), case["mask_logits"]
    error = (logits - reference).square().mean().sqrt() / reference.square().mean().sqrt()
    agreement = ((logits >= 0) == (reference >= 0)).float().mean()
    assert error <= BF16_LOGIT_TOLERANCE
    assert agreement >= BF16_MASK_AGREEMENT
