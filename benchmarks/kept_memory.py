"""What it gains to keep freed memory (`refersam.allocator`): time, page faults and peak memory with and without.

    python benchmarks/kept_memory.py
    python benchmarks/kept_memory.py --sizes 1024 --dtypes float32 --rounds 1

Every measurement is a process of its own, in turns; the fastest pass of all rounds counts, since other programs on the
machine can only make one slower.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor

import torch
from latency import seconds
from report import add_option, machine, number_formats, report
from steps import build

from refersam.allocator import keep_freed_memory

PASSES = 5
NUM_TOKENS = 20


@torch.inference_mode()
def measure(preset: str, size: int, dtype_name: str, keep: bool) -> tuple[float, float, float]:
    """Milliseconds and page faults of a forward pass, and the process's peak in MiB."""
    if keep and not keep_freed_memory():
        raise SystemExit("This machine's malloc cannot be told to keep memory, or the environment sets it.")
    device, dtype = torch.device("cpu"), getattr(torch, dtype_name)
    model = build(preset, dtype, device)
    pixels, ids = torch.randn(1, 3, size, size, dtype=dtype), torch.randint(5, 100, (1, NUM_TOKENS))
    for _ in range(2):
        model(pixels, ids)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    times = [seconds(lambda: model(pixels, ids), device) for _ in range(PASSES)]
    used = resource.getrusage(resource.RUSAGE_SELF)
    return 1000 * min(times), (used.ru_minflt - before) / PASSES, used.ru_maxrss / 1024


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="base")
    parser.add_argument("--sizes", type=int, nargs="+", default=[448], help="sides of the network's input in pixels")
    parser.add_argument("--dtypes", nargs="+", help="default: those that the machine has")
    parser.add_argument("--rounds", type=int, default=3)
    add_option(parser)
    args = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    rows = []
    for size in args.sizes:
        for dtype in args.dtypes or number_formats():
            found: dict[bool, list[tuple[float, float, float]]] = {False: [], True: []}
            for _ in range(args.rounds):
                for keep, results in found.items():
                    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
                        results.append(pool.submit(measure, args.preset, size, dtype, keep).result())
            plain = min(found[False])[0]
            for keep, results in found.items():
                ms, faults, peak = min(results)
                name = "kept" if keep else "given back"
                rows.append((dtype, str(size), name, f"{ms:.0f}", f"{ms / plain:.2f}", f"{faults:.0f}", f"{peak:.0f}"))
    report(
        f"{args.preset}, one phrase of {NUM_TOKENS} tokens, {machine('cpu')}",
        ("dtype", "px", "freed memory", "ms", "of given back", "page faults a pass", "peak MiB"),
        rows,
        args.table,
    )


if __name__ == "__main__":
    main()
