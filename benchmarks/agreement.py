"""Do faster forms of a model give the same masks: two forms of it, asked the same, on SceneRef and on photographs.

    python benchmarks/agreement.py --dtype bfloat16                       # the bundled model, against float32
    python benchmarks/agreement.py --other model_int8.onnx                # an exported file, against its model
    python benchmarks/agreement.py --dtype bfloat16 --data-root DATA      # and on DATA's images (RefCOCO's format)

Agreement is the mean IoU between the two masks of a phrase (1 where both are empty); beside it each form's own mIoU
against the truth, over phrases that have a target, as SceneRef's protocol counts it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from report import add_option, machine, report
from rich.console import Console
from rich.progress import track

from refersam.checkpoints.folders import BUNDLED_CHECKPOINT
from refersam.data import ReferringImage, open_dataset
from refersam.data.index import group_by_image
from refersam.inference.predictor import ReferSamPredictor
from refersam.metrics.results import compare_masks
from sceneref import SceneRefSettings, generate_scene


@dataclass
class Tally:
    """Sums over phrases."""

    agreement: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    second: list[float] = field(default_factory=list)
    flipped: int = 0


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Of two masks; 1 where both are empty."""
    both, first, second = compare_masks(a, b)
    return both / (first + second - both) if first or second else 1.0


def compare(first: ReferSamPredictor, second: ReferSamPredictor, images: Iterator[ReferringImage]) -> Tally:
    """Ask both the same."""
    tally = Tally()
    for image in images:
        answers = [predictor.predict(image.image, list(image.phrases)) for predictor in (first, second)]
        for ours, theirs, truth in zip(*answers, image.masks, strict=True):
            tally.agreement.append(iou(ours.mask, theirs.mask))
            tally.flipped += ours.no_target != theirs.no_target
            if truth.any():
                tally.first.append(iou(ours.mask, truth))
                tally.second.append(iou(theirs.mask, truth))
    return tally


def main() -> None:
    """Compare and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(BUNDLED_CHECKPOINT))
    parser.add_argument("--other", help="the second form; the same model if only its dtype differs")
    parser.add_argument("--dtype", default="float32", help="dtype of the second form")
    parser.add_argument("--count", type=int, default=200, help="SceneRef val images of 256 px, 6 phrases each")
    parser.add_argument("--data-root")
    parser.add_argument("--dataset", default="refcoco")
    parser.add_argument("--split", default="val")
    add_option(parser)
    args = parser.parse_args()

    first = ReferSamPredictor.from_pretrained(args.model, device="cpu")
    second = ReferSamPredictor.from_pretrained(args.other or args.model, device="cpu", dtype=args.dtype)
    settings = SceneRefSettings(width=256, height=256, phrases_per_scene=6)
    console = Console(stderr=True)

    def scenes() -> Iterator[ReferringImage]:
        for index in track(range(args.count), "SceneRef", console=console):
            yield generate_scene(settings, "val", 0, index).to_referring_image(str(index))

    parts = {"SceneRef val": compare(first, second, scenes())}
    if args.data_root:
        groups = group_by_image(open_dataset(args.data_root, args.dataset, args.split))
        loaded = (ReferringImage.load(group) for group in track(groups, args.dataset, console=console))
        parts[f"{args.dataset} {args.split}"] = compare(first, second, loaded)
    rows = [
        (
            name,
            str(len(tally.agreement)),
            f"{np.mean(tally.agreement):.4f}",
            str(tally.flipped),
            f"{100 * np.mean(tally.first):.2f}",
            f"{100 * np.mean(tally.second):.2f}",
        )
        for name, tally in parts.items()
    ]
    report(
        f"{Path(args.model).name} against {Path(args.other or args.model).name} in {args.dtype}: {machine()}",
        ("images", "phrases", "agreement", "no-target differs", "mIoU first", "mIoU second"),
        rows,
        args.table,
    )


if __name__ == "__main__":
    main()
