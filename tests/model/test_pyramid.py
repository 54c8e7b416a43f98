"""Geometry and positions of the pyramid: by hand, by formula, and for all image sizes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from refersam.config import SIZE_MULTIPLE
from refersam.model.pyramid import (
    PyramidGeometry,
    PyramidPositions,
    cell_centres,
    level_extents,
    map_to_tokens,
    sine_positions,
    tokens_to_map,
)

CPU = torch.device("cpu")


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
    """Sizes, lengths and cell centres (x first, row-major) of an image of 32 x 64 pixels."""
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


sides = st.integers(1, 12).map(lambda count: count * SIZE_MULTIPLE)


@given(height=sides, width=sides)
def test_levels_cover_the_image(height: int, width: int) -> None:
    """Each level's cells tile the image at its stride; extents are (width, height)."""
    geometry = PyramidGeometry.of_image(height, width, CPU)
    for (rows, columns), stride in zip(geometry.level_sizes, (8, 16, 32), strict=True):
        assert (rows * stride, columns * stride) == (height, width)
    assert geometry.level_lengths == [rows * columns for rows, columns in geometry.level_sizes]
    assert geometry.grid_size == (height // 16, width // 16)
    assert level_extents(geometry.level_sizes, CPU).tolist() == [[w, h] for h, w in geometry.level_sizes]


@given(height=sides, width=sides)
def test_reference_points_are_cell_centres(height: int, width: int) -> None:
    """Strictly inside the image; in pixels, half a stride off the cell's corner."""
    geometry = PyramidGeometry.of_image(height, width, CPU)
    points = geometry.reference_points
    assert points.shape == (sum(geometry.level_lengths), 2)
    assert points.min() > 0
    assert points.max() < 1
    pixels = points.double() * torch.tensor([width, height])
    for level, stride in zip(pixels.split(geometry.level_lengths), (8, 16, 32), strict=True):
        torch.testing.assert_close(level % stride, torch.full_like(level, stride / 2), rtol=0, atol=1e-2)
        assert len({(round(x), round(y)) for x, y in level.tolist()}) == len(level)
    torch.testing.assert_close(points.split(geometry.level_lengths)[1], geometry.grid_reference_points)


@given(height=sides, width=sides, batch=st.integers(1, 3))
def test_split_and_maps_round_trip(height: int, width: int, batch: int) -> None:
    """Levels and maps contain every token once, in order; concatenated they give the pyramid."""
    geometry = PyramidGeometry.of_image(height, width, CPU)
    length = sum(geometry.level_lengths)
    pyramid = torch.arange(batch * length * 2).reshape(batch, length, 2)
    assert torch.equal(torch.cat(geometry.split(pyramid), dim=1), pyramid)
    maps = geometry.to_maps(pyramid)
    assert [tuple(level.shape[2:]) for level in maps] == list(geometry.level_sizes)
    assert torch.equal(torch.cat([map_to_tokens(level) for level in maps], dim=1), pyramid)
    for (rows, columns), level, tokens in zip(geometry.level_sizes, maps, geometry.split(pyramid), strict=True):
        assert torch.equal(level[:, :, rows - 1, 0], tokens[:, (rows - 1) * columns])


@given(rows=st.integers(1, 40), columns=st.integers(1, 40))
def test_cell_centres_are_row_major(rows: int, columns: int) -> None:
    """x runs first; rows and columns are the points of the axes."""
    points = cell_centres((rows, columns), CPU).reshape(rows, columns, 2)
    assert torch.equal(points[..., 0], points[:1, :, 0].expand(rows, columns))
    assert torch.equal(points[..., 1], points[:, :1, 1].expand(rows, columns))
    torch.testing.assert_close(points[0, :, 0] * columns, torch.arange(columns) + 0.5)
    torch.testing.assert_close(points[:, 0, 1] * rows, torch.arange(rows) + 0.5)
