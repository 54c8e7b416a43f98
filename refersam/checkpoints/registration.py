"""Registration of ReferSAM with transformers' Auto classes."""

from __future__ import annotations

from contextlib import suppress
from functools import cache

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor

from refersam.config import ReferSamConfig
from refersam.model.refersam import ReferSamModel
from refersam.processor import ReferSamImageProcessor, ReferSamProcessor


@cache
def register_classes() -> None:
    """Register the classes with AutoConfig, AutoModel, AutoImageProcessor and AutoProcessor."""
    AutoConfig.register(ReferSamConfig.model_type, ReferSamConfig)
    AutoModel.register(ReferSamConfig, ReferSamModel)
    # Older releases of transformers cannot register an image processor without torchvision.
    with suppress(ImportError):
        AutoImageProcessor.register(ReferSamConfig, slow_image_processor_class=ReferSamImageProcessor)
    AutoProcessor.register(ReferSamConfig, ReferSamProcessor)
