"""Overfit the tiny preset to 32 photographs with one phrase each, as a test of the whole training pipeline.

    python benchmarks/overfit.py --data-root DATA --out run             # RefCOCO's format
    python benchmarks/overfit.py --data-root DATA --dataset grefcoco --out run --set steps=300

Images and masks are first resized to the network's input and written as own data (docs/own_data.md) to OUT/data. The
tiny preset is then trained on them from scratch, without augmentation, and scored on the same images. OUT/run contains
the curves. A working pipeline reaches an mIoU of at least 90.
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
"""Minimum area of a target as a share of the image."""


def choose(samples: list[ReferringSample], count: int) -> list[ReferringSample]:
    """Return the first sample with a sufficiently large target of each image, `count` in all."""
    chosen: dict[str, ReferringSample] = {}
    for sample in samples:
        if len(chosen) == count:
            break
        is_new = sample.has_target and sample.image.image_id not in chosen
        if is_new and sample.load_mask().mean() >= SMALLEST_SHARE:
            chosen[sample.image.image_id] = sample
    return list(chosen.values())


def write_own_data(samples: list[ReferringSample], folder: Path, side: int) -> None:
    """Write train.jsonl with images and masks of side x side pixels."""
    folder.mkdir(parents=True)
    lines = []
    for index, sample in enumerate(samples):
        image, mask = f"{index:02d}.png", f"{index:02d}_mask.png"
        sample.image.load().resize((side, side), Image.Resampling.BILINEAR).save(folder / image)
        target = Image.fromarray(sample.load_mask().astype(np.uint8) * 255)
        target.resize((side, side), Image.Resampling.NEAREST).save(folder / mask)
        lines.append(json.dumps({"image": image, "phrase": sample.phrase, "mask": mask}))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Train, and print the mIoU on the training images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--dataset", default="refcoco")
    parser.add_argument("--split", default="train")
    parser.add_argument("--count", type=int, default=32, help="number of photographs")
    parser.add_argument("--size", type=int, default=64, help="side of the network's input in pixels")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--set", action="append", default=[], dest="changes", help="change a setting, such as steps=300"
    )
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
    metrics = run_with_progress(Trainer(check_settings(content, "overfit"), args.out / "run"), "overfitting")
    Console().print(f"mIoU {metrics['mIoU']:.1f} on {len(samples)} photographs at {args.size} x {args.size} pixels")


if __name__ == "__main__":
    main()
