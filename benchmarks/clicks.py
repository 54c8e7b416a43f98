"""Measure what a click costs: `predict` for a phrase, then `refine` with one, two, ... clicks.

    python benchmarks/clicks.py                    # the bundled model at 256 px, base with random weights at 448 px

The time is that of the whole call, for an image of 640 x 480 pixels: prompts, decoder, upsampling, answer. The median
of the repeats counts.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import numpy as np
import torch
from latency import seconds
from PIL import Image
from report import add_option, machine, report

from refersam.checkpoints.folders import BUNDLED_CHECKPOINT, load_model
from refersam.config import ReferSamConfig
from refersam.inference.predictor import ReferSamPredictor
from refersam.model.refersam import ReferSamModel
from refersam.processor import ReferSamImageProcessor, ReferSamProcessor

PHRASE = "the large red circle on the left"


def predictors(device: str) -> dict[str, ReferSamPredictor]:
    """Return the models to measure: the bundled one, and base with the bundled model's tokenizer."""
    model, processor = load_model(str(BUNDLED_CHECKPOINT))
    torch.manual_seed(0)
    base = ReferSamModel(ReferSamConfig.from_preset("base"))
    large = ReferSamProcessor(ReferSamImageProcessor(), processor.tokenizer)
    return {
        "bundled model, 256 x 256": ReferSamPredictor(model.to(device), processor),
        "base, 448 x 448": ReferSamPredictor(base.to(device), large),
    }


def milliseconds(call: Callable[[], object], repeats: int, device: str) -> float:
    """Return the median time of a call."""
    call()
    return 1000 * statistics.median(seconds(call, torch.device(device)) for _ in range(repeats))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    add_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    rows = []
    for name, predictor in predictors(args.device).items():
        first = predictor.predict(image, PHRASE)
        second = predictor.refine(first, points=[(100, 200)])
        calls: tuple[Callable[[], object], ...] = (
            lambda predictor=predictor: predictor.predict(image, PHRASE),
            lambda predictor=predictor, first=first: predictor.refine(first, points=[(100, 200)]),
            lambda predictor=predictor, second=second: predictor.refine(
                second, points=[(50, 60)], box=(9, 9, 300, 400)
            ),
        )
        rows.append((name, *(f"{milliseconds(call, args.repeats, args.device):.0f}" for call in calls)))
    header = ("model", "phrase alone", "first click", "second click and a box")
    report(f"Milliseconds for an image of 640 x 480 pixels, {machine(args.device)}", header, rows, args.table)


if __name__ == "__main__":
    main()
