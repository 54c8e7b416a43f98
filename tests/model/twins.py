"""Slow reference implementations in NumPy, and helpers for tests of the model."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor, nn

from refersam.model.deformable_attention import DeformableAttention


def randomise(module: nn.Module, scale: float = 0.5) -> nn.Module:
    """Fill every parameter with normally distributed numbers."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=scale)
    return module.eval()


def as_array(tensor: Tensor) -> np.ndarray:
    """Return a tensor in double precision."""
    return tensor.detach().double().numpy()


def linear(layer: nn.Linear, inputs: np.ndarray) -> np.ndarray:
    """Return a linear layer in double precision."""
    return inputs @ as_array(layer.weight).T + as_array(layer.bias)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Compute the softmax over the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def bilinear(grid: np.ndarray, x: float, y: float) -> np.ndarray:
    """Sample (height, width, channels) at (x, y) in [0, 1]; cells outside are zero."""
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
    """Compute deformable attention in loops over queries, heads, levels and points."""
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


def relative_error(ours: Tensor, reference: Tensor) -> float:
    """Return the largest difference by the largest reference value; shapes must be equal."""
    assert ours.shape == reference.shape
    return ((ours - reference).abs().max() / reference.abs().max()).item()
