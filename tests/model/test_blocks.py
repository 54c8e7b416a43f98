"""Each block against a slow, obvious twin, a formula written out, or transformers' own SAM."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.sam.configuration_sam import SamConfig
from transformers.models.sam.modeling_sam import SamModel

from refersam import ReferSamModel
from refersam.errors import MissingExtraError
from refersam.model.adapter import Extractor, Injector
from refersam.model.attention import Attention, LevelAttention
from refersam.model.deformable_attention import (
    TRITON_SWITCH,
    DeformableAttention,
    compass_offsets,
    run_kernel,
    sample_maps,
    triton_kernel,
)
from refersam.model.interactor import MaskFeatures, repeat_per_phrase
from refersam.model.pyramid import PyramidGeometry, PyramidPositions, cell_centres, sine_positions, tokens_to_map
from refersam.model.sam import Sam
from refersam.model.spatial_prior import SpatialPrior
from refersam.model.text_encoder import sentence_positions

CPU = torch.device("cpu")


def randomise(module: nn.Module, scale: float = 0.5) -> nn.Module:
    """Fill every parameter with normal numbers."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=scale)
    return module.eval()


def as_array(tensor: Tensor) -> np.ndarray:
    """A tensor in double precision."""
    return tensor.detach().double().numpy()


def linear(layer: nn.Linear, inputs: np.ndarray) -> np.ndarray:
    """A linear layer in double precision."""
    return inputs @ as_array(layer.weight).T + as_array(layer.bias)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


# Deformable attention


def bilinear(grid: np.ndarray, x: float, y: float) -> np.ndarray:
    """(height, width, channels) at (x, y) in [0, 1]; cells outside are zero."""
    height, width, channels = grid.shape
    column, row = x * width - 0.5, y * height - 0.5
    result = np.zeros(channels)
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < height and 0 <= j < width:
                result += (1 - abs(row - i)) * (1 - abs(column - j)) * grid[i, j]
    return result


def slow_deformable(
    layer: DeformableAttention, query: Tensor, value: Tensor, points: Tensor, sizes: tuple[tuple[int, int], ...]
) -> np.ndarray:
    """One query, head, level and point after the other."""
    queries, reference = as_array(query), as_array(points)
    values = linear(layer.value_proj, as_array(value))
    batch, count = queries.shape[:2]
    heads, levels, num_points = layer.num_heads, layer.num_levels, layer.num_points
    head_width = values.shape[2] // heads
    offsets = linear(layer.sampling_offsets, queries).reshape(batch, count, heads, levels, num_points, 2)
    weights = softmax(linear(layer.attention_weights, queries).reshape(batch, count, heads, levels * num_points))
    mixed = np.zeros((batch, count, heads * head_width))
    for b in range(batch):
        for q in range(count):
            for head in range(heads):
                channels = slice(head * head_width, (head + 1) * head_width)
                start = 0
                for level, (height, width) in enumerate(sizes):
                    grid = values[b, start : start + height * width, channels].reshape(height, width, head_width)
                    start += height * width
                    for point in range(num_points):
                        x = reference[q, 0] + offsets[b, q, head, level, point, 0] / width
                        y = reference[q, 1] + offsets[b, q, head, level, point, 1] / height
                        weight = weights[b, q, head, level * num_points + point]
                        mixed[b, q, channels] += weight * bilinear(grid, x, y)
    return linear(layer.output_proj, mixed)


@pytest.mark.parametrize("sizes", [((4, 6), (2, 3), (1, 2)), ((3, 5),)])
@pytest.mark.parametrize("with_gradients", [True, False], ids=["samples maps", "looks up"])
@pytest.mark.parametrize("reach", [1.0, 20.0], ids=["near", "far outside"])
def test_deformable_attention_equals_its_slow_twin(
    sizes: tuple[tuple[int, int], ...], with_gradients: bool, reach: float
) -> None:
    """Layouts of offsets, weights and heads, the sampling and its zero border are as described, in both ways."""
    layer = DeformableAttention(hidden_size=12, num_heads=3, num_levels=len(sizes), num_points=2, value_ratio=0.5)
    randomise(layer)
    length = sum(height * width for height, width in sizes)
    query, value, points = torch.randn(2, 7, 12), torch.randn(2, length, 12), torch.rand(7, 2)
    with torch.set_grad_enabled(with_gradients):
        layer.sampling_offsets.weight.data *= reach
        ours = layer(query, value, points, sizes).detach()
    with torch.no_grad():
        np.testing.assert_allclose(as_array(ours), slow_deformable(layer, query, value, points, sizes), atol=3e-5)


@torch.no_grad()
def test_deformable_attention_in_half_precision_stays_near() -> None:
    """Places are computed in float32, weights and values rounded; what is no number stays so, and harms no other."""
    sizes = ((16, 16), (8, 8))
    layer = DeformableAttention(hidden_size=16, num_heads=4, num_levels=2, num_points=4, value_ratio=0.5)
    randomise(layer)
    layer.bfloat16()  # both have the same rounded weights
    query, value = torch.randn(2, 9, 16).bfloat16(), torch.randn(2, 320, 16).bfloat16()
    points = torch.rand(9, 2)
    rounded = layer(query, value, points, sizes).float()
    exact = layer.float()(query.float(), value.float(), points, sizes)
    assert (rounded - exact).norm() <= 0.05 * exact.norm()
    query[0, 0] = torch.nan
    broken = layer(query.float(), value.float(), points, sizes)
    assert broken[0, 0].isnan().all()
    assert broken[0, 1:].isfinite().all()
    assert broken[1].isfinite().all()


@torch.no_grad()
def test_a_kernel_gets_what_it_needs_to_sample_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """In deformops' layout: sizes and beginnings of the levels as tensors; the switch chooses it, on CUDA alone."""
    sizes = ((4, 6), (2, 3), (1, 2))
    seen = []

    def msda(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        """As deformops documents it, level by level."""
        seen.append((shapes.tolist(), starts.tolist(), locations.shape, weights.shape))
        parts = []
        for level, ((height, width), start) in enumerate(zip(shapes.tolist(), starts.tolist(), strict=True)):
            cells, one = value[:, start : start + height * width], slice(level, level + 1)
            parts.append(sample_maps(cells, locations[:, :, :, one], weights[:, :, :, one], ((height, width),)))
        return torch.stack(parts).sum(dim=0)

    registry = SimpleNamespace(msda=msda)
    monkeypatch.setitem(sys.modules, "deformops", SimpleNamespace(registry=registry))
    monkeypatch.setitem(sys.modules, "deformops.registry", registry)
    monkeypatch.setenv(TRITON_SWITCH, "0")
    assert triton_kernel() is None
    monkeypatch.setenv(TRITON_SWITCH, "1")
    assert triton_kernel() is msda
    values, weights = torch.randn(2, 32, 3, 4), torch.rand(2, 5, 3, 3, 2)
    locations = torch.rand(2, 5, 3, 3, 2, 2)
    torch.testing.assert_close(
        run_kernel(msda, values, locations, weights, sizes), sample_maps(values, locations, weights, sizes)
    )
    assert seen == [([[4, 6], [2, 3], [1, 2]], [0, 24, 30], locations.shape, weights.shape)]
    layer = DeformableAttention(hidden_size=12, num_heads=3, num_levels=3, num_points=2, value_ratio=0.5)
    layer(torch.randn(1, 2, 12), torch.randn(1, 32, 12), torch.rand(2, 2), sizes)
    assert len(seen) == 1  # not on a CPU


def test_the_switch_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    monkeypatch.setenv(TRITON_SWITCH, "1")
    monkeypatch.setitem(sys.modules, "deformops", None)
    with pytest.raises(MissingExtraError, match=r"REFERSAM_TRITON=1 needs the package deformops.*\.\[gpu\]"):
        DeformableAttention(hidden_size=12, num_heads=3, num_levels=1, num_points=2, value_ratio=0.5)


@torch.no_grad()
def test_deformable_attention_of_cell_centres_without_offsets_is_the_identity() -> None:
    """With offsets 0 and identity projections, a cell's centre gives that cell."""
    layer = DeformableAttention(hidden_size=4, num_heads=2, num_levels=1, num_points=3, value_ratio=1.0)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    nn.init.eye_(layer.value_proj.weight)
    nn.init.eye_(layer.output_proj.weight)
    value = torch.randn(1, 15, 4)
    ours = layer(torch.randn(1, 15, 4), value, cell_centres((3, 5), CPU), ((3, 5),))
    torch.testing.assert_close(ours, value, atol=1e-5, rtol=0)


def test_compass_offsets_by_hand() -> None:
    """Eight heads look east, south-east, south, ... at distance 1, 2 (y grows downwards), alike on every level."""
    compass = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    expected = [[[[x * distance, y * distance] for distance in (1, 2)] for _level in range(3)] for x, y in compass]
    offsets = compass_offsets(8, 3, 2).reshape(8, 3, 2, 2)
    torch.testing.assert_close(offsets, torch.tensor(expected, dtype=torch.float32), atol=1e-5, rtol=0)


# Attention


def slow_attention(query: np.ndarray, key: np.ndarray, value: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """One head: (Nq, d), (Nk, d), (Nk, d) and which keys may be attended to -> (Nq, d)."""
    result = np.zeros((len(query), value.shape[1]))
    for q in range(len(query)):
        scores = np.array([query[q] @ key[k] / math.sqrt(key.shape[1]) for k in range(len(key)) if allowed[k]])
        for weight, row in zip(softmax(scores), value[allowed], strict=True):
            result[q] += weight * row
    return result


@torch.no_grad()
def test_attention_equals_its_slow_twin() -> None:
    """Heads, scale and mask, between streams of different widths."""
    layer = Attention(query_size=10, key_size=6, hidden_size=8, num_heads=2)
    randomise(layer)
    query, key, value = torch.randn(2, 3, 10), torch.randn(2, 5, 6), torch.randn(2, 5, 6)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1]]).bool()
    q, k, v = (
        linear(projection, as_array(inputs))
        for projection, inputs in ((layer.q_proj, query), (layer.k_proj, key), (layer.v_proj, value))
    )
    mixed = np.zeros((2, 3, 8))
    for b in range(2):
        for head in (slice(0, 4), slice(4, 8)):
            mixed[b, :, head] = slow_attention(q[b, :, head], k[b, :, head], v[b, :, head], mask[b].numpy())
    np.testing.assert_allclose(as_array(layer(query, key, value, mask)), linear(layer.out_proj, mixed), atol=1e-5)


@torch.no_grad()
def test_level_attention_equals_its_slow_twin() -> None:
    """A softmax in each level; then each head mixes the levels by weights that the query's input gives."""
    layer = LevelAttention(query_size=10, key_size=6, hidden_size=8, num_heads=2)
    randomise(layer)
    lengths = [6, 3, 2]
    query, key, value = torch.randn(2, 4, 10), torch.randn(2, 11, 6), torch.randn(2, 11, 6)
    q, k, v = (
        linear(projection, as_array(inputs))
        for projection, inputs in ((layer.q_proj, query), (layer.k_proj, key), (layer.v_proj, value))
    )
    weights = softmax(linear(layer.level_weights, as_array(query)).reshape(2, 4, 2, 3))  # (B, Nq, heads, levels)
    mixed = np.zeros((2, 4, 8))
    for b in range(2):
        for index, head in enumerate((slice(0, 4), slice(4, 8))):
            start = 0
            for level, length in enumerate(lengths):
                tokens = slice(start, start + length)
                start += length
                seen = slow_attention(q[b, :, head], k[b, tokens, head], v[b, tokens, head], np.ones(length, bool))
                mixed[b, :, head] += weights[b, :, index, level, None] * seen
    ours = layer(query, key, value, lengths)
    np.testing.assert_allclose(as_array(ours), linear(layer.out_proj, mixed), atol=1e-5)


# Geometry and positions


def test_sine_positions_by_formula() -> None:
    """Each channel of each cell: y in the first half, x in the second, sine on even and cosine on odd channels."""
    rows, columns, width = 3, 5, 12
    half = width // 2
    ours = sine_positions((rows, columns), width, CPU).reshape(rows, columns, width)
    for row in range(rows):
        for column in range(columns):
            for k in range(half):
                frequency = 10000 ** (-2 * (k // 2) / half)
                function = math.sin if k % 2 == 0 else math.cos
                y = (row + 1) / (rows + 1e-6) * 2 * math.pi
                x = (column + 1) / (columns + 1e-6) * 2 * math.pi
                assert ours[row, column, k].item() == pytest.approx(function(y * frequency), abs=2e-6)
                assert ours[row, column, half + k].item() == pytest.approx(function(x * frequency), abs=2e-6)


def test_pyramid_positions_add_a_level_embedding() -> None:
    """The sequence holds strides 8, 16, 32, each with its own embedding."""
    geometry = PyramidGeometry.of_image(32, 64, CPU)
    layer = PyramidPositions(hidden_size=8)
    nn.init.normal_(layer.level_embedding)
    ours = geometry.split(layer(geometry))
    for level, size in enumerate([(4, 8), (2, 4), (1, 2)]):
        expected = sine_positions(size, 8, CPU) + layer.level_embedding[level]
        torch.testing.assert_close(ours[level][0], expected)


def test_geometry_by_hand() -> None:
    """Sizes, lengths and cell centres (x first, row-major) of a picture of 32 x 64 pixels."""
    geometry = PyramidGeometry.of_image(32, 64, CPU)
    assert geometry.level_sizes == ((4, 8), (2, 4), (1, 2))
    assert geometry.level_lengths == [32, 8, 2]
    assert geometry.grid_size == (2, 4)
    grid = [[x, y] for y in (0.25, 0.75) for x in (0.125, 0.375, 0.625, 0.875)]
    assert geometry.grid_reference_points.tolist() == grid
    assert geometry.reference_points.shape == (42, 2)
    assert geometry.reference_points[0].tolist() == [1 / 16, 1 / 8]
    assert geometry.reference_points[32:40].tolist() == grid
    assert geometry.reference_points[40:].tolist() == [[0.25, 0.5], [0.75, 0.5]]


def test_tokens_and_maps() -> None:
    """Tokens are row-major: token 3 of a (2, 3) map is row 1, column 0."""
    tokens = torch.arange(12).reshape(1, 6, 2)
    feature_map = tokens_to_map(tokens, (2, 3))
    assert feature_map.shape == (1, 2, 2, 3)
    assert feature_map[0, :, 1, 0].tolist() == tokens[0, 3].tolist()
    geometry = PyramidGeometry.of_image(32, 64, CPU)
    pyramid = torch.randn(2, 42, 3)
    maps = geometry.to_maps(pyramid)
    assert [tuple(level.shape) for level in maps] == [(2, 3, 4, 8), (2, 3, 2, 4), (2, 3, 1, 2)]
    assert torch.equal(maps[1][1, :, 1, 2], pyramid[1, 32 + 6])


def test_sentence_positions_by_hand() -> None:
    """BERT's sentence token is the first; CLIP's the last one attended to."""
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    assert sentence_positions("bert", mask).tolist() == [0, 0, 0]
    assert sentence_positions("clip", mask).tolist() == [2, 3, 0]


def test_repeat_per_phrase() -> None:
    """Each picture's features stand together; nothing is copied where there is one phrase per picture."""
    features = torch.tensor([[1.0], [2.0]])
    assert repeat_per_phrase(features, 6).flatten().tolist() == [1, 1, 1, 2, 2, 2]
    assert repeat_per_phrase(features, 2) is features


# Adapter and spatial prior

ADAPTER = {"hidden_size": 12, "num_heads": 3, "num_points": 2, "value_ratio": 0.5}


@torch.no_grad()
def test_injector_by_formula() -> None:
    """v + gamma * MSDA(LN(v) on the grid, pyramid); a closed gate changes nothing."""
    geometry = PyramidGeometry.of_image(32, 64, CPU)
    layer = Injector(**ADAPTER)
    randomise(layer)
    patches, pyramid = torch.randn(2, 8, 12), torch.randn(2, 42, 12)
    query = F.layer_norm(patches, (12,), layer.query_norm.weight, layer.query_norm.bias, 1e-6)
    sampled = slow_deformable(layer.attention, query, pyramid, geometry.grid_reference_points, geometry.level_sizes)
    expected = as_array(patches) + as_array(layer.gate) * sampled
    np.testing.assert_allclose(as_array(layer(patches, pyramid, geometry)), expected, atol=2e-5)
    nn.init.zeros_(layer.gate)
    assert torch.equal(layer(patches, pyramid, geometry), patches)


@torch.no_grad()
def test_extractor_by_formula() -> None:
    """LN(p + MSDA(p on its own cell centres, LN(v)))."""
    geometry = PyramidGeometry.of_image(32, 64, CPU)
    layer = Extractor(**ADAPTER)
    randomise(layer)
    patches, pyramid = torch.randn(1, 8, 12), torch.randn(1, 42, 12)
    value = F.layer_norm(patches, (12,), layer.value_norm.weight, layer.value_norm.bias, 1e-6)
    sampled = slow_deformable(layer.attention, pyramid, value, geometry.reference_points, ((2, 4),))
    total = pyramid + torch.from_numpy(sampled).float()
    expected = F.layer_norm(total, (12,), layer.output_norm.weight, layer.output_norm.bias, 1e-6)
    torch.testing.assert_close(layer(pyramid, patches, geometry), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_spatial_prior_shapes_and_norms() -> None:
    """Widths n, 2n, 4n, 4n, projected to D; no bias but in the projections; every norm has one group."""
    layer = SpatialPrior(channels=4, hidden_size=12)
    stride4, pyramid = layer(torch.randn(2, 3, 32, 64))
    assert stride4.shape == (2, 4, 8, 16)
    assert (stride4 >= 0).all()
    assert pyramid.shape == (2, 42, 12)
    convolutions = [module for module in layer.modules() if isinstance(module, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [4, 4, 4, 8, 16, 16, 12, 12, 12]
    assert [c.stride[0] for c in convolutions] == [2, 1, 1, 2, 2, 2, 1, 1, 1]
    assert [c.bias is not None for c in convolutions] == [False] * 6 + [True] * 3
    norms = [module for module in layer.modules() if isinstance(module, nn.GroupNorm)]
    assert {(norm.num_groups, norm.eps) for norm in norms} == {(1, 1e-6)}


@torch.no_grad()
def test_mask_features_share_the_prior_between_phrases() -> None:
    """One picture's prior with two phrases' levels gives what each gets alone."""
    layer = MaskFeatures(prior_channels=4, hidden_size=8)
    randomise(layer)
    prior, level8 = torch.randn(1, 4, 8, 16), torch.randn(2, 8, 4, 8)
    detail = layer.detail(prior)
    together = layer(detail, level8)
    assert together.shape == (2, 8, 8, 16)
    torch.testing.assert_close(together, torch.cat([layer(detail, level8[:1]), layer(detail, level8[1:])]))
    assert (together[0] - together[1]).abs().max() > 0.1


# SAM's parts against transformers' own model


@pytest.fixture
def sam(small_config: Callable) -> Sam:
    """SAM's parts with lively random weights."""
    return randomise(ReferSamModel(small_config()).sam, scale=0.2)


@pytest.fixture
def whole_sam(sam: Sam, small_config: Callable) -> SamModel:
    """transformers' SamModel with the same weights."""
    config = small_config()
    model = SamModel(
        SamConfig(
            vision_config=config.vision_config,
            prompt_encoder_config=config.prompt_encoder_config,
            mask_decoder_config=config.mask_decoder_config,
        )
    ).eval()
    matrix = sam.prompt_encoder.shared_embedding.positional_embedding
    weights = {**sam.state_dict(), "shared_image_embedding.positional_embedding": matrix}
    model.load_state_dict(weights, strict=True)
    return model


def relative_error(ours: Tensor, reference: Tensor) -> float:
    """Largest difference by largest reference value; shapes must be equal."""
    assert ours.shape == reference.shape
    return ((ours - reference).abs().max() / reference.abs().max()).item()


@torch.no_grad()
def test_sam_encoder_in_groups_equals_transformers(sam: Sam) -> None:
    """Patches, groups of layers and neck give what SamVisionEncoder gives at its own size (windows, global layers)."""
    pixels = torch.randn(2, 3, 64, 64)
    patches = sam.embed_patches(pixels)
    for first, last in ((0, 0), (1, 2), (3, 3)):
        patches = sam.run_layers(patches, first, last)
    assert relative_error(sam.neck(patches), sam.vision_encoder(pixels).last_hidden_state) < 1e-5


@torch.no_grad()
def test_positions_are_resized_bilinearly_at_cell_centres(sam: Sam) -> None:
    """A ramp over the columns stays one on twice as many: a quarter of a step inwards from the border's value."""
    ramp = torch.arange(4.0).reshape(1, 1, 4, 1).expand(1, 4, 4, 48)
    sam.vision_encoder.pos_embed.copy_(ramp)
    nn.init.zeros_(sam.vision_encoder.patch_embed.projection.weight)
    nn.init.zeros_(sam.vision_encoder.patch_embed.projection.bias)
    wide = sam.embed_patches(torch.randn(1, 3, 64, 128))
    assert wide.shape == (1, 4, 8, 48)
    expected = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    torch.testing.assert_close(wide[0, 2, :, 5], expected)


@torch.no_grad()
def test_fourier_positions_equal_transformers(sam: Sam, whole_sam: SamModel) -> None:
    """On a square grid, which is all that transformers can do; on others, each cell by the formula."""
    theirs = whole_sam.get_image_wide_positional_embeddings()  # (1, C, 4, 4)
    assert relative_error(sam.image_positions((4, 4), torch.float32)[0, 0], theirs[0].flatten(1).T) < 1e-5
    ours = sam.image_positions((2, 3), torch.float32)[0, 0]
    matrix = as_array(sam.prompt_encoder.shared_embedding.positional_embedding)
    angle = 2 * math.pi * np.array([2 * 2.5 / 3 - 1, 2 * 0.5 / 2 - 1]) @ matrix  # row 0, column 2
    np.testing.assert_allclose(as_array(ours[2]), np.concatenate([np.sin(angle), np.cos(angle)]), atol=1e-5)


@pytest.mark.parametrize("num_sparse", [0, 3])
@torch.no_grad()
def test_mask_decoder_equals_transformers(sam: Sam, whole_sam: SamModel, num_sparse: int) -> None:
    """Mask prompt and decoder give the single mask and IoU of SAM's own, with and without sparse prompts."""
    image, sparse, mask = torch.randn(2, 32, 4, 4), torch.randn(2, num_sparse, 32), torch.randn(2, 1, 16, 16)
    dense = sam.embed_mask(mask)
    _, their_dense = whole_sam.prompt_encoder(None, None, None, mask)
    assert relative_error(dense, their_dense) < 1e-6
    logits, iou, score = sam.decode_mask(image, dense, sparse)
    decoded = whole_sam.mask_decoder(
        image_embeddings=image,
        image_positional_embeddings=whole_sam.get_image_wide_positional_embeddings().repeat(2, 1, 1, 1),
        sparse_prompt_embeddings=sparse.unsqueeze(1) if num_sparse else None,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    assert relative_error(logits, decoded[0][:, 0, 0]) < 1e-5
    assert relative_error(iou, decoded[1][:, 0, 0]) < 1e-5
    assert score is None


@torch.no_grad()
def test_no_dense_prompt_means_sams_no_mask_embedding(sam: Sam) -> None:
    """As SAM does when it gets no mask."""
    image, sparse = torch.randn(1, 32, 4, 4), torch.randn(1, 2, 32)
    none = sam.decode_mask(image, None, sparse)[0]
    explicit = sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(1, -1, 4, 4)
    torch.testing.assert_close(none, sam.decode_mask(image, explicit, sparse)[0])
    assert (none - sam.decode_mask(image, torch.zeros(1, 32, 4, 4), sparse)[0]).abs().max() > 1e-3
