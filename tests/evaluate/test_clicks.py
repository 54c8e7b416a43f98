"""Automatic clicks of an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from refersam.clicks import next_clicks
from refersam.data import ReferringDataset
from refersam.evaluate import Evaluation, evaluate_model
from refersam.evaluate.batches import target_mask
from refersam.evaluate.output import describe
from refersam.evaluate.report.page import render_report
from refersam.inference.predictor import ReferSamPredictor
from refersam.metrics import PROTOCOLS

SOURCE = {"model": "tiny", "predictions": None, "dataset": "sceneref", "split": "val", "split_by": None}


@pytest.fixture(scope="module")
def clicked(tiny_predictor: ReferSamPredictor, scenes: ReferringDataset) -> Evaluation:
    """Two clicks by the protocol gres."""
    return evaluate_model(tiny_predictor, scenes, PROTOCOLS["gres"], clicks=2)


def test_the_other_numbers_do_not_change(scored: Evaluation, clicked: Evaluation) -> None:
    """Clicks come after the protocol's own integers."""
    assert clicked.results == scored.results
    assert clicked.metrics == scored.metrics
    assert (scored.clicks, clicked.settings["clicks"]) == (None, 2)


def test_clicks_are_those_of_a_user_of_the_predictor(
    clicked: Evaluation, tiny_predictor: ReferSamPredictor, scenes: ReferringDataset
) -> None:
    """Phrase by phrase with `predict` and `refine`, at the image's own size."""
    protocol = PROTOCOLS["original"]
    samples = [sample for sample in scenes if sample.has_target][:4]
    curve = evaluate_model(tiny_predictor, samples, protocol, clicks=2).clicks
    assert curve is not None
    ious: list[list[float]] = []
    for sample in samples:
        truth = target_mask(sample, protocol)
        answer = tiny_predictor.predict(np.asarray(sample.image.load()), sample.phrase)
        ious.append([])
        for _ in range(3):
            mask = answer.probability >= 0.5
            ious[-1].append((mask & truth).sum() / (mask | truth).sum())
            points, labels = next_clicks(torch.from_numpy(mask)[None], torch.from_numpy(truth)[None])
            answer = tiny_predictor.refine(answer, points=points.tolist(), point_labels=labels.tolist())
    np.testing.assert_allclose(curve.mean_iou, 100 * np.mean(ious, axis=0), atol=0.5)


def test_written_and_shown(clicked: Evaluation, scored: Evaluation) -> None:
    """In metrics.json and in the report, with the curve; without clicks nothing."""
    document = describe(clicked, SOURCE)
    assert document["clicks"]["most_clicks"] == 2
    assert len(document["clicks"]["mIoU"]) == len(document["clicks"]["oIoU"]) == 3
    assert {"NoC@85", "NoC@90", "failures@85", "failures@90"} <= document["clicks"].keys()
    page = render_report(clicked, document)
    assert "Mean IoU after clicks" in page
    assert "NoC@90" in page
    plain = describe(scored, SOURCE)
    assert "clicks" not in plain
    assert "Mean IoU after clicks" not in render_report(scored, plain)


def test_command_line(
    tiny_model_folder: Path, scenes_root: Path, tmp_path: Path, run: Callable[..., SimpleNamespace]
) -> None:
    """A table of the clicks, NoC below it."""
    where = ["--data-root", scenes_root, "--dataset", "sceneref", "--split", "val", "--limit", 3, "--out", tmp_path]
    done = run("evaluate", "--model", tiny_model_folder, *where, "--clicks", 1, "--device", "cpu")
    assert done.code == 0, done.err
    assert "NoC@90" in done.out + done.err
    done = run("evaluate", "--predictions", tmp_path / "predictions.jsonl", *where, "--clicks", 1)
    assert done.code == 2
    assert "--clicks is about a model" in done.err
