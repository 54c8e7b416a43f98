"""Optimizers: learning rate and weight decay of each parameter; the schedule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from refersam import ReferSamConfig, ReferSamModel
from refersam.training.optimization import CpuMuon, build_optimizers, lr_factor, lr_scale
from refersam.training.settings import OptimizerSettings


def test_rate_factor_by_hand() -> None:
    """100 steps, 4 of warm-up, decay from step 60 on."""
    settings = OptimizerSettings(warmup_steps=4, decay_from=0.6)
    expected = {0: 0.25, 1: 0.5, 3: 1.0, 4: 1.0, 60: 1.0, 70: 0.75, 80: 0.5, 99: 0.025, 100: 0.0, 150: 0.0}
    assert {step: lr_factor(step, 100, settings) for step in expected} == pytest.approx(expected)
    square = OptimizerSettings(warmup_steps=0, decay_from=0.0, decay_power=2.0)
    assert [lr_factor(step, 10, square) for step in (0, 5, 9)] == pytest.approx([1.0, 0.25, 0.01])


def test_weight_decay_is_on_matrices_and_kernels_alone() -> None:
    """Each trained parameter is in one group; norms, biases, gates, tokens and embeddings have no weight decay."""
    model = ReferSamModel(ReferSamConfig.from_preset("tiny"))
    (optimizer,) = build_optimizers(model, OptimizerSettings(learning_rate=0.3, weight_decay=0.07, beta2=0.9))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, plain = ({names[id(parameter)] for parameter in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.07, 0.0]
    assert {(group["lr"], group["betas"]) for group in optimizer.param_groups} == {(0.3, (0.9, 0.9))}
    assert decayed | plain == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not decayed & plain
    assert all(name.endswith("weight") for name in decayed)
    assert all(dict(model.named_parameters())[name].ndim >= 2 for name in decayed)
    parts = ("norm", "bias", "embeddings.weight", "gate", "tokens", "level_embedding", "pos_embed", "rel_pos")
    for name in model.state_dict():
        if name in decayed:
            assert not any(part in name for part in parts), name
    kinds = {name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm | nn.GroupNorm)}
    assert {f"{name}.weight" for name in kinds} & plain
    assert "interactor.context_tokens" in plain
    assert "text_encoder.embeddings.word_embeddings.weight" in plain


def test_muon_takes_the_matrices_of_linear_layers() -> None:
    """Each trained parameter is in one group of one optimizer; AdamW trains kernels, embeddings and vectors."""
    model = ReferSamModel(ReferSamConfig.from_preset("tiny"))
    muon, adamw = build_optimizers(
        model, OptimizerSettings(learning_rate=0.3, muon_learning_rate=0.2, weight_decay=0.07)
    )
    assert (muon.param_groups[0]["lr"], muon.param_groups[0]["weight_decay"]) == (0.2, 0.07)
    assert [group["lr"] for group in adamw.param_groups] == [0.3, 0.3]
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    taken = [id(parameter) for parameter in muon.param_groups[0]["params"]]
    others = [id(parameter) for group in adamw.param_groups for parameter in group["params"]]
    assert set(taken) <= linear
    assert all(min(parameter.shape) == 1 for parameter in model.parameters() if id(parameter) in linear - set(taken))
    assert sorted(taken + others) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_frozen_parameters_are_in_no_group() -> None:
    """CLIP's text encoder, as in the paper."""
    model = ReferSamModel(ReferSamConfig.from_preset("tiny", "clip", freeze_text_encoder=True))
    (optimizer,) = build_optimizers(model, OptimizerSettings())
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert not trained & {id(parameter) for parameter in model.text_encoder.parameters()}
    assert trained


def test_rate_shares_by_hand() -> None:
    """Text encoder, ViT by depth, all others; the neck has the full scale of the image encoder."""
    settings = OptimizerSettings(
        image_encoder_lr_scale=0.1, text_encoder_lr_scale=0.5, spatial_prior_lr_scale=0.3, layer_decay=0.8
    )
    expected = {
        "text_encoder.encoder.layer.0.output.dense.weight": 0.5,
        "sam.vision_encoder.neck.conv1.weight": 0.1,
        "sam.vision_encoder.layers.11.attn.qkv.weight": 0.1 * 0.8,
        "sam.vision_encoder.layers.0.attn.rel_pos_h": 0.1 * 0.8**12,
        "sam.vision_encoder.pos_embed": 0.1 * 0.8**13,
        "sam.vision_encoder.patch_embed.projection.weight": 0.1 * 0.8**13,
        "sam.mask_decoder.iou_token.weight": 1.0,
        "interactor.spatial_prior.stem.0.weight": 0.3,
        "interactor.context_tokens": 1.0,
    }
    assert {name: lr_scale(name, 12, settings) for name in expected} == pytest.approx(expected)


def test_rates_of_all_groups() -> None:
    """Each trained parameter is in one group, that of its learning rate."""
    model = ReferSamModel(ReferSamConfig.from_preset("tiny"))
    settings = OptimizerSettings(
        learning_rate=0.3, image_encoder_lr_scale=0.1, text_encoder_lr_scale=0.5, layer_decay=0.8
    )
    (optimizer,) = build_optimizers(model, settings)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert set(rates) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, rate in rates.items():
        assert rate == pytest.approx(0.3 * lr_scale(name, 8, settings)), name


def test_warm_up_from_a_share() -> None:
    """Starts at a thousandth of the peak, multiplied by the decay."""
    settings = OptimizerSettings(warmup_steps=10, warmup_from=0.001, decay_from=0.0, decay_power=0.9)
    assert lr_factor(4, 100, settings) == pytest.approx((0.001 + 0.999 * 0.5) * 0.96**0.9)
    assert lr_factor(50, 100, settings) == pytest.approx(0.5**0.9)


@pytest.mark.parametrize("shape", [(6, 6), (3, 8), (9, 4)])
def test_muon_on_a_cpu_is_not_rounded(shape: tuple[int, int]) -> None:
    """The first step is momentum and Newton-Schulz in full precision; torch's differs by bfloat16 rounding."""
    rng = np.random.default_rng(0)
    start, gradient = rng.standard_normal((2, *shape)).astype(np.float32)
    taken = {}
    for kind in (CpuMuon, torch.optim.Muon):
        weight = nn.Parameter(torch.tensor(start))
        weight.grad = torch.tensor(gradient)
        kind([weight], lr=0.5, weight_decay=0.1, adjust_lr_fn="match_rms_adamw").step()
        taken[kind] = weight.detach().numpy()
        np.testing.assert_array_equal(weight.grad, gradient)
    update = gradient.astype(np.float64) * (0.05 + 0.95 * 0.05)
    update /= np.linalg.norm(update)
    for _ in range(5):
        gram = update @ update.T
        update = 3.4445 * update + (-4.775 * gram + 2.0315 * gram @ gram) @ update
    expected = start * (1 - 0.5 * 0.1) - 0.5 * 0.2 * max(shape) ** 0.5 * update
    np.testing.assert_allclose(taken[CpuMuon], expected, atol=2e-6)
    assert 1e-4 < np.abs(taken[torch.optim.Muon] - expected).max() < 0.02
