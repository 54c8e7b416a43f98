"""Make transformers' Auto classes and pipelines know ReferSAM."""

from __future__ import annotations

from contextlib import suppress
from functools import cache


@cache
def register() -> None:
    """Register ReferSAM with AutoConfig, AutoModel, AutoImageProcessor, AutoProcessor and `pipeline`.

    Done by itself on the first use of a name of `refersam`; call it before `AutoModel.from_pretrained` or
    `pipeline("referring-image-segmentation")` otherwise.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor
    from transformers.pipelines import PIPELINE_REGISTRY

    from refersam.config import ReferSamConfig
    from refersam.model.refersam import ReferSamModel
    from refersam.pipeline import TASK, PipelineModel, ReferringImageSegmentationPipeline
    from refersam.predictor import MODEL_IN_THE_BOX
    from refersam.processor import ReferSamImageProcessor, ReferSamProcessor

    AutoConfig.register(ReferSamConfig.model_type, ReferSamConfig)
    AutoModel.register(ReferSamConfig, ReferSamModel)
    # Older releases of transformers refuse to name an image processor where torchvision is missing.
    with suppress(ImportError):
        AutoImageProcessor.register(ReferSamConfig, slow_image_processor_class=ReferSamImageProcessor)
    AutoProcessor.register(ReferSamConfig, ReferSamProcessor)
    PIPELINE_REGISTRY.register_pipeline(
        TASK,
        pipeline_class=ReferringImageSegmentationPipeline,
        pt_model=PipelineModel,
        default={"model": (str(MODEL_IN_THE_BOX), "main")},
        type="multimodal",
    )
