"""Latency, arithmetic and memory of one forward pass: one picture, one phrase of 20 tokens.

    python benchmarks/latency.py                      # tiny and base at 320, 448, 512 px
    python benchmarks/latency.py --presets base --sizes 448 --repeats 10

The matrix rate is the machine's own: the best of several products of two 2048 x 2048 matrices in the same number
format, measured before each case, so that the share says how far from the machine's limit a case runs even where the
machine is noisy. Each case runs in a process of its own, whose peak memory is the process's own peak. Weights are
random: neither time nor arithmetic depends on their values.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from report import add_option, machine, report
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

NUM_TOKENS = 20
MATRIX_SIDE = 2048


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


def matrix_rate(device: torch.device, dtype: torch.dtype, repeats: int = 8) -> float:
    """The device's own rate of matrix products in GFLOP/s, the best of several."""
    a = torch.randn(MATRIX_SIDE, MATRIX_SIDE, device=device).to(dtype)
    return 2 * MATRIX_SIDE**3 / min(seconds(lambda: a @ a, device) for _ in range(repeats)) / 1e9


def measure(preset: str, size: int, device_name: str, dtype_name: str, repeats: int) -> dict[str, float]:
    """One case."""
    from refersam.config import ReferSamConfig
    from refersam.model.refersam import ReferSamModel

    device, dtype = torch.device(device_name), getattr(torch, dtype_name)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    config = ReferSamConfig.from_preset(preset)
    model = ReferSamModel(config).eval().to(device=device, dtype=dtype)
    pixels = torch.randn(1, 3, size, size, device=device, dtype=dtype)
    ids = torch.randint(5, 100, (1, NUM_TOKENS), device=device)
    gflop = count_flop(model, pixels, ids)
    with torch.inference_mode():
        rate = matrix_rate(device, dtype)
        times = sorted(seconds(lambda: model(pixels, ids), device) for _ in range(repeats))
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    median = statistics.median(times)
    return {
        "preset": preset,
        "px": size,
        "ms": 1000 * median,
        "ms min": 1000 * times[0],
        "GFLOP": gflop,
        "GFLOP/s": gflop / median,
        "matrix GFLOP/s": rate,
        "share": gflop / median / rate,
        "weights MB": sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20,
        "peak MB": peak,
    }


def main() -> None:
    """Measure all cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["tiny", "base"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[320, 448, 512])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    add_option(parser)
    args = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    rows = []
    for preset in args.presets:
        for size in args.sizes:
            # A process of its own for each case: its peak memory is then the case's.
            with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
                rows.append(pool.submit(measure, preset, size, args.device, args.dtype, args.repeats).result())
    texts = [
        (
            row["preset"],
            str(row["px"]),
            *(f"{row[key]:.0f}" for key in ("ms", "ms min")),
            f"{row['GFLOP']:.1f}",
            *(f"{row[key]:.0f}" for key in ("GFLOP/s", "matrix GFLOP/s")),
            f"{row['share']:.0%}",
            f"{row['peak MB']:.0f}",
        )
        for row in rows
    ]
    report(
        f"One picture, one phrase of {NUM_TOKENS} tokens, {args.dtype}, {args.device}: {machine()}",
        ("preset", "px", "ms (median)", "ms (min)", "GFLOP", "GFLOP/s", "matrix GFLOP/s", "share", "peak MB"),
        texts,
        args.table,
    )


if __name__ == "__main__":
    main()
