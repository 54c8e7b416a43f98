"""Score the recognition of sizes, patterns, colours and shapes with phrases such as "the red star".

    python benchmarks/attributes.py                      # bundled model, 120 scenes of the val split
    python benchmarks/attributes.py --image-size 192     # another input size of the network
    python benchmarks/attributes.py --model runs/tiny/model

Each phrase names the colour and shape of an object that they identify uniquely. Errors on these simple phrases are
mostly visual, not linguistic. Each row covers the objects with one attribute value: the mIoU, the share of phrases
predicted as no-target, and the share with a wrong mask (IoU below 0.5).
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict

import numpy as np
from PIL import Image
from report import add_option, machine, report
from rich.progress import track

from refersam.checkpoints.folders import BUNDLED_CHECKPOINT
from refersam.inference.predictor import ReferSamPredictor
from sceneref import SceneRefSettings, generate_scene
from sceneref.settings import ATTRIBUTES


def main() -> None:
    """Score all objects, and print a table by attribute."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(BUNDLED_CHECKPOINT))
    parser.add_argument("--count", type=int, default=120, help="number of scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image-size", type=int, help="side of the network's input in pixels (default: model's)")
    add_option(parser)
    args = parser.parse_args()

    predictor = ReferSamPredictor.from_pretrained(args.model, device="cpu")
    if args.image_size:
        predictor.processor.image_processor.size = {"height": args.image_size, "width": args.image_size}
    ious: dict[tuple[str, str], list[float]] = defaultdict(list)
    no_target: Counter[tuple[str, str]] = Counter()
    settings = SceneRefSettings(phrases_per_scene=1)
    for number in track(range(args.count), "segmenting"):
        scene = generate_scene(settings, "val", args.seed, number)
        counts = Counter((item.colour, item.shape) for item in scene.objects)
        queried = [(o, m) for o, m in zip(scene.objects, scene.masks, strict=True) if counts[o.colour, o.shape] == 1]
        if not queried:
            continue
        results = predictor.predict(Image.fromarray(scene.image), [f"the {o.colour} {o.shape}" for o, _ in queried])
        for (item, mask), result in zip(queried, results, strict=True):
            iou = float((result.mask & mask).sum() / (result.mask | mask).sum())
            for key in (("all", ""), *((name, getattr(item, name)) for name in ATTRIBUTES)):
                ious[key].append(iou)
                no_target[key] += result.no_target

    order = ("all", *ATTRIBUTES)
    rows = []
    for key in sorted(ious, key=lambda key: (order.index(key[0]), -len(ious[key]))):
        found = np.array(ious[key])
        missing = no_target[key] / len(found)
        elsewhere = (found < 0.5).mean() - missing
        shares = (f"{100 * share:.1f}" for share in (found.mean(), missing, elsewhere))
        rows.append((" ".join(key).strip(), str(len(found)), *shares))
    side = predictor.processor.image_processor.size["height"]
    title = f"{args.count} scenes of SceneRef val, seed {args.seed}, input size {side} px, {machine()}"
    header = ("objects", "phrases", "mIoU", "no-target, %", "wrong mask, %")
    report(title, header, rows, args.table)


if __name__ == "__main__":
    main()
