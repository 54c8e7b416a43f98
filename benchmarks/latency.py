"""Latency, arithmetic and memory of a forward pass, with phrases of 20 tokens.

    python benchmarks/latency.py                      # tiny and base at 320, 448, 512 px
    python benchmarks/latency.py --presets base --sizes 448 --repeats 10
    python benchmarks/latency.py --presets base --sizes 448 --device cuda --dtype bfloat16 --images 1 16 --phrases 1 5

The matrix rate is the machine's own: the best of several products of two square matrices in the same dtype,
measured before each case, so that the share says how far from the machine's limit a case runs even where the machine is
noisy. Each case runs in a process of its own, whose peak memory is the process's own peak. Weights are random: neither
time nor arithmetic depends on their values.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from report import add_option, machine, report
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

NUM_TOKENS = 20


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Of one call, until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def count_flop(model: torch.nn.Module, *inputs: torch.Tensor) -> float:
    """GFLOP of one call, two per multiplication; with the CPU's attention kernel, which torch's counter leaves out."""

    def attention(query: tuple, key: tuple, value: tuple, *_rest: object, **_more: object) -> int:
        return sdpa_flop_count(query, key, value)

    kernels = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=kernels) as counter:
        model(*inputs)
    return counter.get_total_flops() / 1e9


def matmul_rate(device: torch.device, dtype: torch.dtype, repeats: int = 8) -> float:
    """The device's own rate of matrix products in GFLOP/s, the best of several."""
    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device).to(dtype)
    return 2 * side**3 / min(seconds(lambda: a @ a, device) for _ in range(repeats)) / 1e9


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        preset: sizes of the model.
        size: side of the images in pixels.
        images: in a batch.
        phrases: about each image.
        device: "cpu" or "cuda".
        dtype: dtype.
        compiled: by torch.compile, with CUDA graphs on a GPU.
        repeats: the median of which counts.
    """

    preset: str
    size: int
    images: int
    phrases: int
    device: str
    dtype: str
    compiled: bool
    repeats: int


def measure(case: Case) -> tuple[str, ...]:
    """A row of the table."""
    from refersam.config import ReferSamConfig
    from refersam.model.refersam import ReferSamModel
    from refersam.training.memory import peak_memory

    device, dtype = torch.device(case.device), getattr(torch, case.dtype)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    model = ReferSamModel(ReferSamConfig.from_preset(case.preset)).eval().to(device=device, dtype=dtype)
    pixels = torch.randn(case.images, 3, case.size, case.size, device=device, dtype=dtype)
    ids = torch.randint(5, 100, (case.images * case.phrases, NUM_TOKENS), device=device)
    gflop = count_flop(model, pixels, ids)
    call = torch.compile(model, mode="reduce-overhead") if case.compiled else model
    with torch.inference_mode():
        for _ in range(3 if case.compiled else 1):
            call(pixels, ids)
        rate = matmul_rate(device, dtype)
        times = [seconds(lambda: call(pixels, ids), device) for _ in range(case.repeats)]
    peak = 1024 * peak_memory(device)
    median = statistics.median(times)
    return (
        case.preset,
        str(case.size),
        f"{case.images} x {case.phrases}",
        f"{1000 * median:.0f}" if median > 0.1 else f"{1000 * median:.1f}",
        f"{len(ids) / median:.1f}",
        f"{gflop:.1f}",
        f"{gflop / median:.0f}",
        f"{rate:.0f}",
        f"{gflop / median / rate:.0%}",
        f"{peak:.0f}",
    )


def main() -> None:
    """Measure all cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["tiny", "base"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[320, 448, 512])
    parser.add_argument("--images", nargs="+", type=int, default=[1], help="in a batch")
    parser.add_argument("--phrases", nargs="+", type=int, default=[1], help="about each image")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--compile", action="store_true", help="by torch.compile, with CUDA graphs on a GPU")
    parser.add_argument("--repeats", type=int, default=5)
    add_option(parser)
    args = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    rows = []
    for preset, size, images, phrases in product(args.presets, args.sizes, args.images, args.phrases):
        case = Case(preset, size, images, phrases, args.device, args.dtype, args.compile, args.repeats)
        # A process of its own for each case: its peak memory is then the case's.
        with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
            rows.append(pool.submit(measure, case).result())
    how = f"{args.dtype}{', compiled' if args.compile else ''}"
    report(
        f"A forward pass, phrases of {NUM_TOKENS} tokens, {how}, {machine(args.device)}",
        (
            *("preset", "px", "images x phrases", "ms", "phrases/s"),
            *("GFLOP", "GFLOP/s", "matrix GFLOP/s", "share", "peak MiB"),
        ),
        rows,
        args.table,
    )


if __name__ == "__main__":
    main()
