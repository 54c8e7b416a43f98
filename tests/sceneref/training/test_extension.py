"""The extension as a whole: components of recipes with `extension: sceneref.training`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from refersam import ReferSamModel
from refersam.errors import CheckpointError
from refersam.training.extension import load_extension
from refersam.training.settings import SettingsError
from refersam.training.trainer import Trainer
from sceneref.training import SceneRefExtension
from sceneref.training.settings import SceneRefTrainSettings
from sceneref.training.source import SceneSource
from sceneref.training.validation import SceneValidation

Miniature = Callable[..., SceneRefTrainSettings]


def test_what_it_provides(miniature: Miniature) -> None:
    """Its own settings, source and validation."""
    extension, settings = load_extension("sceneref.training"), miniature()
    assert isinstance(extension, SceneRefExtension)
    assert extension.settings_type is SceneRefTrainSettings
    assert isinstance(extension.open_source(settings), SceneSource)
    assert isinstance(extension.open_validation(settings), SceneValidation)


def test_objectives_without_a_weight(tiny_model_folder: Path, miniature: Miniature) -> None:
    """None: the forward pass is not observed."""
    model, extension = ReferSamModel.from_pretrained(tiny_model_folder), SceneRefExtension()
    assert list(extension.build_objectives(model, miniature())) == []
    settings = miniature(sceneref={"objectives": {"positions": 0.5}})
    assert len(extension.build_objectives(model, settings)) == 1


def test_a_spatial_prior_of_another_model(
    tiny_model_folder: Path, tmp_path: Path, miniature: Miniature, small_model: dict[str, Any]
) -> None:
    """From the named model, frozen for a learning rate of 0; ablations have none; other sizes are an error."""

    def interactor(name: str, config: dict[str, Any], source: Path | None = None) -> Any:
        section = {"spatial_prior_from": str(source or tiny_model_folder)}
        rates = {"spatial_prior_lr_scale": 0.0}
        settings = miniature(model={"config": config}, optimizer=rates, sceneref=section)
        return Trainer(settings, tmp_path / name).engine.model.interactor

    taken = interactor("run", {}).spatial_prior
    wanted = ReferSamModel.from_pretrained(tiny_model_folder).interactor.spatial_prior.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in taken.state_dict().items())
    assert not any(parameter.requires_grad for parameter in taken.parameters())
    assert not hasattr(interactor("without", {"use_interactor": False}), "spatial_prior")
    with pytest.raises(SettingsError, match=r"sceneref\.spatial_prior_from: the spatial prior of .* has other sizes"):
        interactor("other", small_model)
    with pytest.raises(CheckpointError, match=r"^sceneref\.spatial_prior_from: .* holds no ReferSAM model"):
        interactor("none", {}, tmp_path)
