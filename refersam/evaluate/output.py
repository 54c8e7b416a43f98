"""The three files of an evaluation: metrics.json, predictions.jsonl, report.html."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from refersam.errors import counted
from refersam.evaluate.predictions import write_predictions
from refersam.evaluate.run import Evaluation
from refersam.files import write_atomically
from refersam.metrics.results import score_samples
from refersam.metrics.summary import mean_iou_by_tag, sum_pixels

METRICS_FILE, PREDICTIONS_FILE, REPORT_FILE = "metrics.json", "predictions.jsonl", "report.html"
PACKAGES = ("refersam", "torch", "transformers", "pycocotools", "numpy", "pillow")


def describe(evaluation: Evaluation, source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of metrics.json, which is enough to reproduce the numbers. `source` describes model or
    predictions, data set, split and so on in JSON types.
    """
    protocol, results = evaluation.protocol, evaluation.results
    intersection, union = sum_pixels(protocol, results)
    with_target = sum(result.has_target for result in results)
    counts = {
        "phrases": len(results),
        "images": len({sample.image.image_id for sample in evaluation.samples}),
        "with_target": with_target,
        "without_target": len(results) - with_target,
        "judged_without_target": sum(not result.judged_target for result in results) if protocol.judged else None,
        "empty_unions": sum(result.has_target and result.union == 0 for result in results),
        "phrases_cut": None if evaluation.cut is None else len(evaluation.cut),
    }
    return {
        "protocol": protocol.name,
        "metrics": evaluation.metrics,
        "counts": counts,
        "sums": {
            "intersection": intersection,
            "union": union,
            "counted_in_mean": sum(score.iou is not None for score in score_samples(protocol, results)),
        },
        **({} if evaluation.clicks is None else {"clicks": evaluation.clicks.as_dict()}),
        "mean_iou_by_tag": mean_iou_by_tag(protocol, results),
        "notes": _notes(evaluation, counts),
        "phrases_cut": None if evaluation.cut is None else list(evaluation.cut),
        "settings": {**source, **evaluation.settings},
        "protocol_settings": protocol.settings(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _notes(evaluation: Evaluation, counts: Mapping[str, Any]) -> list[str]:
    notes = []
    if evaluation.protocol.note and counts["empty_unions"]:
        notes.append(f"{counts['empty_unions']} phrases {evaluation.protocol.note}")
    if evaluation.cut:
        limit = evaluation.settings.get("max_text_tokens")
        notes.append(
            f"Longer than {limit} tokens: {counted(len(evaluation.cut), 'phrase')}; the model saw the beginning."
        )
    return notes


def write_evaluation(evaluation: Evaluation, source: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Write the three files into `out`, each atomically; return the content of metrics.json; see `describe`."""
    from refersam.evaluate.report.page import render_report

    document = describe(evaluation, source)
    contents = {  # all made before the first is written
        PREDICTIONS_FILE: write_predictions(evaluation.predictions),
        REPORT_FILE: render_report(evaluation, document).encode("utf-8", "replace"),
        METRICS_FILE: (json.dumps(document, indent=2) + "\n").encode(),
    }
    for name, content in contents.items():
        write_atomically(out / name, lambda file, content=content: file.write(content))  # type: ignore[misc]
    return document
