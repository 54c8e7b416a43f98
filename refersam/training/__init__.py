"""Training: trainer, engine, settings, and extension points."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refersam.training.data import Batch
    from refersam.training.extension import Extension
    from refersam.training.objectives import Objective, ObjectiveOutput
    from refersam.training.phases import Phase
    from refersam.training.settings import Section, TrainSettings
    from refersam.training.sources import DatasetSource, Source
    from refersam.training.trainer import Trainer
    from refersam.training.validation import ValidationSet

__all__ = [
    "Batch",
    "DatasetSource",
    "Extension",
    "Objective",
    "ObjectiveOutput",
    "Phase",
    "Section",
    "Source",
    "TrainSettings",
    "Trainer",
    "ValidationSet",
]

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


def __getattr__(name: str) -> Any:
    """Import a public name on its first use: settings can be read without loading torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'refersam.training' has no attribute {name!r}")
    value = getattr(import_module(f"refersam.training.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
