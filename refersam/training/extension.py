"""Extensions of training: modules named by recipes, which add settings, a source of images, objectives and phases."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar

from refersam.data.datasets import open_dataset
from refersam.training.objectives import Objective
from refersam.training.settings import SettingsError, TrainSettings
from refersam.training.sources import DatasetSource, Source

if TYPE_CHECKING:
    from accelerate import Accelerator

    from refersam.model.refersam import ReferSamModel
    from refersam.processor import ReferSamProcessor
    from refersam.training.phases import Phase
    from refersam.training.validation import ValidationSet


class Extension:
    """Components of a run other than the model; the base class trains on a data set.

    The module named by a recipe's `extension` contains an instance of a subclass, called `extension`. Subclasses
    override the methods that differ.
    """

    settings_type: ClassVar[type[TrainSettings]] = TrainSettings
    """Settings of a recipe: a subclass of `TrainSettings` with its own section."""

    def open_source(self, settings: TrainSettings) -> Source:
        """Return the training images of a run; by default the data set of `data.root`.

        Raises:
            DataError: no such data set, or invalid data.
            SettingsError: settings that do not match the data.
        """
        data = settings.data
        if data.root is None:
            raise SettingsError("data.root is missing: set it to the folder of the data sets (docs/datasets.md).")
        return DatasetSource(open_dataset(data.root, data.dataset, data.split, data.split_by), settings)

    def open_validation(self, settings: TrainSettings) -> ValidationSet:
        """Return the validation set; by default the data set of `data.validation_dataset`.

        Raises:
            DataError: no such data set, or invalid data.
        """
        from refersam.training.validation import DatasetValidation

        return DatasetValidation(settings)

    def prepare_model(self, model: ReferSamModel, settings: TrainSettings) -> None:
        """Modify a new model in place before training; by default no change.

        Raises:
            SettingsError: settings that do not match the model.
            CheckpointError: unreadable weights.
        """

    def build_objectives(self, model: ReferSamModel, settings: TrainSettings) -> Sequence[Objective]:  # noqa: ARG002
        """Return objectives in addition to the model's loss; by default none.

        Raises:
            SettingsError: settings that do not match the model.
        """
        return ()

    def build_phases(
        self,
        model: ReferSamModel,  # noqa: ARG002
        processor: ReferSamProcessor,  # noqa: ARG002
        settings: TrainSettings,  # noqa: ARG002
        accelerator: Accelerator,  # noqa: ARG002
    ) -> Sequence[Phase]:
        """Return pretraining phases, in order; by default none."""
        return ()


def load_extension(name: str | None) -> Extension:
    """Import the extension that a recipe names.

    Args:
        name: import path of a module with an `extension`; None for training on a data set alone.

    Raises:
        SettingsError: no such module, an error in it, or no extension.
    """
    if name is None:
        return Extension()
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"extension: cannot import {name!r}: no module named {error.name!r}. Install it, or add its folder to "
            "PYTHONPATH."
        ) from error
    except Exception as error:  # the module's own code may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise SettingsError(f"extension: importing {name!r} failed: {reason}") from error
    extension = getattr(module, "extension", None)
    if not isinstance(extension, Extension):
        raise SettingsError(
            f"extension: {name} must have an instance of refersam.training.Extension called 'extension', but "
            f"{'has none' if extension is None else f'it is of type {type(extension).__name__}'}."
        )
    return extension
