"""Worker processes of the evaluator, started as on macOS and Windows, and what they get."""

from __future__ import annotations

import pickle

import pytest

from refersam.data import ReferringDataset
from refersam.evaluate import Evaluation, evaluate_model
from refersam.evaluate.batches import PredictionBatches
from refersam.inference.predictor import ReferSamPredictor
from refersam.metrics import PROTOCOLS


@pytest.mark.usefixtures("spawned")
@pytest.mark.slow
def test_spawned_workers_score_a_model_the_same(
    tiny_predictor: ReferSamPredictor, scenes: ReferringDataset, scored: Evaluation
) -> None:
    """Samples, processor and protocol are pickled; the integers are those of one process."""
    spawned = evaluate_model(tiny_predictor, scenes, PROTOCOLS["gres"], workers=1)
    assert list(spawned.results) == list(scored.results)
    assert list(spawned.predictions) == list(scored.predictions)


def test_batches_of_predictions_can_be_pickled(scenes: ReferringDataset, scored: Evaluation) -> None:
    """For workers that are not forked; the copy counts the same integers."""
    found = {prediction.sample_id: prediction for prediction in scored.predictions}
    batches = PredictionBatches(scenes[:], [range(len(scenes))], found, PROTOCOLS["gres"], 0)
    copy = pickle.loads(pickle.dumps(batches))
    assert copy[0] == batches[0] == list(scored.results)
