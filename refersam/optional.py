"""Packages that only some of the commands need."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from refersam.errors import MissingExtraError


def require(module: str, extra: str, what: str) -> ModuleType:
    """Import a package of an extra.

    Args:
        module: its name in Python.
        extra: that it comes with.
        what: needs it; begins the error's sentence.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"{what} needs the package {module.split('.')[0]}: install it with pip install 'refersam[{extra}]'."
        ) from error
