"""Make transformers' Auto classes know ReferSAM."""

from __future__ import annotations

from contextlib import suppress
from functools import cache


@cache
def register() -> None:
    """Register ReferSAM with AutoConfig, AutoModel, AutoImageProcessor and AutoProcessor.

    Done by itself on the first use of a name of `refersam`; call it before `AutoModel.from_pretrained` otherwise.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor

    from refersam.config import ReferSamConfig
    from refersam.model.refersam import ReferSamModel
    from refersam.processor import ReferSamImageProcessor, ReferSamProcessor

    AutoConfig.register(ReferSamConfig.model_type, ReferSamConfig)
    AutoModel.register(ReferSamConfig, ReferSamModel)
    # Older releases of transformers refuse to name an image processor where torchvision is missing.
    with suppress(ImportError):
        AutoImageProcessor.register(ReferSamConfig, slow_image_processor_class=ReferSamImageProcessor)
    AutoProcessor.register(ReferSamConfig, ReferSamProcessor)
