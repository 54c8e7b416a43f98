"""Numeric arguments: finite and in range."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refersam import ReferSamConfig, ReferSamPredictor
from refersam.bulk.run import BulkSettings
from refersam.checks import check_number
from refersam.drawing import draw_overlay
from refersam.serving.settings import ServerSettings

NO_NUMBERS = (math.nan, math.inf, -math.inf, "0.5", None, True, [0.5])
IMAGE = Image.new("RGB", (4, 4))


def test_check_number() -> None:
    """Numbers of Python and numpy are accepted, with both ends; the error has the expected and the found value."""
    for value in (0, 1, 0.5, np.float32(0.25), np.int64(1)):
        check_number("share", value, 0, 1)
    for value in (*NO_NUMBERS, -0.1, 1.1, 10**400):
        with pytest.raises(ValueError, match=r"^share must be a number from 0 to 1, but is .+\.$"):
            check_number("share", value, 0, 1)
    with pytest.raises(ValueError, match=re.escape("size must be a number of at least 1, but is inf.")):
        check_number("size", math.inf, 1)


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_python_refuses_them(tiny_model_folder: Path, value: Any) -> None:
    """Thresholds, limits, opacity and fields of the configuration."""
    predictor = ReferSamPredictor.from_pretrained(tiny_model_folder, device="cpu")
    for name in ("threshold", "no_target_threshold"):
        if value is None and name == "no_target_threshold":
            continue  # the model's default
        with pytest.raises(ValueError, match=f"{name} must be a number from 0 to 1"):
            predictor.predict(IMAGE, "star", **{name: value})
        with pytest.raises(ValueError, match=f"{name} must be a number from 0 to 1"):
            BulkSettings(**{name: value})
    with pytest.raises(ValueError, match="opacity must be a number"):
        draw_overlay(IMAGE, np.ones((4, 4), bool), opacity=value)
    with pytest.raises(ValueError, match="answer_seconds must be a number"):
        ServerSettings(answer_seconds=value)
    if isinstance(value, float):
        with pytest.raises(ValueError, match="guided_filter_epsilon"):
            ReferSamConfig.from_preset("tiny", guided_filter_epsilon=value)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "much"])
def test_the_command_line_refuses_them(run: Callable[..., SimpleNamespace], value: str) -> None:
    """Every command with such an option reports the value in one sentence."""
    for command, option, limits in (
        (["segment", "x.png", "star"], "--threshold", "0 to 1"),
        (["segment-many", "--phrases", "star", "--out", "out"], "--no-target-threshold", "0 to 1"),
        (["video", "x.mp4", "star"], "--threshold", "0 to 1"),
        (["evaluate"], "--no-target-threshold", "0 to 1"),
        (["serve"], "--answer-seconds", "0.1 to 86400"),
        (["serve"], "--upload-seconds", "0.1 to 86400"),
    ):
        result = run(*command, f"{option}={value}")
        assert result.code == 2
        assert f"'{option}': {value} is not a number from {limits}." in result.err
