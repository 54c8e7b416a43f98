"""Score a model on SceneRef: mIoU, oIoU, Pr@X, no-target metrics, mIoU by phenomenon, and phrase-blind baselines.

    python benchmarks/accuracy.py                    # bundled model, 500 images of val and 250 of compositional
    python benchmarks/accuracy.py --model runs/tiny/model --split val --count 200

The scenes are rendered from the seed; they are the same as those of `refersam data scenes`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from report import add_option, machine, report
from rich.console import Console
from rich.progress import track

from refersam.checkpoints.folders import BUNDLED_CHECKPOINT, load_model
from refersam.evaluate import evaluate_images
from refersam.inference.predictor import ReferSamPredictor
from refersam.metrics import calibration
from refersam.training.recipe import read_settings
from sceneref import SceneRefSettings, blind_guess_scores, generate_scene
from sceneref.metrics import sceneref_metrics
from sceneref.training.settings import SceneSettings


def score(
    predictor: ReferSamPredictor, settings: SceneRefSettings, split: str, seed: int, count: int, threshold: float
) -> dict[str, float]:
    """Return all metrics of one split, in percent."""
    scenes = [generate_scene(settings, split, seed, index) for index in range(count)]
    images = (
        scene.to_referring_image(f"{split}_{index}")
        for index, scene in enumerate(track(scenes, split, console=Console(stderr=True)))
    )
    results = list(evaluate_images(predictor.model, predictor.processor, images, threshold))
    metrics = sceneref_metrics(results)
    reliability = calibration(results)
    if reliability is not None:
        metrics["expected calibration error of the score"] = 100 * reliability.error
    return metrics | {f"blind guess: {name}": score for name, score in blind_guess_scores(scenes).items()}


def main() -> None:
    """Score and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(BUNDLED_CHECKPOINT))
    parser.add_argument("--split", nargs="+", default=["val", "compositional"])
    parser.add_argument("--count", nargs="+", type=int, default=[500, 250], help="number of images of each split")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
    parser.add_argument("--phrases", type=int, default=6, help="phrases per image")
    parser.add_argument(
        "--recipe", type=Path, help="recipe whose validation settings to use instead of the benchmark's own"
    )
    parser.add_argument("--no-target-threshold", type=float, default=0.5)
    parser.add_argument(
        "--guided-filter", type=int, metavar="RADIUS", help="radius of the guided filter, 0 for none (default: model's)"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the metrics by split to this file")
    add_option(parser)
    args = parser.parse_args()
    if len(args.split) != len(args.count):
        parser.error(f"expected one --count for each --split, but got {len(args.count)} for {len(args.split)}")

    if args.guided_filter is None:
        predictor = ReferSamPredictor.from_pretrained(args.model, device=args.device)
    else:
        model, processor = load_model(args.model, {"guided_filter_radius": args.guided_filter})
        predictor = ReferSamPredictor(model.to(args.device), processor)
    own = getattr(read_settings(args.recipe), "sceneref", None) if args.recipe else None
    settings = (own.validation if own else SceneSettings()).scenes(args.size, args.phrases)
    scores = {
        split: score(predictor, settings, split, args.seed, count, args.no_target_threshold)
        for split, count in zip(args.split, args.count, strict=True)
    }
    names = dict.fromkeys(name for found in scores.values() for name in found if not name.startswith("phrases"))
    rows = [("phrases", *(f"{found['phrases']:.0f}" for found in scores.values()))]
    rows += [
        (name, *(f"{found[name]:.1f}" if name in found else "" for found in scores.values()))
        for name in sorted(names, key=lambda name: name.startswith(("expected", "blind")))
    ]
    columns = (f"{split}, {count} images" for split, count in zip(args.split, args.count, strict=True))
    report(f"SceneRef, seed {args.seed}, in percent, {machine(args.device)}", ("metric", *columns), rows, args.table)
    if args.json:
        args.json.write_text(json.dumps(scores, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
