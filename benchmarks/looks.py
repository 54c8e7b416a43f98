"""What a model recognises: every object that a colour and a shape single out is asked for by them, and nothing else.

    python benchmarks/looks.py                           # the model in the box on 120 scenes of the val split
    python benchmarks/looks.py --image-size 192          # the same, seen at another size
    python benchmarks/looks.py --model runs/tiny/model

No phrase is easier than "the red star". What goes wrong here is seeing, not language: each row has the objects of one
size, pattern, shape or colour, the mIoU, how often the answer was that nothing matches, and how often another place.
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
    """Ask for every object, count by its looks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(BUNDLED_CHECKPOINT))
    parser.add_argument("--count", type=int, default=120, help="scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image-size", type=int, help="side of the network's input in pixels; default: the model's")
    add_option(parser)
    args = parser.parse_args()

    predictor = ReferSamPredictor.from_pretrained(args.model, device="cpu")
    if args.image_size:
        predictor.processor.image_processor.size = {"height": args.image_size, "width": args.image_size}
    ious: dict[tuple[str, str], list[float]] = defaultdict(list)
    unseen: Counter[tuple[str, str]] = Counter()
    settings = SceneRefSettings(phrases_per_scene=1)
    for number in track(range(args.count), "asking"):
        scene = generate_scene(settings, "val", args.seed, number)
        counts = Counter((item.colour, item.shape) for item in scene.objects)
        asked = [(o, m) for o, m in zip(scene.objects, scene.masks, strict=True) if counts[o.colour, o.shape] == 1]
        if not asked:
            continue
        answers = predictor.predict(Image.fromarray(scene.image), [f"the {o.colour} {o.shape}" for o, _ in asked])
        for (item, mask), answer in zip(asked, answers, strict=True):
            iou = float((answer.mask & mask).sum() / (answer.mask | mask).sum())
            for key in (("all", ""), *((look, getattr(item, look)) for look in ATTRIBUTES)):
                ious[key].append(iou)
                unseen[key] += answer.no_target

    order = ("all", *ATTRIBUTES)
    rows = []
    for key in sorted(ious, key=lambda key: (order.index(key[0]), -len(ious[key]))):
        found = np.array(ious[key])
        missing = unseen[key] / len(found)
        elsewhere = (found < 0.5).mean() - missing
        shares = (f"{100 * share:.1f}" for share in (found.mean(), missing, elsewhere))
        rows.append((" ".join(key).strip(), str(len(found)), *shares))
    side = predictor.processor.image_processor.size["height"]
    title = f"{args.count} scenes of SceneRef val, seed {args.seed}, seen at {side} px, {machine()}"
    header = ("objects", "phrases", "mIoU", '"nothing matches"', "another place")
    report(title, header, rows, args.table)


if __name__ == "__main__":
    main()
