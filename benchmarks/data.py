"""Measure data loading on one core: decode images, rasterise masks, resize both.

    python benchmarks/data.py                                          # rendered SceneRef scenes, 640 x 480 (PNG)
    python benchmarks/data.py --data-root DATA --dataset refcoco --split val   # photographs (JPEG)

One process, one thread. An image is decoded once for all of its phrases; each phrase has its own mask. All files are
read twice, and the second pass is reported, to exclude the time of the disk.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from refersam.data import ReferringSample, open_dataset
from refersam.image import resize_to_array
from sceneref import SceneRefSettings, write_sceneref

STEPS = ("decode the image", "resize the image", "rasterise the mask", "resize the mask")


def measure(groups: list[tuple[ReferringSample, ...]], size: int) -> dict[str, float]:
    """Return the seconds of each step for all images and phrases."""
    seconds = dict.fromkeys(STEPS, 0.0)
    for group in groups:
        times = [time.perf_counter()]
        image = group[0].image.load()
        times.append(time.perf_counter())
        resize_to_array(image, size, size)
        times.append(time.perf_counter())
        masks = [sample.load_mask() for sample in group]
        times.append(time.perf_counter())
        for mask in masks:
            resize_to_array(mask.astype(np.uint8) * 255, size, size)
        times.append(time.perf_counter())
        for step, start, end in zip(STEPS, times, times[1:], strict=False):
            seconds[step] += end - start
    return seconds


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--dataset", default="refcoco")
    parser.add_argument("--split", default="val")
    parser.add_argument("--count", type=int, default=100, help="maximum number of images")
    parser.add_argument("--size", type=int, default=448, help="side of the network's input in pixels")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        root, dataset = args.data_root or Path(temporary), args.dataset if args.data_root else "sceneref"
        if args.data_root is None:
            settings = SceneRefSettings(width=640, height=480, phrases_per_scene=3)
            write_sceneref(root, args.split, args.count, 0, settings)
        groups = open_dataset(root, dataset, args.split).images()[: args.count]
        measure(groups, args.size)
        seconds = measure(groups, args.size)
    phrases = sum(map(len, groups))
    total = sum(seconds.values())
    table = Table(
        *("step", "ms", "per"),
        title=f"{dataset} {args.split}: {len(groups)} images ({groups[0][0].image.path.suffix}), {phrases} phrases, "
        f"to {args.size} px",
    )
    for step, value in seconds.items():
        count, unit = (len(groups), "image") if step.endswith("image") else (phrases, "phrase")
        table.add_row(step, f"{1000 * value / count:.2f}", unit)
    console = Console()
    console.print(table)
    console.print(
        f"{len(groups) / total:.0f} images, {phrases / total:.0f} phrases per second and core", highlight=False
    )


if __name__ == "__main__":
    main()
