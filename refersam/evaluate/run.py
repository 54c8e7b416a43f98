"""Score a model, or any tool's masks, on a data set by a protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch

from refersam.checks import check_number
from refersam.data.check import check_images
from refersam.data.findings import Severity
from refersam.data.index import group_by_image
from refersam.data.sample import ReferringSample
from refersam.errors import DataError
from refersam.evaluate.answers import protocol_answers
from refersam.evaluate.batches import (
    PREDICTIONS_PER_BATCH,
    ModelBatch,
    ModelBatches,
    PredictionBatches,
    count_sample,
    plan_batches,
)
from refersam.evaluate.clicks import click_rounds
from refersam.evaluate.predictions import Prediction, make_prediction, read_predictions
from refersam.evaluate.processes import Processes
from refersam.inference.predictor import ReferSamPredictor
from refersam.inference.queries import Query, clickable, encode_queries, run_queries
from refersam.metrics.clicks import ClickCurve, click_curve
from refersam.metrics.masks import encode_mask
from refersam.metrics.protocols import Protocol, check_protocol
from refersam.metrics.results import SampleResult, compare_masks
from refersam.metrics.summary import summarise
from refersam.workers import load_in_workers

Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it, of how much."""

DIGITS = 6
"""Of scores: what is written is what is counted."""


class _Row(NamedTuple):
    """Scored sample: index in the data set, prediction, result, whether the phrase was cut, results after clicks."""

    position: int
    prediction: Prediction
    result: SampleResult
    cut: bool
    corrected: tuple[SampleResult, ...]


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    Attributes:
        protocol: evaluation protocol.
        samples: n phrases, in the order of the data set.
        predictions: n predictions.
        results: n counted comparisons.
        cut: ids of the phrases that were longer than the model's limit, in order; None where that is unknown.
        settings: further settings that the numbers depend on, in JSON types.
        clicks: scores after automatic clicks; None without them.
    """

    protocol: Protocol
    samples: Sequence[ReferringSample]
    predictions: Sequence[Prediction]
    results: Sequence[SampleResult]
    cut: tuple[str, ...] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    clicks: ClickCurve | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """Return the metrics in percent."""
        return summarise(self.protocol, self.results)


def evaluate_model(
    predictor: ReferSamPredictor,
    samples: Sequence[ReferringSample],
    protocol: Protocol,
    *,
    batch_size: int = 8,
    workers: int = 0,
    no_target_threshold: float | None = None,
    min_pixels: int = 0,
    boundary: bool = False,
    clicks: int = 0,
    processes: Processes | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Run a model over a data set and score it.

    The phrases of an image run together; images and masks are decoded ahead by worker processes. Before the model
    starts, every image and mask is decoded once, so that all broken ones are reported at once.

    Args:
        predictor: predictor of the model.
        samples: samples of a data set.
        protocol: evaluation protocol.
        batch_size: largest number of phrases in a batch.
        workers: number of decoding processes; 0 decodes in this process.
        no_target_threshold: probability of a target below which a phrase is judged to have none; None for the model's
            default.
        min_pixels: for a model without no-target decision; see `judge_target`.
        boundary: whether to compute the boundary IoU, "mBIoU", too.
        clicks: number of automatic clicks on each mask; their scores are added, the other scores do not change.
        processes: processes that share the work; None for one process. Each process gets the whole result.
        progress: called with the number of samples that this process has done.

    Raises:
        DataError: phrases that the protocol cannot judge, or broken images or masks, all reported at once.
        EvaluationError: NaN or infinite outputs.
        PromptError: clicks for a model that takes none.
        ValueError: a threshold outside [0, 1].
    """
    if no_target_threshold is None:
        no_target_threshold = predictor.model.config.no_target_threshold
    check_number("no_target_threshold", no_target_threshold, 0, 1)
    processes, tell = processes or Processes(), progress or _silent
    check_protocol(protocol, (sample.has_target for sample in samples))
    _check_images(samples, workers, processes, tell)
    plans = processes.share(plan_batches(samples, batch_size))
    total = sum(len(image) for plan in plans for image in plan)
    rows: list[_Row] = []
    for batch in load_in_workers(ModelBatches(samples, plans, predictor.processor, protocol), workers):
        rows += _run_batch(predictor, batch, samples, protocol, no_target_threshold, min_pixels, boundary, clicks)
        tell("segmenting", len(rows), total)
    rows = sorted(processes.gather(rows), key=lambda row: row.position)
    names = tuple(samples[row.position].sample_id for row in rows if row.cut)
    settings = {
        "batch_size": batch_size,
        "no_target_threshold": no_target_threshold,
        "min_pixels": min_pixels,
        "clicks": clicks,
        "max_text_tokens": predictor.processor.max_text_tokens,
        "image_size": predictor.processor.image_size,
        "device": str(predictor.model.device),
        "dtype": str(predictor.model.dtype).removeprefix("torch."),
        "processes": processes.count,
        "parameters": predictor.model.num_parameters(),
        "decides_no_target": predictor.model.config.object_score_head,
    }
    results = [row.result for row in rows]
    curve = click_curve(protocol, [results, *zip(*(row.corrected for row in rows), strict=True)]) if clicks else None
    return Evaluation(protocol, samples, [row.prediction for row in rows], results, names, settings, curve)


def evaluate_predictions(
    path: Path,
    samples: Sequence[ReferringSample],
    protocol: Protocol,
    *,
    others: Iterable[str] = (),
    workers: int = 0,
    min_pixels: int = 0,
    boundary: bool = False,
    processes: Processes | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score masks of any tool.

    Args:
        path: JSON lines file in the format of docs/evaluation.md.
        samples: samples of a data set.
        protocol: evaluation protocol.
        others: ids of further samples, whose lines are ignored.
        workers: number of decoding processes; 0 decodes in this process.
        min_pixels: for lines without "no_target"; see `judge_target`.
        boundary: whether to compute the boundary IoU, "mBIoU", too.
        processes: processes that share the work; None for one process. Each process gets the whole result.
        progress: called with the number of samples that this process has done.

    Raises:
        DataError: phrases that the protocol cannot judge, or an invalid file; all problems are reported at once.
    """
    processes, tell = processes or Processes(), progress or _silent
    check_protocol(protocol, (sample.has_target for sample in samples))
    found = read_predictions(path, samples, others)
    plans = [
        range(start, min(start + PREDICTIONS_PER_BATCH, len(samples)))
        for start in range(0, len(samples), PREDICTIONS_PER_BATCH)
    ]
    own = processes.share(plans)
    rows: list[tuple[int, SampleResult]] = []  # position and result
    items = load_in_workers(PredictionBatches(samples, own, found, protocol, min_pixels, boundary), workers)
    for plan, results in zip(own, items, strict=True):
        rows += zip(plan, results, strict=True)
        tell("comparing", len(rows), sum(map(len, own)))
    by_position = dict(processes.gather(rows))
    results = [by_position[position] for position in sorted(by_position)]
    predictions = [found[sample.sample_id] for sample in samples]
    settings = {
        "min_pixels": min_pixels,
        "processes": processes.count,
        "decides_no_target": sum(prediction.no_target is not None for prediction in predictions),
        "protocol_masks": sum(prediction.has_protocol_mask(protocol) for prediction in predictions),
    }
    return Evaluation(protocol, samples, predictions, results, None, settings)


@torch.inference_mode()
def _run_batch(
    predictor: ReferSamPredictor,
    batch: ModelBatch,
    samples: Sequence[ReferringSample],
    protocol: Protocol,
    no_target_threshold: float,
    min_pixels: int,
    boundary: bool,
    clicks: int,
) -> Iterator[_Row]:
    """Run the model on a batch and score its phrases."""
    model = predictor.model
    queries: Sequence[Query] = encode_queries(clickable(model), batch.queries) if clicks else batch.queries
    rows = iter(zip(batch.positions, batch.truths, strict=True))
    for query, output in zip(queries, run_queries(model, queries), strict=True):
        sizes = [(query.height, query.width)] * len(query.phrases)
        supervised = model.config.supervise_iou
        answers = list(protocol_answers(output, sizes, predictor.processor, protocol, supervised, no_target_threshold))
        positions, packed = zip(*islice(rows, len(answers)), strict=True)
        truths = [truth.unpack() for truth in packed]
        corrected: list[list[tuple[int, int, int]]] = [[] for _ in answers]
        if query.phrase_features is not None:
            masks = [answer.protocol_mask for answer in answers]
            features = query.phrase_features
            for found in click_rounds(predictor, features, output, sizes, masks, truths, protocol, clicks):
                for counts, mask, truth in zip(corrected, found, truths, strict=True):
                    counts.append(compare_masks(mask, truth))
        for position, answer, truth, left_out, rounds in zip(
            positions, answers, truths, query.left_out, corrected, strict=True
        ):
            sample = samples[position]
            base = Prediction(
                sample.sample_id,
                encode_mask(answer.mask),
                answer.no_target,
                round(answer.score, DIGITS),
                None if answer.target_probability is None else round(answer.target_probability, DIGITS),
            )
            prediction = make_prediction(base, answer.mask, answer.protocol_mask, protocol)
            result = count_sample(sample, answer.protocol_mask, truth, prediction, min_pixels, boundary)
            later = (replace(result, intersection=both, predicted=predicted) for both, predicted, _ in rounds)
            yield _Row(position, prediction, result, bool(left_out), tuple(later))


def _check_images(
    samples: Sequence[ReferringSample], workers: int, processes: Processes, tell: Progress, most: int = 50
) -> None:
    """Decode all images and masks once.

    Raises:
        DataError: broken images or masks.
    """
    groups = processes.share(group_by_image(samples))
    problems: list[str] = []
    for done, findings in enumerate(check_images(groups, workers), 1):
        problems += [finding.message for finding in findings if finding.severity is Severity.ERROR]
        tell("checking images", done, len(groups))
    problems = processes.gather(problems)
    if problems:
        more = [f"and {len(problems) - most} more"] if len(problems) > most else []
        count = "An image or mask" if len(problems) == 1 else f"{len(problems)} images or masks"
        raise DataError(
            f"{count} cannot be decoded; mend or replace:" + "".join(f"\n- {each}" for each in problems[:most] + more)
        )


def _silent(_what: str, _done: int, _total: int) -> None:
    """Ignore the progress."""
