"""Initialisation for training: the distribution of every parameter; loaded parameters are not changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.sam.modeling_sam import SamLayerNorm

from refersam import ReferSamConfig, ReferSamModel
from refersam.model.adapter import Injector
from refersam.model.deformable_attention import DeformableAttention, compass_offsets
from refersam.model.fusion import Fusion
from refersam.model.initialization import initialize
from refersam.model.pyramid import PyramidPositions


def test_initialisation(small_config: Callable) -> None:
    """A new model is initialised as documented ("Initialisation for training")."""
    config = small_config(initializer_range=0.02, injection_gate_init=1e-6)
    model = ReferSamModel(config)
    for part in (model.interactor, model.prompter):
        inside_attention = {
            id(layer)
            for module in part.modules()
            if isinstance(module, DeformableAttention)
            for layer in module.children()
        }
        for name, layer in part.named_modules():
            if isinstance(layer, nn.Linear) and id(layer) not in inside_attention:
                assert layer.weight.abs().max() <= 0.04, name  # cut at two deviations
                assert 0.014 < layer.weight.std() < 0.021, name  # 0.88 of 0.02, as it is cut
                assert not layer.bias.any(), name
            elif isinstance(layer, nn.Conv2d) and layer is not model.prompter.mask_scaling:
                fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels
                assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.2), name
                assert layer.bias is None or not layer.bias.any(), name
            elif isinstance(layer, nn.LayerNorm | nn.GroupNorm):
                assert (layer.weight == 1).all(), name
                assert not layer.bias.any(), name
            elif isinstance(layer, DeformableAttention):
                check_deformable_start(layer, config.deformable_num_points)
            elif isinstance(layer, PyramidPositions):
                assert layer.level_embedding.std().item() == pytest.approx(1, rel=0.25), name
            elif isinstance(layer, Injector):
                assert torch.equal(layer.gate, torch.full_like(layer.gate, 1e-6)), name
            elif isinstance(layer, Fusion):
                assert (layer.text_gate == 1).all(), name
                assert (layer.pyramid_gate == 1).all(), name
    for tokens in (model.interactor.context_tokens, model.prompter.sparse_tokens, model.prompter.token_positions):
        assert tokens.std().item() == pytest.approx(1, rel=0.25)
    assert model.prompter.mask_scaling.weight.item() == 1
    assert model.prompter.mask_scaling.bias.item() == 0
    assert model.sam.vision_encoder.pos_embed.std().item() == pytest.approx(0.02, rel=0.15)
    fourier = model.sam.prompt_encoder.shared_embedding.positional_embedding
    assert fourier.std().item() == pytest.approx(1, rel=0.4)
    for layer in model.sam.vision_encoder.layers:  # transformers' default of 1e-10 would let nothing through
        assert layer.mlp.lin1.weight.std().item() == pytest.approx(0.02, rel=0.1)


def check_deformable_start(layer: DeformableAttention, num_points: int) -> None:
    """Offsets have compass directions, all samples have equal weights, and projections are Xavier uniform."""
    assert not layer.sampling_offsets.weight.any()
    start = compass_offsets(layer.num_heads, layer.num_levels, num_points)
    assert torch.equal(layer.sampling_offsets.bias, start)
    assert not layer.attention_weights.weight.any()
    assert not layer.attention_weights.bias.any()
    for projection in (layer.value_proj, layer.output_proj):
        bound = math.sqrt(6 / sum(projection.weight.shape))
        assert 0.95 * bound < projection.weight.abs().max() <= bound
        assert projection.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert not projection.bias.any()


def test_presets_gates() -> None:
    """The tiny preset has open injector gates, since its ViT is not pretrained."""
    model = ReferSamModel(ReferSamConfig.from_preset("tiny"))
    gates = [interaction.injector.gate for interaction in model.interactor.interactions]
    assert len(gates) == 4
    assert all(torch.equal(gate, torch.full_like(gate, 0.01)) for gate in gates)
    assert model.sam.object_score_head is not None


def test_initialisation_of_sams_heads(small_config: Callable[..., Any]) -> None:
    """PyTorch's initialisation of linear and transposed layers, normal convolutions and embeddings."""
    sam = ReferSamModel(small_config(object_score_head=True)).sam
    checked = {id(sam.prompt_encoder.shared_embedding.positional_embedding)}
    for part in (sam.prompt_encoder, sam.mask_decoder, sam.object_score_head):
        for name, layer in part.named_modules():
            weight, deviation = getattr(layer, "weight", None), None
            if isinstance(layer, nn.Linear) and part is not sam.prompt_encoder:
                assert weight.abs().max() <= 1 / math.sqrt(layer.in_features), name
                deviation = 1 / math.sqrt(3 * layer.in_features)
            elif isinstance(layer, nn.Conv2d):
                deviation = math.sqrt(2 / (layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels))
            elif isinstance(layer, nn.ConvTranspose2d):
                deviation = 1 / math.sqrt(3 * layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1])
            elif isinstance(layer, nn.Embedding):
                deviation = 1.0
            elif isinstance(layer, nn.LayerNorm | SamLayerNorm):
                assert (weight == 1).all(), name
            else:
                continue
            checked |= {id(parameter) for parameter in layer.parameters(recurse=False)}
            assert getattr(layer, "bias", None) is None or not layer.bias.any(), name
            if deviation is not None and weight.numel() > 20:
                assert weight.std().item() == pytest.approx(deviation, rel=5 / math.sqrt(weight.numel())), name
        assert {id(parameter) for parameter in part.parameters()} <= checked


def test_loaded_parameters_stay() -> None:
    """transformers marks them; all other parameters of the block are initialised."""
    block = Fusion(text_size=8, hidden_size=8, attention_size=8, num_heads=2, ffn_ratio=2.0, gate_init=0.5)
    with torch.no_grad():
        for gate in (block.text_gate, block.pyramid_gate):
            gate.fill_(7.0)
        block.text_gate._is_hf_initialized = True  # type: ignore[attr-defined]
        initialize(block, 0.02)
    assert block.text_gate.tolist() == [7.0] * 8
    assert block.pyramid_gate.tolist() == [0.5] * 8
    norm = nn.LayerNorm(4)
    with torch.no_grad():
        norm.weight.fill_(7.0)
        norm.weight._is_hf_initialized = True  # type: ignore[attr-defined]
        norm.bias.fill_(7.0)
        initialize(norm, 0.02)
    assert (norm.weight.tolist(), norm.bias.tolist()) == ([7.0] * 4, [0.0] * 4)


def test_containers_are_left_alone() -> None:
    """A module without parameters changes neither its children nor the random generator."""
    container = nn.Sequential(nn.GELU(), nn.Linear(2, 2))
    weight, state = container[1].weight.clone(), torch.get_rng_state()
    initialize(container, 0.02)
    assert torch.equal(container[1].weight, weight)
    assert torch.equal(state, torch.get_rng_state())
