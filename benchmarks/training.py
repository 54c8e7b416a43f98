"""Samples a second and peak memory of training steps: with and without gradient checkpointing, in each precision.

    python benchmarks/training.py                                             # tiny at 128 px, on this machine
    python benchmarks/training.py --presets base --size 448 --precisions no bf16 fp16 --images 8

Every case runs in a process of its own, on random images with phrases of 20 tokens: forward, backward, clipping, a
step of AdamW, and the averaged weights. Weights are random; neither time nor memory depends on their values.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

import torch
from report import add_option, dtypes, machine, report

NUM_TOKENS = 20


def measure(
    preset: str, size: int, images: int, phrases: int, precision: str, gradient_checkpointing: bool, steps: int
) -> dict:
    """One case."""
    from refersam import ReferSamConfig, ReferSamModel
    from refersam.training.data import Batch
    from refersam.training.engine import ReferSamEngine, build_accelerator
    from refersam.training.memory import peak_memory
    from refersam.training.settings import TrainSettings

    torch.manual_seed(0)
    fields = {"precision": precision, "gradient_checkpointing": gradient_checkpointing}
    settings = TrainSettings.model_validate(fields)
    accelerator = build_accelerator(settings)
    model = ReferSamModel(ReferSamConfig.from_preset(preset))
    model.interactor.gradient_checkpointing = gradient_checkpointing
    engine = ReferSamEngine(model, settings, accelerator)
    engine.trainee.train()
    count = images * phrases
    batch = Batch(
        pixel_values=torch.randn(images, 3, size, size),
        input_ids=torch.randint(5, 100, (count, NUM_TOKENS)),
        attention_mask=torch.ones(count, NUM_TOKENS, dtype=torch.long),
        target_mask=torch.rand(count, size, size).round(),
        sample_ids=tuple(map(str, range(count))),
        seeds=tuple(range(count)),
    )
    on_gpu = accelerator.device.type == "cuda"
    engine.take_step([batch], 0, 1e-6)
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for step in range(1, steps + 1):
        engine.take_step([batch], step, 1e-6)
    if on_gpu:
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / steps
    return {
        "preset": preset,
        "precision": precision,
        "checkpointing": gradient_checkpointing,
        "s/step": seconds,
        "samples/s": count / seconds,
        "peak GiB": peak_memory(accelerator.device),
        "device": str(accelerator.device),
    }


def main() -> None:
    """Measure all cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["tiny"])
    parser.add_argument("--size", type=int, default=128, help="side of the network's input in pixels")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--phrases", type=int, default=4, help="of each image")
    parser.add_argument(
        "--precisions", nargs="+", choices=["no", "bf16", "fp16"], help="default: all that the device has"
    )
    parser.add_argument("--steps", type=int, default=5)
    add_option(parser)
    args = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    known = ["no", *(["bf16"] if "bfloat16" in dtypes("cuda" if on_gpu else "cpu") else [])]
    known += ["fp16"] if on_gpu else []
    precisions = args.precisions or known

    context = multiprocessing.get_context("spawn")
    rows = []
    for preset in args.presets:
        for precision in precisions:
            for checkpointing in (False, True):
                case = (preset, args.size, args.images, args.phrases, precision, checkpointing, args.steps)
                with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
                    rows.append(pool.submit(measure, *case).result())
    numbers = ("s/step", "samples/s", "peak GiB")
    report(
        f"{args.images} images of {args.size} px, {args.phrases} phrases each, {machine(rows[0]['device'])}",
        ("preset", "precision", "gradient checkpointing", *numbers),
        [
            (
                row["preset"],
                row["precision"],
                "yes" if row["checkpointing"] else "no",
                *(f"{row[n]:.2f}" for n in numbers),
            )
            for row in rows
        ],
        args.table,
    )


if __name__ == "__main__":
    main()
