"""Can the whole path learn at all: 32 photographs with one phrase each, learned by heart.

    python benchmarks/overfit.py --data-root DATA --out run             # RefCOCO's format
    python benchmarks/overfit.py --data-root DATA --dataset grefcoco --out run --set steps=300

Pictures and masks are first scaled to the network's input, as own data (docs/own_data.md) in OUT/data; then the tiny
preset trains on them from scratch, without augmentation, and is scored on the very same ones. OUT/run has the curves. A
path that works ends at an mIoU of 90 and more.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from refersam.cli.console import quiet_transformers
from refersam.cli.train import run_with_progress
from refersam.data import ReferringSample, open_dataset
from refersam.training.recipe import apply_change, check_settings, split_change
from refersam.training.trainer import Trainer

SMALLEST_SHARE = 0.01
"""Of the picture's pixels, that a target must have."""


def choose(samples: list[ReferringSample], count: int) -> list[ReferringSample]:
    """The first sample with a large enough target of each of the first pictures."""
    chosen: dict[str, ReferringSample] = {}
    for sample in samples:
        if len(chosen) == count:
            break
        is_new = sample.has_target and sample.image.image_id not in chosen
        if is_new and sample.load_mask().mean() >= SMALLEST_SHARE:
            chosen[sample.image.image_id] = sample
    return list(chosen.values())


def write_own_data(samples: list[ReferringSample], folder: Path, side: int) -> None:
    """side x side pixels: train.jsonl with its pictures and masks."""
    folder.mkdir(parents=True)
    lines = []
    for index, sample in enumerate(samples):
        picture, mask = f"{index:02d}.png", f"{index:02d}_mask.png"
        sample.image.load().resize((side, side), Image.Resampling.BILINEAR).save(folder / picture)
        target = Image.fromarray(sample.load_mask().astype(np.uint8) * 255)
        target.resize((side, side), Image.Resampling.NEAREST).save(folder / mask)
        lines.append(json.dumps({"image": picture, "phrase": sample.phrase, "mask": mask}))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Train, score and say whether it is enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--dataset", default="refcoco")
    parser.add_argument("--split", default="train")
    parser.add_argument("--count", type=int, default=32, help="photographs")
    parser.add_argument("--size", type=int, default=64, help="side of the network's input in pixels")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], dest="changes", help="change a setting: steps=300")
    args = parser.parse_args()

    samples = choose(list(open_dataset(args.data_root, args.dataset, args.split)), args.count)
    write_own_data(samples, args.out / "data", args.size)
    content = {
        "model": {"preset": "tiny", "config": {"supervise_iou": False, "object_score_head": False}},
        "data": {
            "root": str(args.out / "data"),
            "dataset": "jsonl",
            "validation_split": "train",
            "validation_images": None,
            "image_size": args.size,
            "phrases_per_image": 1,
            "workers": 0,
        },
        "steps": 600,
        "batch_size": 8,
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 30, "decay_from": 0.6, "ema_decay": 0.95},
        "loss": {"num_points": 1024},
        "log_every": 20,
        "validate_every": 100,
        "checkpoint_every": 100,
    }
    for change in args.changes:
        apply_change(content, *split_change(change))
    quiet_transformers()
    metrics = run_with_progress(Trainer(check_settings(content, "overfit"), args.out / "run"), "learning by heart")
    Console().print(f"mIoU {metrics['mIoU']:.1f} on {len(samples)} photographs at {args.size} x {args.size} pixels")


if __name__ == "__main__":
    main()
