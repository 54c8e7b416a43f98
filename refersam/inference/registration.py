"""Register ReferSAM with transformers' Auto classes and pipelines."""

from __future__ import annotations

from functools import cache

from transformers.pipelines import PIPELINE_REGISTRY

from refersam.checkpoints.folders import BUNDLED_CHECKPOINT
from refersam.checkpoints.registration import register_classes
from refersam.inference.pipeline import TASK, PipelineModel, ReferringImageSegmentationPipeline


@cache
def register() -> None:
    """Register ReferSAM with AutoConfig, AutoModel, AutoImageProcessor, AutoProcessor and `pipeline`.

    The first access to a name of `refersam` calls it. Without such an access, call it before
    `AutoModel.from_pretrained` or `pipeline("referring-image-segmentation")`.
    """
    register_classes()
    PIPELINE_REGISTRY.register_pipeline(
        TASK,
        pipeline_class=ReferringImageSegmentationPipeline,
        pt_model=PipelineModel,
        default={"model": (str(BUNDLED_CHECKPOINT), "main")},
        type="multimodal",
    )
