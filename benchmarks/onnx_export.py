"""Exported models against torch: milliseconds, peak memory and size of torch float32, ONNX Runtime float32 and int8.

    python benchmarks/onnx_export.py                               # the bundled model; base at 448 px
    python benchmarks/onnx_export.py --presets tiny --repeats 30
    python benchmarks/onnx_export.py --files exports               # keeps the exported files there for the next time

One image, one phrase. The three are interleaved within one process, so that a noisy machine disturbs all alike, and the
median of the repeats counts; then each runs alone in a process of its own, whose peak memory is its own. The bundled
the box has its weights and its size of image; base has random weights, on which neither time nor memory depends.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from report import add_option, machine, report
from rich.console import Console
from steps import measure_interleaved

from refersam.checkpoints.folders import BUNDLED_CHECKPOINT
from refersam.config import ReferSamConfig
from refersam.export.onnx import export_onnx
from refersam.export.quantization import quantize
from refersam.inference import onnx_model
from refersam.inference.predictor import ReferSamPredictor
from refersam.model.refersam import ReferSamModel
from refersam.processor import ReferSamImageProcessor, ReferSamProcessor
from refersam.training.memory import peak_memory

CASES = {"tiny": [6], "base": [20, 6]}
"""Tokens of the phrase."""

FORMS = ("torch float32", "onnx float32", "onnx int8")
FUSED = "all fusions"
"""ONNX Runtime's own choice, in place of leaving out `SLOW_FUSIONS`."""


def make_model(preset: str, folder: Path) -> Path:
    """Return a folder with the preset's model: the bundled one, or random weights with its tokenizer at 448 px."""
    if preset == "tiny":
        return BUNDLED_CHECKPOINT
    made = folder / preset
    if not (made / "config.json").exists():
        torch.manual_seed(0)
        tokenizer = ReferSamProcessor.from_pretrained(BUNDLED_CHECKPOINT).tokenizer
        ReferSamProcessor(ReferSamImageProcessor(), tokenizer).save_pretrained(made)
        ReferSamModel(ReferSamConfig.from_preset(preset)).save_pretrained(made)
    return made


def make_files(preset: str, folder: Path) -> dict[str, Path]:
    """Where each form of the preset's model is; exports what is missing."""
    source = make_model(preset, folder)
    files = {FORMS[0]: source, FORMS[1]: folder / f"{preset}.onnx", FORMS[2]: folder / f"{preset}_int8.onnx"}
    if not files[FORMS[1]].exists():
        predictor = ReferSamPredictor.from_pretrained(source, device="cpu")
        found = export_onnx(predictor.model, predictor.processor, files[FORMS[1]])
        worst = max(case.error for case in found.cases)
        Console(stderr=True).print(f"{files[FORMS[1]].name}: within {worst:.0e} of the model's outputs")
    if not files[FORMS[2]].exists():
        quantize(files[FORMS[1]], files[FORMS[2]])
    return files


def inputs_of(predictor: ReferSamPredictor, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An image of noise at the processor's size, and a phrase."""
    size = predictor.processor.image_processor.size
    random = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, size["height"], size["width"], generator=random)
    return pixels, torch.randint(5, 100, (1, tokens), generator=random)


def measure_times(files: dict[str, Path], tokens: int, repeats: int, threads: int) -> dict[str, float]:
    """Median seconds of each form, interleaved, and of a unit."""
    torch.set_num_threads(threads)

    def form(path: Path, fusions: list[str] | None) -> Callable[[], Any]:
        with patch.object(onnx_model, "SLOW_FUSIONS", fusions):
            predictor = ReferSamPredictor.from_pretrained(path, device="cpu")
        return lambda: predictor.model(*inputs_of(predictor, tokens))

    forms = {name: form(path, onnx_model.SLOW_FUSIONS) for name, path in files.items()}
    forms |= {f"{name}, {FUSED}": form(path, None) for name, path in files.items() if path.suffix == ".onnx"}
    with torch.inference_mode():
        return measure_interleaved(forms, repeats, torch.device("cpu"))


def measure_memory(path: Path, tokens: int, threads: int) -> float:
    """Peak memory of this process in MiB, which loads one form and calls it twice."""
    torch.set_num_threads(threads)
    predictor = ReferSamPredictor.from_pretrained(path, device="cpu")
    with torch.inference_mode():
        for _ in range(2):
            predictor.model(*inputs_of(predictor, tokens))
    return 1024 * peak_memory(torch.device("cpu"))


def megabytes(path: Path) -> float:
    """Of a file, or of a folder's weights."""
    return sum(file.stat().st_size for file in (path.glob("*.safetensors") if path.is_dir() else [path])) / 1e6


def main() -> None:
    """Measure all cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--files", type=Path, help="folder for exported files; without it they are not kept")
    add_option(parser)
    args = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.files or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for preset in args.presets:
            # In a process of its own, for the peak memory of a child starts at its parent's.
            with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
                files = pool.submit(make_files, preset, folder).result()
            side = ReferSamProcessor.from_pretrained(files[FORMS[0]]).image_processor.size["height"]
            for tokens in CASES[preset]:
                with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
                    times = pool.submit(measure_times, files, tokens, args.repeats, args.threads).result()
                for form, path in files.items():
                    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
                        peak = pool.submit(measure_memory, path, tokens, args.threads).result()
                    sizes = f"{peak:.0f}", f"{megabytes(path):.0f}"
                    for name, more in ((form, sizes), (f"{form}, {FUSED}", ("", ""))):
                        if name in times:
                            shares = f"{times[name] / times['U']:.2f}", f"{times[name] / times[FORMS[0]]:.2f}"
                            rows.append(
                                (preset, str(side), str(tokens), name, f"{1000 * times[name]:.0f}", *shares, *more)
                            )
    report(
        f"One image, one phrase: {machine(threads=args.threads)}",
        ("preset", "px", "tokens", "form", "ms", "U", "of torch", "peak MiB", "file MB"),
        rows,
        args.table,
    )


if __name__ == "__main__":
    main()
