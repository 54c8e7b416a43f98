"""Fixtures of the tests of training."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _few_scenes(few_scenes: None) -> None:
    """Use few and small rendered scenes in every test."""
