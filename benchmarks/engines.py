"""Engines against PyTorch in float32, with the same weights, interleaved: milliseconds, ratio, agreement of masks.

    python benchmarks/engines.py                                  # the bundled model at 256 px
    python benchmarks/engines.py --preset base --repeats 3        # base at 448 px, random weights: times only
    python benchmarks/engines.py --phrases 5                      # five phrases about one image, and five single ones
    python benchmarks/engines.py --files exports                  # keeps the exported models there for the next time

The forms run in turn within one process, so that a noisy machine disturbs all alike; the median of the repeats counts.
Agreement is the mean IoU of a form's masks with PyTorch's in float32 on SceneRef val (`benchmarks/agreement.py`).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from agreement import HEADER, compare, scenes
from report import add_option, dtypes, machine, report
from rich.console import Console
from steps import measure_interleaved

from refersam.checkpoints.folders import BUNDLED_CHECKPOINT, load_model
from refersam.config import ReferSamConfig
from refersam.export.onnx import export_onnx
from refersam.export.openvino import export_openvino
from refersam.inference.predictor import ReferSamPredictor
from refersam.model.refersam import ReferSamModel
from refersam.processor import ReferSamImageProcessor, ReferSamProcessor

TOKENS = {"tiny": 6, "base": 20}
"""Tokens of a phrase."""
FORMS = {
    "PyTorch float32": ("model", "float32"),
    "PyTorch bfloat16": ("model", "bfloat16"),
    "ONNX Runtime float32": ("model.onnx", "float32"),
    "OpenVINO float32": ("openvino", "float32"),
    "OpenVINO bfloat16": ("openvino", "bfloat16"),
    "OpenVINO int8": ("openvino_int8", "float32"),
    "OpenVINO int8 + bfloat16": ("openvino_int8", "bfloat16"),
}
"""Where each form's model is in the folder of its preset, and its precision."""
ALONE, SEVERAL, ENCODED = "one phrase", "{} phrases about one image", "one phrase, image encoded before"
CALIBRATION_SCENES = {"tiny": 96, "base": 4}


def make_model(preset: str, folder: Path) -> Path:
    """A folder with the preset's model: the bundled one, or random weights with its tokenizer at 448 px."""
    if preset == "tiny":
        return BUNDLED_CHECKPOINT
    made = folder / preset / "model"
    if not (made / "config.json").exists():
        torch.manual_seed(0)
        tokenizer = ReferSamProcessor.from_pretrained(BUNDLED_CHECKPOINT).tokenizer
        ReferSamProcessor(ReferSamImageProcessor(), tokenizer).save_pretrained(made)
        ReferSamModel(ReferSamConfig.from_preset(preset)).save_pretrained(made)
    return made


def make_files(preset: str, folder: Path, forms: list[str]) -> dict[str, Path]:
    """Where each form's model is; exports what is missing."""
    source, places = make_model(preset, folder), {FORMS[form][0] for form in forms}
    files = {"model": source} | {name: folder / preset / name for name in places - {"model"}}
    missing = [name for name, path in files.items() if not path.exists()]
    if missing:
        model, processor = load_model(str(source))
        (folder / preset).mkdir(parents=True, exist_ok=True)
        for name in missing:
            Console(stderr=True).print(f"Exporting {name}")
            if name == "model.onnx":
                export_onnx(model, processor, files[name])
                continue
            images = [(s.image, s.phrases) for s in scenes(CALIBRATION_SCENES[preset], "train")]
            export_openvino(model, processor, files[name], calibration=images if "int8" in name else None)
    return {form: files[FORMS[form][0]] for form in forms}


def calls(predictor: ReferSamPredictor, tokens: int, phrases: int) -> dict[str, Callable[[], Any]]:
    """What is measured of a form: one phrase about an image of noise, or several at once, one by one, and encoded."""
    size = predictor.processor.image_processor.size
    random = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, size["height"], size["width"], generator=random).to(predictor.model.dtype)
    ids = torch.randint(5, 100, (phrases, tokens), generator=random)
    model = predictor.model
    single = {ALONE: lambda: model(pixels, ids[:1])}
    if phrases == 1:
        return single
    with torch.inference_mode():
        features = model.encode_image(pixels)
    return {
        **single,
        SEVERAL: lambda: model(pixels, ids),
        ENCODED: lambda: model(None, ids[:1], image_features=features),
    }


def main() -> None:
    """Measure all forms and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny", choices=list(TOKENS))
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), help="without it: all that the machine can run")
    parser.add_argument("--phrases", type=int, default=1, help="about one image")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--count", type=int, default=0, help="SceneRef val images for the agreement; 0 leaves it out")
    parser.add_argument("--files", type=Path, help="folder for exported models; without it they are not kept")
    add_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    forms = args.forms or [name for name, (_, dtype) in FORMS.items() if dtype in dtypes()]

    with tempfile.TemporaryDirectory() as temporary:
        files = make_files(args.preset, args.files or Path(temporary), forms)
        predictors = {
            form: ReferSamPredictor.from_pretrained(path, device="cpu", dtype=FORMS[form][1])
            for form, path in files.items()
        }
        side = predictors[forms[0]].processor.image_processor.size["height"]
        measured = {
            (form, what): call
            for form, predictor in predictors.items()
            for what, call in calls(predictor, TOKENS[args.preset], args.phrases).items()
        }
        with torch.inference_mode():
            times = measure_interleaved(measured, args.repeats, torch.device("cpu"))
        rows = []
        for form, what in measured:
            per_phrase = times[form, what] / (args.phrases if what == SEVERAL else 1)
            ratios = (per_phrase / times[other, ALONE] for other in (forms[0], form))
            row = (form, what.format(args.phrases), f"{1000 * per_phrase:.0f}", *(f"{ratio:.2f}" for ratio in ratios))
            if args.count and what == ALONE:
                row += compare(predictors[forms[0]], predictors[form], scenes(args.count)).row()
            rows.append(row)
    header = ("form", "call", "ms a phrase", f"of {forms[0]}", "of one phrase")
    header += HEADER if args.count else ()
    report(
        f"{args.preset} at {side} px, {TOKENS[args.preset]} tokens: {machine(threads=args.threads)}",
        header,
        rows,
        args.table,
    )


if __name__ == "__main__":
    main()
