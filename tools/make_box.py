"""Turn a trained run into the model in the box: half precision, no-target decision and score set on training scenes.

    python tools/make_box.py runs/tiny/model
    python tools/make_box.py runs/tiny_9/model --mix runs/box_8 0.4

In training phrases without a target are the rarer ones, so a model that is unsure says that there is one. The score's
last bias is moved until, on fresh scenes of the training split, a given share of the phrases that have a target are
judged to have none. Then the last layer of the predicted IoU is scaled and shifted, so that on the same scenes the
score foretells the masks' IoU in the mean (least squares). Nothing else changes, and neither val nor test is looked at.

With --mix the weights are first the mean of two runs', of which one went on from the other: what a short run at high
rates leaves to chance averages out.
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

FIRST_PICTURE = 10_000_000
"""Training never gets so far: these scenes are new to the model."""


@dataclass
class Outcomes:
    """Of many phrases: logits that there is a target, predicted IoU, the mask's true IoU, whether there is a target."""

    target_logits: torch.Tensor
    predicted: torch.Tensor
    found: torch.Tensor
    has_target: torch.Tensor


@torch.inference_mode()
def ask(predictor: ReferSamPredictor, count: int) -> Outcomes:
    """All that the model says about `count` pictures."""
    settings = SceneRefSettings(width=256, height=256, phrases_per_scene=8)
    rows = []
    for index in range(FIRST_PICTURE, FIRST_PICTURE + count):
        item = generate_scene(settings, "train", 0, index).to_referring_image(str(index))
        output = predictor.model(**predictor.processor(images=item.image, text=item.phrases))
        masks = predictor.processor.resize_logits(output.mask_logits, *item.image.shape[:2]) >= 0
        truths = torch.from_numpy(item.masks)
        unions = (masks | truths).flatten(1).sum(1)
        ious = (masks & truths).flatten(1).sum(1) / unions.clamp(min=1)
        rows.append((output.object_score_logits, output.iou_scores, ious, truths.flatten(1).any(1)))
    return Outcomes(*(torch.cat(column) for column in zip(*rows, strict=True)))


@torch.no_grad()
def mix(model: ReferSamModel, other: ReferSamModel, share: float) -> None:
    """Move the weights by `share` of the way to another model's of the same sizes, in place."""
    others = other.state_dict()
    for name, weights in model.state_dict().items():
        if weights.is_floating_point():
            weights.lerp_(others[name], share)


def main() -> None:
    """Calibrate and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a trained model")
    parser.add_argument("--out", type=Path, default=Path(BUNDLED_CHECKPOINT))
    parser.add_argument("--mix", nargs=2, metavar=("OTHER", "SHARE"), help="folder of another model, and its share")
    parser.add_argument("--false-alarms", type=float, default=0.04, help="share of phrases with a target")
    parser.add_argument("--count", type=int, default=150, help="pictures to set the decision on")
    parser.add_argument("--guided-filter", type=int, metavar="RADIUS", help="give the model one, or 0: take it away")
    args = parser.parse_args()
    changes = {} if args.guided_filter is None else {"guided_filter_radius": args.guided_filter}
    predictor = ReferSamPredictor(*load_model(args.model, changes))
    if args.mix:
        other, share = args.mix[0], float(args.mix[1])
        if not 0 <= share <= 1:
            parser.error(f"the share of --mix must be from 0 to 1, but is {share}")
        mix(predictor.model, load_model(other)[0], share)
    outcomes = ask(predictor, args.count)
    with_target, without = (outcomes.target_logits[outcomes.has_target == kind] for kind in (True, False))
    shift = -with_target.quantile(args.false_alarms)
    # The score is the predicted IoU times the probability of a target: fitted where it counts, answers with a mask.
    answered = outcomes.target_logits + shift >= 0
    likely = (outcomes.target_logits + shift).sigmoid()[answered]
    inputs = torch.stack([outcomes.predicted[answered] * likely, likely], dim=1)
    scale, offset = torch.linalg.lstsq(inputs, outcomes.found[answered].unsqueeze(1)).solution.flatten().tolist()
    with torch.no_grad():
        predictor.model.sam.object_score_head.proj_out.bias += shift
        last = predictor.model.sam.mask_decoder.iou_prediction_head.proj_out
        last.weight *= scale
        last.bias.mul_(scale).add_(offset)
    predictor.model.half().save_pretrained(args.out)
    predictor.processor.save_pretrained(args.out)
    found = (without + shift < 0).float().mean()
    Console().print(
        f"{len(with_target)} phrases with a target, {len(without)} without: bias moved by {shift:.2f}, "
        f"{args.false_alarms:.0%} false alarms, {found:.0%} of those without found. The predicted IoU is scaled by "
        f"{scale:.2f} and shifted by {offset:+.2f}. Written to {args.out}/"
    )


if __name__ == "__main__":
    main()
