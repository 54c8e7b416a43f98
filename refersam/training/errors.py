"""What training can end in."""

from refersam.errors import ReferSamError


class TrainingError(ReferSamError, RuntimeError):
    """A run that cannot start or go on."""
