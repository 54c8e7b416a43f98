"""Evaluation: a model or a file of masks, a data set, a protocol; numbers, predictions and a report out."""

from refersam.evaluate.answers import EvaluationError, evaluate_images
from refersam.evaluate.predictions import Prediction, read_predictions, write_predictions
from refersam.evaluate.run import Evaluation, evaluate_model, evaluate_predictions

__all__ = [
    "Evaluation",
    "EvaluationError",
    "Prediction",
    "evaluate_images",
    "evaluate_model",
    "evaluate_predictions",
    "read_predictions",
    "write_predictions",
]
