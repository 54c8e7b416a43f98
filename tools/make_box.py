"""Turn a trained run into the model in the box: half precision, and the no-target decision set on training scenes.

    python tools/make_box.py runs/tiny/model

In training phrases without a target are the rarer ones, so a model that is unsure says that there is one. The score's
last bias is moved until, on fresh scenes of the training split, a given share of the phrases that have a target are
judged to have none; nothing else changes, and neither val nor test is looked at.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console

from refersam.data.sceneref import SceneRefSettings, generate_scene
from refersam.predictor import MODEL_IN_THE_BOX, ReferSamPredictor
from refersam.training.sources import scene_to_referring_image

FIRST_PICTURE = 10_000_000
"""Training never gets so far: these scenes are new to the model."""


@torch.inference_mode()
def object_logits(predictor: ReferSamPredictor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of phrases that have a target, and of those that have none, over `count` pictures."""
    settings = SceneRefSettings(width=256, height=256, phrases_per_scene=8)
    with_target, without = [], []
    for index in range(FIRST_PICTURE, FIRST_PICTURE + count):
        item = scene_to_referring_image(generate_scene(settings, "train", 0, index), str(index))
        output = predictor.model(**predictor.processor(images=item.image, text=item.phrases))
        for score, mask in zip(output.object_score_logits.tolist(), item.masks, strict=True):
            (with_target if mask.any() else without).append(score)
    return torch.tensor(with_target), torch.tensor(without)


def main() -> None:
    """Calibrate and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a trained model")
    parser.add_argument("--out", type=Path, default=Path(MODEL_IN_THE_BOX))
    parser.add_argument("--false-alarms", type=float, default=0.08, help="share of phrases with a target")
    parser.add_argument("--count", type=int, default=150, help="pictures to set the decision on")
    args = parser.parse_args()
    predictor = ReferSamPredictor.from_pretrained(args.model, device="cpu")
    with_target, without = object_logits(predictor, args.count)
    shift = -with_target.quantile(args.false_alarms)
    with torch.no_grad():
        predictor.model.sam.object_score_head.proj_out.bias += shift
    predictor.model.half().save_pretrained(args.out)
    predictor.processor.save_pretrained(args.out)
    found = (without + shift < 0).float().mean()
    Console().print(
        f"{len(with_target)} phrases with a target, {len(without)} without: bias moved by {shift:.2f}, "
        f"{args.false_alarms:.0%} false alarms, {found:.0%} of those without found. Written to {args.out}/"
    )


if __name__ == "__main__":
    main()
