"""Measure the gain of each exact optimization, step by step from the reference implementation to the default.

    python benchmarks/steps.py                             # base at 448 px, 20 and 6 tokens, float32 and bfloat16
    python benchmarks/steps.py --preset tiny --size 256 --tokens 6 --dtypes float32
    python benchmarks/steps.py --phrases 5                 # five phrases about one image, and single phrases
    python benchmarks/steps.py --memory 1024               # peak memory of a forward pass, reference and default

The variants run interleaved in one process, so that noise affects all of them equally; the median of the repeats is
reported. U is the time of 460 GFLOP at the machine's float32 rate of matrix products, measured between the repeats. 460
GFLOP is the cost of the reference implementation for base at 448 px with 20 tokens. Weights are random, since time does
not depend on them.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from latency import count_flop, matmul_rate, seconds
from report import add_option, dtypes, machine, report
from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionLayer

from refersam.config import ReferSamConfig
from refersam.model.deformable_attention import sample_maps
from refersam.model.fast import reassociation, sampling, window_attention
from refersam.model.refersam import ReferSamModel
from refersam.model.spatial_prior import SpatialPrior
from refersam.model.upsampler import GuidedUpsampler
from refersam.training.memory import peak_memory

UNIT_GFLOP = 460.0
GIVE_BACK = "MALLOC_MMAP_THRESHOLD_"
"""Environment variable: glibc returns freed blocks of more bytes than this to the system at once."""


def _plain_attention(attention: SamVisionAttention, tokens: torch.Tensor, window: int) -> torch.Tensor:
    """Compute a layer's attention as SAM's authors: windows padded with zeros, all scores with a dense bias."""
    if not window:
        return SamVisionAttention.forward(attention, tokens)[0]
    windows, padded = SamVisionLayer.window_partition(None, tokens, window)
    attended = SamVisionAttention.forward(attention, windows)[0]
    return SamVisionLayer.window_unpartition(None, attended, window, padded, tokens.shape[1:3])


def _contiguous_prior(prior: SpatialPrior, pixel_values: torch.Tensor) -> Any:
    return SpatialPrior.forward(prior, pixel_values.contiguous())


PLAIN: dict[str, tuple[Any, str, Any]] = {
    "relative positions without a dense bias": (window_attention, "attend", _plain_attention),
    "attention reassociated by cost": (reassociation, "MAX_COST_RATIO", 0.0),
    "deformable points gathered": (sampling, "gather", sample_maps),
    "channels last": (SpatialPrior, "__call__", _contiguous_prior),
}
"""For each optimization: its owner, its attribute there, and the reference implementation."""


@contextmanager
def plain_forms(names: list[str]) -> Iterator[None]:
    """Disable optimizations within the context."""
    with ExitStack() as stack:
        for name in names:
            owner, attribute, plain = PLAIN[name]
            stack.enter_context(patch.object(owner, attribute, plain))
        yield


def build(preset: str, dtype: torch.dtype, device: torch.device) -> ReferSamModel:
    """Build a model with random weights."""
    torch.manual_seed(0)
    return ReferSamModel(ReferSamConfig.from_preset(preset)).eval().to(device, dtype)


def measure_interleaved(forms: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, float]:
    """Return the median seconds of each variant, and of the unit U."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    rates = []
    for call in forms.values():
        call()
    order = list(forms)
    for _ in range(repeats):
        rates.append(matmul_rate(device, torch.float32, repeats=4))
        for name in order:
            times[name].append(seconds(forms[name], device))
        order = order[1:] + order[:1]  # rotated, since the matrix products fill the caches before the first variant
    return {name: statistics.median(found) for name, found in times.items()} | {"U": UNIT_GFLOP / max(rates)}


def measure_steps(args: argparse.Namespace, dtype: torch.dtype, tokens: int) -> list[tuple[str, ...]]:
    """Return a row for the reference implementation and for each step."""
    device = torch.device(args.device)
    model = build(args.preset, dtype, device)
    pixels = torch.randn(1, 3, args.size, args.size, device=device, dtype=dtype)
    ids = torch.randint(5, 100, (1, tokens), device=device)
    stages = [list(PLAIN)[done:] for done in range(len(PLAIN) + 1)]
    labels = ["reference implementation", *PLAIN]

    def form(off: list[str]) -> Callable[[], torch.Tensor]:
        def call() -> torch.Tensor:
            with torch.inference_mode(), plain_forms(off):
                return model(pixels, ids).mask_logits

        return call

    forms = {label: form(off) for label, off in zip(labels, stages, strict=True)}
    with torch.inference_mode(), plain_forms(list(PLAIN)):
        exact = copy.deepcopy(model).float()  # with the same rounded weights
        reference = exact(pixels.float(), ids).mask_logits
    del exact
    found = measure_interleaved(forms, args.repeats, device)
    rows = []
    for label, off in zip(labels, stages, strict=True):
        with plain_forms(off):
            gflop = count_flop(model, pixels, ids)
        difference = (forms[label]().float() - reference).norm() / reference.norm()
        rows.append(
            (
                str(dtype).removeprefix("torch."),
                str(tokens),
                label,
                f"{1000 * found[label]:.0f}",
                f"{found[label] / found['U']:.2f}",
                f"{found[label] / found[labels[0]]:.2f}",
                f"{gflop:.0f}",
                f"{difference:.0e}",
            )
        )
    return rows


@torch.inference_mode()
def measure_phrases(args: argparse.Namespace, dtype: torch.dtype, tokens: int) -> list[tuple[str, ...]]:
    """Return the time per phrase of several phrases about one image and of variants of a single phrase."""
    device = torch.device(args.device)
    model = build(args.preset, dtype, device)
    pixels = torch.randn(1, 3, args.size, args.size, device=device, dtype=dtype)
    ids = torch.randint(5, 100, (args.phrases, tokens), device=device)
    features = model.encode_image(pixels)

    def guided() -> Any:
        with patch.object(model, "upsampler", GuidedUpsampler(2, model.config.guided_filter_epsilon)):
            return model(pixels, ids[:1])

    forms = {
        "one phrase": lambda: model(pixels, ids[:1]),
        f"{args.phrases} phrases about one image": lambda: model(pixels, ids),
        "one phrase, image encoded before": lambda: model(None, ids[:1], image_features=features),
        "one phrase, with a guided filter": guided,
    }
    found = measure_interleaved(forms, args.repeats, device)
    single = found["one phrase"]
    rows = []
    for label in forms:
        per_phrase = found[label] / (args.phrases if label[0].isdigit() else 1)
        rows.append(
            (
                str(dtype).removeprefix("torch."),
                str(tokens),
                label,
                f"{1000 * per_phrase:.0f}",
                f"{per_phrase / found['U']:.2f}",
                f"{per_phrase / single:.2f}",
            )
        )
    return rows


def memory_of_pass(preset: str, size: int, off: list[str]) -> tuple[float, float]:
    """Return the memory of a process in MiB: before a forward pass, and its peak during the pass."""
    device = torch.device("cpu")
    model = build(preset, torch.float32, device)
    pixels, ids = torch.randn(1, 3, size, size), torch.randint(5, 100, (1, 20))
    before = 1024 * peak_memory(device)
    with torch.inference_mode(), plain_forms(off):
        model(pixels, ids)
    return before, 1024 * peak_memory(device)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="base")
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--tokens", type=int, nargs="+", default=[20, 6])
    parser.add_argument("--dtypes", nargs="+", help="default: those supported by the machine")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--phrases", type=int, default=1, help="measure this number of phrases about one image instead")
    parser.add_argument("--memory", type=int, help="measure peak memory on a CPU at this image size instead")
    add_option(parser)
    args = parser.parse_args()

    where = machine(args.device)
    if args.memory:
        header = ("variant", "peak MiB", "MiB in the pass")
        rows = []
        context = multiprocessing.get_context("spawn")
        for setting in ({}, {GIVE_BACK: "1048576"}):
            for label, off in (("reference implementation", list(PLAIN)), ("default", [])):
                with (
                    patch.dict(os.environ, setting),
                    ProcessPoolExecutor(max_workers=1, mp_context=context) as pool,
                ):
                    before, peak = pool.submit(memory_of_pass, args.preset, args.memory, off).result()
                where_kept = f", {GIVE_BACK}={setting[GIVE_BACK]}" if setting else ""
                rows.append((label + where_kept, f"{peak:.0f}", f"{peak - before:.0f}"))
        title = f"{args.preset} at {args.memory} px, one phrase, float32, {where}"
    else:
        several = args.phrases > 1
        measured = measure_phrases if several else measure_steps
        header = ("dtype", "tokens", "variant", "ms per phrase" if several else "ms", "U", "ratio")
        header += () if several else ("GFLOP", "difference")
        rows = [
            row
            for dtype in args.dtypes or dtypes(args.device)
            for tokens in args.tokens
            for row in measured(args, getattr(torch, dtype), tokens)
        ]
        title = f"{args.preset} at {args.size} px, {where}"
    report(title, header, rows, args.table)


if __name__ == "__main__":
    main()
