"""Switches of training and ablations: removed parts, drop path, gradient checkpointing, frozen weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from refersam import ReferSamModel
from refersam.losses import ReferSamLoss
from refersam.model.depth import drop_path, layer_rates

ABLATIONS: dict[str, dict[str, Any]] = {
    "baseline": {"use_interactor": False, "use_prompter": False},
    "no interactor": {"use_interactor": False},
    "no prompter": {"use_prompter": False},
    "no dense prompt": {"use_dense_prompt": False},
    "no sparse prompts": {"num_sparse_tokens": 0},
    "no context tokens": {"num_context_tokens": 0},
    "guided filter": {"guided_filter_radius": 2},
}


def inputs() -> dict[str, torch.Tensor]:
    """Two images with two phrases each."""
    ids = torch.randint(3, 50, (4, 5))
    mask = torch.ones_like(ids)
    mask[1, 3:] = 0
    return {"pixel_values": torch.randn(2, 3, 64, 64), "input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("fields", ABLATIONS.values(), ids=ABLATIONS)
@pytest.mark.parametrize("text_encoder", ["bert", "clip"])
def test_every_ablation_trains_and_uses_the_phrase(
    small_config: Callable, text_encoder: str, fields: dict[str, Any]
) -> None:
    """Return a mask that depends on the phrase, a loss, and a gradient for the text encoder."""
    model = ReferSamModel(small_config(text_encoder, freeze_text_encoder=False, **fields)).train()
    batch = inputs()
    output = model(**batch)
    dense = fields.get("use_dense_prompt", True) and fields.get("use_prompter", True)
    assert (output.coarse_mask_logits is not None) == dense
    assert (output.mask_logits[0] - output.mask_logits[1]).abs().max() > 1e-4
    terms = ReferSamLoss(num_points=64)(output, torch.rand(4, 64, 64).round())
    assert ("coarse_mask" in terms) == dense
    terms["total"].backward()
    gradients = [p.grad.abs().max() for p in model.text_encoder.parameters() if p.grad is not None]
    assert max(gradients) > 0


@pytest.mark.parametrize("fields", ABLATIONS.values(), ids=ABLATIONS)
def test_ablations_are_saved_with_the_model(small_config: Callable, fields: dict[str, Any], tmp_path: Any) -> None:
    """A reloaded model has the same parts and outputs."""
    model = ReferSamModel(small_config(**fields)).eval()
    model.save_pretrained(tmp_path)
    batch = inputs()
    with torch.no_grad():
        expected, got = model(**batch), ReferSamModel.from_pretrained(tmp_path)(**batch)
    torch.testing.assert_close(got.mask_logits, expected.mask_logits, atol=0, rtol=0)


@pytest.mark.parametrize("fields", [{}, {"use_interactor": False}], ids=["interactor", "plain"])
def test_gradient_checkpointing_gives_the_same_gradients(small_config: Callable, fields: dict[str, Any]) -> None:
    """Bit for bit, also with drop path."""
    model = ReferSamModel(small_config(drop_path=0.5, **fields)).train()
    batch, gradients = inputs(), []
    for enabled in (False, True):
        model.interactor.gradient_checkpointing = enabled
        model.zero_grad()
        torch.manual_seed(3)
        model(**batch).mask_logits.square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_drop_path_by_hand() -> None:
    """A sample keeps its input, or gets the change scaled so that the expectation is unchanged."""
    before, after = torch.zeros(4000, 2), torch.ones(4000, 2)
    changed = drop_path(before, after, 0.25)
    assert changed.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert torch.equal(changed[:, 0], changed[:, 1])  # the whole sample
    assert changed.mean().item() == pytest.approx(1, abs=0.05)
    assert drop_path(before, after, 0.0) is after
    assert layer_rates(5, 0.4) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_drop_path_is_for_training_alone(small_config: Callable) -> None:
    """Off in evaluation; outputs differ between draws in training; a rate of 1 is rejected."""
    model, batch = ReferSamModel(small_config(drop_path=0.5)), inputs()
    with torch.no_grad():
        one, other = (model.eval()(**batch).mask_logits for _ in range(2))
        assert torch.equal(one, other)
        assert any(not torch.equal(model.train()(**batch).mask_logits, one) for _ in range(4))
    with pytest.raises(ValueError, match="drop_path must be at least 0 and below 1, but is 1"):
        small_config(drop_path=1.0)


def test_a_frozen_image_encoder_stays_as_it_is(small_config: Callable) -> None:
    """Also in training mode; the interactor is trained."""
    model = ReferSamModel(small_config(freeze_image_encoder=True)).train()
    assert not any(parameter.requires_grad for parameter in model.sam.vision_encoder.parameters())
    assert all(parameter.requires_grad for parameter in model.interactor.parameters())
