"""Clicks and boxes of a user: what is accepted, and what the model gets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from refersam.errors import PromptError
from refersam.inference.prompts import MAX_POINTS, NO_PROMPTS, Prompts

NAN = float("nan")


def build(points: Any = None, labels: Any = None, box: Any = None) -> Prompts:
    """Prompts for an image of 40 x 20 pixels."""
    return Prompts.build(points, labels, box, width=40, height=20)


def test_accepted_forms() -> None:
    """Lists, tuples, arrays; labels of booleans; a box is clipped to the image."""
    expected = Prompts(((0, 0), (39, 19)), (1, 0))
    assert build([(0, 0), (39, 19)], [1, 0]) == expected
    assert build(np.array([[0, 0], [39, 19]]), np.array([True, False])) == expected
    assert build([[5, 6]]) == Prompts(((5, 6),), (1,))
    assert build(box=(-3, 2, 50, 10)) == Prompts(box=(0, 2, 40, 10))
    assert build() == build([], [], None) == NO_PROMPTS
    assert not NO_PROMPTS
    assert build(box=(0, 0, 1, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": [(40, 3)]}, r"inside the image of 40 x 20 pixels, but one is at \(40, 3\)"),
        ({"points": [(4, -1)]}, "inside the image"),
        ({"points": [(NAN, 3)]}, "finite numbers"),
        ({"points": [(1, 2, 3)]}, r"a list of \(x, y\)"),
        ({"points": (1, 2)}, r"a list of \(x, y\)"),
        ({"points": "here"}, r"a list of \(x, y\)"),
        ({"points": [[1, 2], [3]]}, r"a list of \(x, y\)"),
        ({"points": [(1, 2)], "labels": [1, 0]}, "there are 1 point and 2 labels"),
        ({"labels": [1]}, "there are 0 points and 1 label"),
        ({"points": [(1, 2)], "labels": [2]}, r"1 \(foreground\) or 0 \(background\), but one is 2"),
        ({"points": [(1, 2)], "labels": ["1"]}, "but one is '1'"),
        ({"points": [(1, 2)], "labels": [NAN]}, "but one is nan"),
        ({"points": [(1, 2)] * (MAX_POINTS + 1)}, "At most 100 points"),
        ({"box": (3, 3, 3, 9)}, r"must cover a part of the image of 40 x 20 pixels, but is \(3, 3, 3, 9\)"),
        ({"box": (50, 3, 60, 9)}, "must cover a part"),
        ({"box": (9, 3, 6, 9)}, "must cover a part"),
        ({"box": (1, 2, NAN, 4)}, r"box must be \(left, top, right, bottom\)"),
        ({"box": (1, 2, 3)}, "box must be"),
        ({"box": 7}, "box must be"),
    ],
)
def test_refused_in_a_sentence(arguments: dict[str, Any], message: str) -> None:
    """Points, labels and boxes that cannot be meant."""
    with pytest.raises(PromptError, match=message):
        build(**arguments)


def test_later_prompts_follow_earlier_ones() -> None:
    """A later box replaces an earlier one; the number of points stays bounded."""
    first = Prompts(((1, 2),), (0,), (0, 0, 9, 9))
    assert first.add(Prompts(((3, 4),), (1,))) == Prompts(((1, 2), (3, 4)), (0, 1), (0, 0, 9, 9))
    assert first.add(Prompts(box=(1, 1, 2, 2))).box == (1, 1, 2, 2)
    full = Prompts(((1, 2),) * MAX_POINTS, (1,) * MAX_POINTS)
    with pytest.raises(PromptError, match="start anew"):
        full.add(first)


def test_an_object_that_is_shown() -> None:
    """By a foreground click or a box, not by a background click."""
    assert [p.has_target for p in (NO_PROMPTS, build([(1, 1)], [0]), build([(1, 1)]), build(box=(0, 0, 2, 2)))] == [
        False,
        False,
        True,
        True,
    ]


def test_tensors_in_pixels_of_the_input() -> None:
    """Centres of pixels stay centres; a box's exclusive right end is the input's."""
    tensors = build([(0, 0), (39, 19)], [1, 0], (0, 0, 40, 20)).tensors((20, 40), (40, 160))
    torch.testing.assert_close(tensors["input_points"], torch.tensor([[[1.5, 0.5], [157.5, 38.5]]]))
    torch.testing.assert_close(tensors["input_labels"], torch.tensor([[1, 0]]))
    torch.testing.assert_close(tensors["input_boxes"], torch.tensor([[-0.5, -0.5, 159.5, 39.5]]))
    assert NO_PROMPTS.tensors((20, 40), (40, 160)) == {}
