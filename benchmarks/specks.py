"""Measure the effect of removing small mask components, by `min_component_fraction`, on SceneRef.

    python benchmarks/specks.py                                    # bundled model, 300 images of val

A removed component is a speck if less than half of its pixels belong to the target, else a part of the target. A target
object counts as lost if the mask covers at least half of it before the removal, and less than half afterwards.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import numpy as np
from report import add_option, machine, report
from rich.console import Console
from rich.progress import track

from refersam.checkpoints.folders import BUNDLED_CHECKPOINT
from refersam.inference.components import drop_specks, label_components
from refersam.inference.predictor import ReferSamPredictor
from sceneref import Scene, generate_scene
from sceneref.training.settings import SceneSettings

FRACTIONS = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
HEADER = (
    "fraction",
    "masks changed",
    "specks removed",
    "target parts removed",
    "objects lost",
    "mIoU",
    "mIoU of boxes",
)
Case = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Predicted (H, W) mask, (H, W) target mask, and (k, H, W) masks of the k target objects."""


def segment(predictor: ReferSamPredictor, scenes: Sequence[Scene]) -> Iterator[Case]:
    """Yield the masks, with all components, of phrases that have a target and a predicted mask."""
    for scene in track(scenes, "segmenting", console=Console(stderr=True)):
        texts = [phrase.text for phrase in scene.phrases]
        results = predictor.predict(scene.image, texts, min_component_fraction=0)
        for phrase, result in zip(scene.phrases, results, strict=True):
            if phrase.targets and result.area:
                yield result.mask, scene.target_mask(phrase), scene.masks[list(phrase.targets)]


def fill(mask: np.ndarray) -> np.ndarray:
    """Return the bounding box of an (H, W) mask as a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    filled = np.zeros_like(mask)
    filled[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return filled


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Return the IoU of two masks that are not both empty."""
    return float((one & other).sum() / (one | other).sum())


def measure(cases: Sequence[Case], fraction: float) -> tuple[str, ...]:
    """Return the table row of one fraction."""
    changed = specks = parts = lost = 0
    ious, box_ious = [], []
    for mask, truth, objects in cases:
        kept = drop_specks(mask, fraction)
        labels = label_components(mask & ~kept)
        changed += bool(labels.any())
        for number in range(1, labels.max() + 1):
            component = labels == number
            is_speck = 2 * (component & truth).sum() < component.sum()
            specks, parts = specks + is_speck, parts + (not is_speck)
        for item in objects:
            lost += 2 * (mask & item).sum() >= item.sum() > 2 * (kept & item).sum()
        ious.append(iou(kept, truth))
        box_ious.append(iou(fill(kept), fill(truth)))
    return (
        f"{fraction:g}",
        str(changed),
        str(specks),
        str(parts),
        str(lost),
        f"{100 * np.mean(ious):.2f}",
        f"{100 * np.mean(box_ious):.2f}",
    )


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(BUNDLED_CHECKPOINT))
    parser.add_argument("--split", default="val")
    parser.add_argument("--count", type=int, default=300, help="number of images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
    parser.add_argument("--device", default="cpu")
    add_option(parser)
    args = parser.parse_args()

    settings = SceneSettings().scenes(args.size, 6)
    scenes = [generate_scene(settings, args.split, args.seed, index) for index in range(args.count)]
    cases = list(segment(ReferSamPredictor.from_pretrained(args.model, device=args.device), scenes))
    objects = sum(2 * (mask & item).sum() >= item.sum() for mask, _, items in cases for item in items)
    report(
        f"SceneRef {args.split}, {args.count} images of {args.size} px, {len(cases)} masks, {objects} target "
        f"objects covered, {machine(args.device)}",
        HEADER,
        [measure(cases, fraction) for fraction in FRACTIONS],
        args.table,
    )


if __name__ == "__main__":
    main()
