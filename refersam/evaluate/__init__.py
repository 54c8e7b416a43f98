"""Evaluation of a model, or of a file of masks, on a data set by a protocol."""

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
