"""Fixtures of the tests of training."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _few_scenes(few_scenes: None) -> None:
    """Rendered scenes are few and small in every test."""
