"""Do faster forms of a model give the same masks: two forms of it on SceneRef, and on photographs.

    python benchmarks/agreement.py --dtype bfloat16                       # the bundled model, against float32
    python benchmarks/agreement.py --other exported                       # an exported model, against its model
    python benchmarks/agreement.py --dtype bfloat16 --data-root DATA      # and on DATA's images (RefCOCO's format)

Agreement is the mean IoU between the two masks of a phrase (1 where both are empty); beside it each form's own mIoU
against the truth, over phrases that have a target, as SceneRef's protocol counts it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
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

HEADER = ("phrases", "agreement", "no-target differs", "mIoU first", "mIoU second")
"""Of `Tally.row`."""


@dataclass
class Tally:
    """Sums over phrases."""

    agreement: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    second: list[float] = field(default_factory=list)
    flipped: int = 0

    def row(self) -> tuple[str, ...]:
        """The end of a row of a table."""
        means = (f"{100 * np.mean(values):.2f}" for values in (self.first, self.second))
        return (str(len(self.agreement)), f"{np.mean(self.agreement):.4f}", str(self.flipped), *means)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Of two masks; 1 where both are empty."""
    both, first, second = compare_masks(a, b)
    return both / (first + second - both) if first or second else 1.0


def scenes(count: int, split: str = "val") -> Iterator[ReferringImage]:
    """SceneRef's scenes of 256 px, 6 phrases each."""
    settings = SceneRefSettings(width=256, height=256, phrases_per_scene=6)
    for index in track(range(count), f"SceneRef {split}", console=Console(stderr=True)):
        yield generate_scene(settings, split, 0, index).to_referring_image(str(index))


def compare(first: ReferSamPredictor, second: ReferSamPredictor, images: Iterable[ReferringImage]) -> Tally:
    """Compare the answers of both."""
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
    parser.add_argument("--other", help="the second form; the same model if only its precision differs")
    parser.add_argument("--dtype", default="float32", help="precision of the second form")
    parser.add_argument("--count", type=int, default=200, help="SceneRef val images of 256 px, 6 phrases each")
    parser.add_argument("--data-root")
    parser.add_argument("--dataset", default="refcoco")
    parser.add_argument("--split", default="val")
    add_option(parser)
    args = parser.parse_args()

    first = ReferSamPredictor.from_pretrained(args.model, device="cpu")
    second = ReferSamPredictor.from_pretrained(args.other or args.model, device="cpu", dtype=args.dtype)
    parts = {"SceneRef val": compare(first, second, scenes(args.count))}
    if args.data_root:
        groups = group_by_image(open_dataset(args.data_root, args.dataset, args.split))
        loaded = (ReferringImage.load(group) for group in track(groups, args.dataset, console=Console(stderr=True)))
        parts[f"{args.dataset} {args.split}"] = compare(first, second, loaded)
    report(
        f"{Path(args.model).name} against {Path(args.other or args.model).name} in {args.dtype}: {machine()}",
        ("images", *HEADER),
        [(name, *tally.row()) for name, tally in parts.items()],
        args.table,
    )


if __name__ == "__main__":
    main()
