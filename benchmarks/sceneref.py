"""Score a model on SceneRef: mIoU, oIoU, Pr@X, the no-target decision, every phenomenon, and a phrase-blind guess.

    python benchmarks/sceneref.py                                  # the model in the box on 500 val pictures
    python benchmarks/sceneref.py --model runs/tiny/model --split compositional --count 200

Scenes are drawn from the seed while it runs, the same as `refersam data scenes` writes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from refersam.data.sceneref import blind_guess_scores, generate_scene
from refersam.evaluate import evaluate_images
from refersam.metrics import calibration, sceneref_metrics
from refersam.predictor import MODEL_IN_THE_BOX, ReferSamPredictor
from refersam.training.recipe import read_settings
from refersam.training.settings import SceneSettings
from refersam.training.sources import scene_to_referring_image


def main() -> None:
    """Score and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODEL_IN_THE_BOX))
    parser.add_argument("--split", default="val")
    parser.add_argument("--count", type=int, default=500, help="pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=256, help="side of the pictures in pixels")
    parser.add_argument("--phrases", type=int, default=6, help="phrases per picture")
    parser.add_argument("--recipe", type=Path, help="whose validation scenes to draw, in place of the benchmark's own")
    parser.add_argument("--no-target-threshold", type=float, default=0.5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()

    predictor = ReferSamPredictor.from_pretrained(args.model, device=args.device)
    own = read_settings(args.recipe).data.validation_scenes if args.recipe else None
    settings = (own or SceneSettings()).scenes(args.size, args.phrases)
    console = Console(stderr=True)

    drawn = [generate_scene(settings, args.split, args.seed, index) for index in range(args.count)]
    images = (
        scene_to_referring_image(scene, f"{args.split}_{index}")
        for index, scene in enumerate(track(drawn, "evaluating", console=console))
    )
    results = list(evaluate_images(predictor.model, predictor.processor, images, args.no_target_threshold))
    metrics = sceneref_metrics(results)
    reliability = calibration(results)
    if reliability is not None:
        metrics["expected calibration error of the score"] = 100 * reliability.error
    metrics |= {f"blind guess: {name}": score for name, score in blind_guess_scores(drawn).items()}
    table = Table("metric", "value", title=f"SceneRef {args.split}, seed {args.seed}, {args.count} pictures")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.1f}")
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(metrics, indent=1))


if __name__ == "__main__":
    main()
