"""Validation of argument values."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from refersam.errors import shown


def check_number(name: str, value: Any, least: float, most: float = math.inf) -> None:
    """Raise ValueError unless `value` is a number in [least, most]; NaN, infinity and booleans are invalid."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not (is_number and least <= value <= most and value != math.inf):
        limits = f"from {least:g} to {most:g}" if most < math.inf else f"of at least {least:g}"
        raise ValueError(f"{name} must be a number {limits}, but is {shown(value)}.")
