"""Errors of training."""

from refersam.errors import ReferSamError


class TrainingError(ReferSamError, RuntimeError):
    """A run cannot start or continue."""
