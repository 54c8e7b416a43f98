"""Make the bundled checkpoint from a trained model: calibrate its scores and convert it to half precision.

    python tools/make_bundled_checkpoint.py runs/tiny/model
    python tools/make_bundled_checkpoint.py runs/tiny_9/model --interpolate runs/tiny_8/model 0.4

No-target phrases are a minority in training, so that uncertain models predict a target too often. The last bias of the
object score is shifted until, on unused scenes of the training split, a given share of the phrases with a target is
predicted as no-target. The last layer of the predicted IoU is then scaled and shifted by least squares on the same
scenes, so that the score estimates the IoU of the mask. No other weights change. The val and test splits are not used.

With --interpolate, the weights are first averaged with those of another model, such as the start of the run.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from refersam.checkpoints.folders import BUNDLED_CHECKPOINT, load_model
from refersam.inference.predictor import ReferSamPredictor
from refersam.model.refersam import ReferSamModel
from sceneref import SceneRefSettings, generate_scene

FIRST_SCENE = 10_000_000
"""Index of the first scene for calibration, beyond all scenes of training."""


@dataclass
class Outcomes:
    """Predictions and truth for n phrases.

    Attributes:
        target_logits: (n,) object score logits.
        predicted: (n,) predicted IoU.
        found: (n,) true IoU of the predicted mask.
        has_target: (n,) bool, whether the phrase has a target.
    """

    target_logits: torch.Tensor
    predicted: torch.Tensor
    found: torch.Tensor
    has_target: torch.Tensor


@torch.inference_mode()
def collect_outcomes(predictor: ReferSamPredictor, count: int) -> Outcomes:
    """Run the model on `count` scenes with eight phrases each."""
    settings = SceneRefSettings(width=256, height=256, phrases_per_scene=8)
    rows = []
    for index in range(FIRST_SCENE, FIRST_SCENE + count):
        item = generate_scene(settings, "train", 0, index).to_referring_image(str(index))
        output = predictor.model(**predictor.processor(images=item.image, text=item.phrases))
        masks = predictor.processor.resize_logits(output.mask_logits, *item.image.shape[:2]) >= 0
        truths = torch.from_numpy(item.masks)
        unions = (masks | truths).flatten(1).sum(1)
        ious = (masks & truths).flatten(1).sum(1) / unions.clamp(min=1)
        rows.append((output.object_score_logits, output.iou_scores, ious, truths.flatten(1).any(1)))
    return Outcomes(*(torch.cat(column) for column in zip(*rows, strict=True)))


@torch.no_grad()
def interpolate(model: ReferSamModel, other: ReferSamModel, share: float) -> None:
    """Interpolate the weights linearly towards those of another model of the same sizes, in place.

    Args:
        model: model to change.
        other: the other model.
        share: weight of the other model, 0 to 1.
    """
    others = other.state_dict()
    for name, weights in model.state_dict().items():
        if weights.is_floating_point():
            weights.lerp_(others[name], share)


def main() -> None:
    """Calibrate the model and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a trained model")
    parser.add_argument("--out", type=Path, default=Path(BUNDLED_CHECKPOINT))
    parser.add_argument(
        "--interpolate", nargs=2, metavar=("OTHER", "WEIGHT"), help="folder and weight of another model"
    )
    parser.add_argument(
        "--false-alarms", type=float, default=0.04, help="share of phrases with a target to predict as no-target"
    )
    parser.add_argument("--count", type=int, default=150, help="number of scenes for calibration")
    parser.add_argument("--guided-filter", type=int, metavar="RADIUS", help="add a guided filter, 0 to remove it")
    args = parser.parse_args()
    changes = {} if args.guided_filter is None else {"guided_filter_radius": args.guided_filter}
    predictor = ReferSamPredictor(*load_model(args.model, changes))
    if args.interpolate:
        other, share = args.interpolate[0], float(args.interpolate[1])
        if not 0 <= share <= 1:
            parser.error(f"the weight of --interpolate must be from 0 to 1, but is {share}")
        interpolate(predictor.model, load_model(other)[0], share)
    outcomes = collect_outcomes(predictor, args.count)
    with_target, without = (outcomes.target_logits[outcomes.has_target == kind] for kind in (True, False))
    shift = -with_target.quantile(args.false_alarms)
    # The score is the predicted IoU times the probability of a target. It is fitted on phrases with a predicted target.
    chosen = outcomes.target_logits + shift >= 0
    probability = (outcomes.target_logits + shift).sigmoid()[chosen]
    inputs = torch.stack([outcomes.predicted[chosen] * probability, probability], dim=1)
    scale, offset = torch.linalg.lstsq(inputs, outcomes.found[chosen].unsqueeze(1)).solution.flatten().tolist()
    with torch.no_grad():
        predictor.model.sam.object_score_head.proj_out.bias += shift
        last = predictor.model.sam.mask_decoder.iou_prediction_head.proj_out
        last.weight *= scale
        last.bias.mul_(scale).add_(offset)
    predictor.model.half().save_pretrained(args.out)
    predictor.processor.save_pretrained(args.out)
    found = (without + shift < 0).float().mean()
    Console().print(
        f"{len(with_target)} phrases with a target, {len(without)} without. Bias of the object score shifted by "
        f"{shift:.2f}: {args.false_alarms:.0%} false alarms, {found:.0%} of the no-target phrases recognised. "
        f"Predicted IoU scaled by {scale:.2f} and shifted by {offset:+.2f}. Written to {args.out}/"
    )


if __name__ == "__main__":
    main()
