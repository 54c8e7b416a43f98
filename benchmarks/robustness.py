"""Score the robustness to rephrasing on 200 hand-written phrases about fixed SceneRef scenes.

    python benchmarks/robustness.py --out robustness       # bundled model; open robustness/report.html
    python benchmarks/robustness.py --model runs/tiny/model --out robustness

The phrases are in phrases_by_hand.yaml: plain phrases, synonyms, plurals, typing errors, upper case, missing articles,
long sentences, and no-target phrases. OUT/data contains them as own data (docs/own_data.md), the report has a table by
kind, and OUT/phrases.png shows every phrase with its mask. A phrase counts as correct at an IoU of at least 0.5, or if
a no-target phrase is predicted as such.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageDraw
from report import add_option, machine, report

from refersam.checkpoints.folders import BUNDLED_CHECKPOINT
from refersam.data import open_dataset
from refersam.drawing import draw_overlay, mask_image
from refersam.evaluate import evaluate_model
from refersam.evaluate.output import write_evaluation
from refersam.inference.predictor import ReferSamPredictor
from refersam.metrics import PROTOCOLS
from refersam.metrics.results import ratio
from sceneref import Scene, SceneRefSettings, generate_scene

PHRASES = Path(__file__).parent / "phrases_by_hand.yaml"
SCENES = SceneRefSettings(width=256, height=256, phrases_per_scene=4, min_objects=4, max_objects=7, difficulty=0.5)
MIN_IOU = 0.5
COLUMNS = 10
TILE = 150


def write_data(folder: Path) -> dict[int, Scene]:
    """Write the scenes and phrases as own data: test.jsonl with images and masks."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes, lines = {}, []
    for number, kinds in yaml.safe_load(PHRASES.read_text()).items():
        scene = scenes[number] = generate_scene(SCENES, "test", 0, number)
        Image.fromarray(scene.image).save(folder / f"{number}.png")
        for kind, phrases in kinds.items():
            for phrase, targets in phrases.items():
                line = {"image": f"{number}.png", "phrase": phrase, "tags": [kind], "id": str(len(lines))}
                if targets:
                    mask = scene.masks[targets].any(axis=0)
                    mask_image(mask).save(folder / f"mask_{len(lines)}.png")
                    line["mask"] = f"mask_{len(lines)}.png"
                else:
                    line["no_target"] = True
                lines.append(line)
    (folder / "test.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return scenes


def draw_phrases(rows: list[tuple[Image.Image, np.ndarray, str, bool]], path: Path) -> None:
    """Draw a sheet of predicted masks with green frames for correct ones and red frames for wrong ones.

    Args:
        rows: image, (H, W) mask, phrase, and whether the mask is correct.
        path: output file (PNG).
    """
    height = TILE + 34
    sheet = Image.new("RGB", (COLUMNS * TILE, -(-len(rows) // COLUMNS) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (image, mask, phrase, good) in enumerate(rows):
        left, top = index % COLUMNS * TILE, index // COLUMNS * height
        overlay = draw_overlay(image, mask) if mask.any() else image
        sheet.paste(overlay.resize((TILE - 8, TILE - 8)), (left + 4, top + 4))
        draw.rectangle(
            (left + 1, top + 1, left + TILE - 2, top + TILE - 2), outline="green" if good else "red", width=2
        )
        words, lines = phrase.split(), [""]
        for word in words:
            if len(lines[-1]) + len(word) > 24:
                lines.append("")
            lines[-1] += f"{word} "
        draw.multiline_text((left + 4, top + TILE), "\n".join(lines[:3]), fill="black", spacing=0, font_size=10)
    sheet.quantize(128).save(path, optimize=True)


def main() -> None:
    """Segment all phrases, and write the report, the sheet and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(BUNDLED_CHECKPOINT))
    parser.add_argument("--out", type=Path, required=True)
    add_option(parser)
    args = parser.parse_args()

    scenes = write_data(args.out / "data")
    samples = list(open_dataset(args.out / "data", "jsonl", "test"))
    predictor = ReferSamPredictor.from_pretrained(args.model, device="cpu")
    protocol = PROTOCOLS["sceneref"]
    evaluation = evaluate_model(predictor, samples, protocol)
    source = {
        "model": args.model,
        "dataset": "phrases by hand",
        "split": "test",
        "split_by": None,
        "limit": None,
        "data_root": str(args.out / "data"),
        "predictions": None,
        "text_field": "sent",
    }
    write_evaluation(evaluation, source, args.out)

    by_kind: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    rows = []
    for sample, prediction, result in zip(samples, evaluation.predictions, evaluation.results, strict=True):
        image = sample.image.load()
        mask = prediction.pixels(protocol, image.height, image.width) & result.judged_target
        iou = (
            ratio(protocol, result)
            if result.judged_target and result.has_target
            else float(result.judged_target == result.has_target)
        )
        by_kind[sample.tags[0]].append((iou, iou >= MIN_IOU))
        rows.append((image, mask, sample.phrase, iou >= MIN_IOU))
    draw_phrases(rows, args.out / "phrases.png")

    every = [pair for pairs in by_kind.values() for pair in pairs]
    table = []
    for kind, pairs in [*by_kind.items(), ("all", every)]:
        ious, good = zip(*pairs, strict=True)
        table.append((kind, str(len(pairs)), f"{100 * np.mean(ious):.1f}", str(sum(good))))
    title = f"{len(samples)} phrases about {len(scenes)} scenes, {machine()}"
    report(title, ("wording", "phrases", "mean IoU", "correct"), table, args.table)


if __name__ == "__main__":
    main()
