"""Import of optional packages."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from refersam.errors import MissingExtraError


def how_to_install(extra: str) -> str:
    """Return installation instructions for an extra, as the end of a sentence."""
    return f"run pip install '.[{extra}]' in a clone of the repository"


def require(module: str, extra: str, what: str) -> ModuleType:
    """Import a module of an optional package; raise MissingExtraError, beginning with `what`, if not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(f"{what} needs the package {module.split('.')[0]}: {how_to_install(extra)}.") from error
