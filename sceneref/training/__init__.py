"""Training on SceneRef: an extension of `refersam.training` for recipes with `extension: sceneref.training`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, cast

from refersam.checkpoints.folders import load_model
from refersam.errors import CheckpointError
from refersam.model.interactor import Interactor
from refersam.training.extension import Extension
from refersam.training.settings import SettingsError, TrainSettings
from sceneref.training.settings import SceneRefTrainSettings

if TYPE_CHECKING:
    from accelerate import Accelerator

    from refersam.model.refersam import ReferSamModel
    from refersam.processor import ReferSamProcessor
    from refersam.training.phases import Phase
    from sceneref.training.objectives import SceneObjectives
    from sceneref.training.source import SceneSource
    from sceneref.training.validation import SceneValidation


class SceneRefExtension(Extension):
    """Extension that provides rendered training images, auxiliary objectives and pretraining phases."""

    settings_type: ClassVar[type[TrainSettings]] = SceneRefTrainSettings

    def open_source(self, settings: TrainSettings) -> SceneSource:
        """Return rendered scenes along the curriculum; see `Extension`."""
        from sceneref.training.source import SceneSource

        return SceneSource(_typed(settings))

    def open_validation(self, settings: TrainSettings) -> SceneValidation:
        """Return rendered scenes of the val split; see `Extension`."""
        from sceneref.training.validation import SceneValidation

        return SceneValidation(_typed(settings))

    def prepare_model(self, model: ReferSamModel, settings: TrainSettings) -> None:
        """Load the spatial prior of `sceneref.spatial_prior_from`; see `Extension`.

        A model without interactor has no spatial prior and is not changed, so that ablations can share a recipe.
        """
        name = _typed(settings).sceneref.spatial_prior_from
        if name is None or not isinstance(model.interactor, Interactor):
            return
        try:
            source = load_model(name)[0].interactor
        except CheckpointError as error:
            raise CheckpointError(f"sceneref.spatial_prior_from: {error}") from error
        if not isinstance(source, Interactor):
            raise SettingsError(
                f"sceneref.spatial_prior_from: expected a model with a spatial prior, but {name} has no interactor."
            )
        try:
            model.interactor.spatial_prior.load_state_dict(source.spatial_prior.state_dict())
        except RuntimeError as error:
            raise SettingsError(
                f"sceneref.spatial_prior_from: the spatial prior of {name} has other sizes; see "
                "model.config.spatial_prior_channels."
            ) from error

    def build_objectives(self, model: ReferSamModel, settings: TrainSettings) -> Sequence[SceneObjectives]:
        """Return the auxiliary objectives with a weight above 0; see `Extension`."""
        from sceneref.training.objectives import SceneObjectives

        weights = _typed(settings).sceneref.objectives
        return [SceneObjectives(model, weights)] if weights.any else []

    def build_phases(
        self, model: ReferSamModel, processor: ReferSamProcessor, settings: TrainSettings, accelerator: Accelerator
    ) -> Sequence[Phase]:
        """Return the pretraining phases; none for a model without interactor, so that ablations can share a recipe."""
        from sceneref.training.pretraining import LabelPhase
        from sceneref.training.text_pretraining import TextPhase

        if not isinstance(model.interactor, Interactor):
            return []
        common = (accelerator, settings.seed, settings.max_skipped)
        return [
            TextPhase(phase, model, processor, *common)
            if phase.part == "text"
            else LabelPhase(phase, model, processor.image_processor, *common)
            for phase in _typed(settings).sceneref.pretraining
        ]


def _typed(settings: TrainSettings) -> SceneRefTrainSettings:
    return cast(SceneRefTrainSettings, settings)


extension = SceneRefExtension()
