"""Warning for models that were trained on one image domain only (`ReferSamConfig.domain`)."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)

SYNTHETIC_SCENES = "synthetic scenes"
"""Domain of models trained on SceneRef, including the bundled model."""

MAX_CHARACTERS = 80
"""Length limit of a domain, which the web page shows and an HTTP header contains."""

_warned: set[str] = set()


def check_domain(domain: object) -> None:
    """Raise ValueError unless a domain (from an untrusted file) is None or one line of printable ASCII text."""
    if domain is None:
        return
    if not isinstance(domain, str) or not (domain.isascii() and domain.isprintable() and domain.strip()):
        raise ValueError(f"domain must be None or ASCII text such as {SYNTHETIC_SCENES!r}, but is {domain!r}.")
    if len(domain) > MAX_CHARACTERS:
        raise ValueError(f"domain must have at most {MAX_CHARACTERS} characters, but has {len(domain)}.")


def domain_warning(domain: str) -> str:
    """Return the warning about images outside the domain, with a recommendation."""
    return (
        f"The model was trained on {domain} only: its masks and scores mean nothing on other images, such as "
        "photographs. For these, load a published model (--model clipseg, refersam.load_predictor) or one of "
        "your own (README, 'Photographs')."
    )


def log_domain(domain: str | None, name: str) -> None:
    """Log the warning once per process and model `name`; nothing if `domain` is None."""
    if domain is not None and name not in _warned:
        _warned.add(name)
        logger.warning("%s", domain_warning(domain))
