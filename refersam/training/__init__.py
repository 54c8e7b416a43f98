"""Training: trainer, engine, settings, and extension points."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refersam.training.data import Batch as Batch
    from refersam.training.extension import Extension as Extension
    from refersam.training.objectives import Objective as Objective
    from refersam.training.objectives import ObjectiveOutput as ObjectiveOutput
    from refersam.training.phases import Phase as Phase
    from refersam.training.settings import Section as Section
    from refersam.training.settings import TrainSettings as TrainSettings
    from refersam.training.sources import DatasetSource as DatasetSource
    from refersam.training.sources import Source as Source
    from refersam.training.trainer import Trainer as Trainer
    from refersam.training.validation import ValidationSet as ValidationSet

_HOMES = {
    "Batch": "data",
    "DatasetSource": "sources",
    "Extension": "extension",
    "Objective": "objectives",
    "ObjectiveOutput": "objectives",
    "Phase": "phases",
    "Section": "settings",
    "Source": "sources",
    "TrainSettings": "settings",
    "Trainer": "trainer",
    "ValidationSet": "validation",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name on its first use: settings can be read without loading torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'refersam.training' has no attribute {name!r}")
    value = getattr(import_module(f"refersam.training.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
