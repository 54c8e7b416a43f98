"""`pipeline("referring-image-segmentation")` of transformers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from transformers.pipelines.base import Pipeline

from refersam.checkpoints.folders import load_weights
from refersam.domain import log_domain
from refersam.drawing import mask_image
from refersam.errors import CheckpointError, PhraseError, PromptError, ReferSamError, shown
from refersam.image import load_image
from refersam.inference.answers import Answer, check_thresholds, read_answers
from refersam.inference.devices import resolve_dtype
from refersam.inference.prompts import Prompts
from refersam.inference.queries import Query, run_queries
from refersam.model.refersam import ReferSamModel, ReferSamOutput

TASK = "referring-image-segmentation"
PROMPTS = ("points", "point_labels", "boxes")


class ReferringImageSegmentationPipeline(Pipeline):
    """Pipeline that segments images by phrases, with results like those of transformers' segmentation pipelines.

    Create it with `transformers.pipeline("referring-image-segmentation", model=...)`. The default is the bundled model,
    which was trained on synthetic scenes, not photographs.
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False
    _load_tokenizer = False

    def __call__(self, inputs: Any, phrases: str | Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Segment the objects that phrases describe.

        Args:
            inputs: an image (path, PIL image, array or file bytes; URLs are never fetched), a dictionary
                {"image": image, "phrases": phrase or phrases} with optional prompts (see kwargs), or a list,
                generator or dataset of these.
            phrases: one phrase or several, for all images without their own phrases.
            kwargs: prompts for a single phrase, in pixels of the image: `points` (clicks (x, y)), `point_labels` (per
                point 1 for foreground, 0 for background; all 1 by default) and `boxes` (one box (left, top, right,
                bottom), or a list with one box). Thresholds as in `ReferSamPredictor.predict`: `threshold`,
                `no_target_threshold` and `min_component_fraction`. `batch_size` and `num_workers` as in other
                transformers pipelines.

        Returns:
            For one image, a list of dictionaries, one per phrase: `label` (the phrase), `score` (predicted IoU),
            `mask` (black and white PIL image of the image's size), `box` (left, top, right, bottom in pixels; None
            for an empty mask) and `no_target` (True if no object matches). For a list, a list of such lists; for a
            generator or dataset, an iterator of them.

        Raises:
            ImageError: an image cannot be read.
            PhraseError: there is no phrase, or a phrase has no word.
            PromptError: points or boxes are invalid; see `ReferSamPredictor.predict`.
            ValueError: a threshold or fraction is outside [0, 1].
        """
        if phrases is not None:
            kwargs["phrases"] = phrases
        if isinstance(inputs, list | tuple) and not inputs:
            return []
        return super().__call__(inputs, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save model and processor. The method of transformers would also copy this file as remote code."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        before = {name: kwargs.pop(name) for name in ("phrases", *PROMPTS) if name in kwargs}
        names = ("threshold", "no_target_threshold", "min_component_fraction")
        after: dict[str, Any] = {name: kwargs.pop(name) for name in names if name in kwargs}
        if kwargs:
            raise TypeError(f"Unknown arguments of {TASK}: {', '.join(sorted(kwargs))}.")
        check_thresholds(**after)
        return before, {}, after

    def preprocess(self, input_: Any, phrases: str | Sequence[str] | None = None, **prompts: Any) -> dict[str, Any]:
        """Return the query for an image, or for a dictionary with image, phrases and prompts."""
        source = input_
        if isinstance(input_, Mapping):
            if "image" not in input_:
                raise ValueError(
                    f'An image with phrases must be {{"image": ..., "phrases": ...}}, but is {shown(input_)}.'
                )
            source, phrases = input_["image"], input_.get("phrases", phrases)
            prompts |= {name: input_[name] for name in PROMPTS if name in input_}
        if phrases is None:
            raise PhraseError('What to find is missing: pass phrases="the red star", or a list of phrases.')
        asked = [phrases] if isinstance(phrases, str) else list(phrases)
        image = load_image(source)
        box = _only_box(prompts.get("boxes"))
        clicks = Prompts.build(prompts.get("points"), prompts.get("point_labels"), box, image.width, image.height)
        return {"query": Query.prepare(self.processor, image, asked, prompts=clicks)}

    def _forward(self, input_tensors: dict[str, Any]) -> dict[str, Any]:
        """Run one query, or the queries of a batch grouped by `batch_key`."""
        query = input_tensors["query"]
        if isinstance(query, Query):
            return {"query": query, "output": run_queries(self.model, [query])[0]}
        outputs: dict[int, ReferSamOutput] = {}
        for key in {one.batch_key for one in query}:
            places = [place for place, one in enumerate(query) if one.batch_key == key]
            outputs.update(zip(places, run_queries(self.model, [query[place] for place in places]), strict=True))
        return {"query": query, "output": [outputs[place] for place in range(len(query))]}

    def postprocess(self, model_outputs: dict[str, Any], **settings: float) -> list[dict[str, Any]]:
        """Convert the output for a query to one dictionary per phrase."""
        values = model_outputs["output"]  # transformers converted the output to a dictionary
        output = ReferSamOutput(**{field.name: values.get(field.name) for field in fields(ReferSamOutput)})
        answers: Iterator[Answer] = read_answers(self.model, self.processor, output, model_outputs["query"], **settings)
        return [
            {
                "label": answer.phrase,
                "score": answer.score,
                "mask": mask_image(answer.mask),
                "box": answer.box,
                "no_target": answer.no_target,
            }
            for answer in answers
        ]


def _only_box(boxes: Any) -> Any:
    """Return the only box of a list, or the box itself if `boxes` is not a list of boxes."""
    if not isinstance(boxes, Sequence) or not boxes or not isinstance(boxes[0], Sequence):
        return boxes
    if len(boxes) > 1:
        raise PromptError(f"At most one box is allowed for a phrase, but there are {len(boxes)}.")
    return boxes[0]


class PipelineModel:
    """Model class for `pipeline`: loads weights as strictly as the predictor, and in the same dtype."""

    @staticmethod
    def from_pretrained(name: str, dtype: str | torch.dtype | None = None, **options: Any) -> ReferSamModel:
        """Load a model in float32 unless `dtype` is given, even if its weights are stored in 16 bits.

        Raises:
            ReferSamError: see `load_weights`. A ValueError would make transformers retry and hide the message.
        """
        for of_foreign_code in ("code_revision", "trust_remote_code"):
            options.pop(of_foreign_code, None)
        try:
            model = load_weights(name, **options)
        except CheckpointError as error:
            raise ReferSamError(str(error)) from error
        log_domain(model.config.domain, name)
        return model if dtype in (None, "auto") else model.to(dtype=resolve_dtype(dtype))
