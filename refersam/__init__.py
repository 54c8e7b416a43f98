"""Referring image segmentation with ReferSAM: segment the object that a phrase describes in an image."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from refersam.version import __version__ as __version__

if TYPE_CHECKING:
    from refersam.checkpoints.backbones import model_from_backbones as model_from_backbones
    from refersam.config import ReferSamConfig as ReferSamConfig
    from refersam.inference.predictor import EncodedImage as EncodedImage
    from refersam.inference.predictor import ReferSamPredictor as ReferSamPredictor
    from refersam.inference.predictor import Segmentation as Segmentation
    from refersam.inference.predictor import load_predictor as load_predictor
    from refersam.inference.registration import register as register
    from refersam.model.refersam import ReferSamModel as ReferSamModel
    from refersam.model.refersam import ReferSamOutput as ReferSamOutput
    from refersam.processor import ReferSamImageProcessor as ReferSamImageProcessor
    from refersam.processor import ReferSamProcessor as ReferSamProcessor

# Idle threads of OpenMP sleep after a thousand turns instead of spinning, so that processes on the same cores do not
# stall each other (docs/performance.md). libgomp reads the variable once, when torch is loaded.
if "torch" not in sys.modules and not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"

_HOMES = {
    "EncodedImage": "refersam.inference.predictor",
    "ReferSamConfig": "refersam.config",
    "ReferSamImageProcessor": "refersam.processor",
    "ReferSamModel": "refersam.model.refersam",
    "ReferSamOutput": "refersam.model.refersam",
    "ReferSamPredictor": "refersam.inference.predictor",
    "ReferSamProcessor": "refersam.processor",
    "Segmentation": "refersam.inference.predictor",
    "load_predictor": "refersam.inference.predictor",
    "model_from_backbones": "refersam.checkpoints.backbones",
    "register": "refersam.inference.registration",
}
__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    """Import a public name on first use; `import refersam` itself has no heavy imports and no side effects."""
    if name not in _HOMES:
        raise AttributeError(f"module 'refersam' has no attribute {name!r}")
    if name != "register":
        import_module("refersam.inference.registration").register()
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
