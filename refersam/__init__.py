"""Referring image segmentation with ReferSAM: an image and a phrase in, the mask of exactly that out."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from refersam.version import __version__

if TYPE_CHECKING:
    from refersam.checkpoints.backbones import model_from_backbones
    from refersam.config import ReferSamConfig
    from refersam.inference.predictor import EncodedImage, ReferSamPredictor, Segmentation
    from refersam.inference.registration import register
    from refersam.model.refersam import ReferSamModel, ReferSamOutput
    from refersam.processor import ReferSamImageProcessor, ReferSamProcessor

# Idle threads of OpenMP sleep after a thousand turns instead of spinning, so that processes on the same cores do not
# stall each other (docs/performance.md). libgomp reads the variable once, when torch is loaded.
if "torch" not in sys.modules and not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"

__all__ = [
    "EncodedImage",
    "ReferSamConfig",
    "ReferSamImageProcessor",
    "ReferSamModel",
    "ReferSamOutput",
    "ReferSamPredictor",
    "ReferSamProcessor",
    "Segmentation",
    "__version__",
    "model_from_backbones",
    "register",
]

_HOMES = {
    "EncodedImage": "refersam.inference.predictor",
    "ReferSamConfig": "refersam.config",
    "ReferSamImageProcessor": "refersam.processor",
    "ReferSamModel": "refersam.model.refersam",
    "ReferSamOutput": "refersam.model.refersam",
    "ReferSamPredictor": "refersam.inference.predictor",
    "ReferSamProcessor": "refersam.processor",
    "Segmentation": "refersam.inference.predictor",
    "model_from_backbones": "refersam.checkpoints.backbones",
    "register": "refersam.inference.registration",
}


def __getattr__(name: str) -> Any:
    """Load a public name on its first use: `import refersam` itself loads nothing and changes nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'refersam' has no attribute {name!r}")
    if name != "register":
        import_module("refersam.inference.registration").register()
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
