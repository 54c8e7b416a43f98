"""What was tried for speed and is not used, against what is: the shapes of base at 448 px, on a CPU.

    python benchmarks/dropped.py

Each pair takes turns within one process; the median of the repeats counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from report import add_option, machine, number_formats, report
from steps import take_turns
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Muon
from transformers.models.sam.modeling_sam import SamVisionAttention

from refersam.allocator import keep_freed_memory
from refersam.config import ReferSamConfig
from refersam.model.refersam import ReferSamModel
from refersam.training.optimization import CpuMuon, build_optimizers
from refersam.training.settings import OptimizerSettings

Form = tuple[str, Callable[[], Tensor]]
VIT_TOKENS, PYRAMID_TOKENS, WIDTH = 784, 4116, 768


def split_product(x: Tensor, weight: Tensor) -> Tensor:
    """A float32 product as three of bfloat16: high parts, and high times low."""
    high_x, high_w = x.bfloat16(), weight.bfloat16()
    low_x, low_w = (x - high_x).bfloat16(), (weight - high_w).bfloat16()
    parts = ((high_x, high_w), (high_x, low_w), (low_x, high_w))
    return torch.stack([F.linear(a, b).float() for a, b in parts]).sum(0)


def feed_forward(x: Tensor, up: Tensor, down: Tensor, block: int) -> Tensor:
    """A feed-forward net on `block` tokens at a time."""
    return torch.cat([F.linear(F.gelu(F.linear(part, up)), down) for part in x.split(block)])


def fused_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """oneDNN's linear layer with GELU in one."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "none")


def global_attention(dtype: torch.dtype) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Base's global attention: relative positions as further channels, and as a dense bias."""
    layer = ReferSamModel(ReferSamConfig.from_preset("base")).eval().to(dtype).sam.vision_encoder.layers[2]
    side = int(VIT_TOKENS**0.5)
    patches = torch.randn(1, side, side, WIDTH).to(dtype)
    return lambda: layer.attn(patches)[0], lambda: SamVisionAttention.forward(layer.attn, patches)[0]


def muon_steps() -> tuple[Form, Form]:
    """Muon on the matrices of tiny, with products in float32, and in bfloat16 as torch has them."""
    model = ReferSamModel(ReferSamConfig.from_preset("tiny"))
    settings = OptimizerSettings(matrix_rate=1e-4)
    weights = build_optimizers(model, settings)[0].param_groups[0]["params"]
    for weight in weights:
        weight.grad = torch.randn_like(weight)

    def stepper(kind: type[Muon]) -> Callable[[], Tensor]:
        optimizer = kind(weights, lr=1e-4)

        def step() -> Tensor:
            optimizer.step()
            return weights[0]

        return step

    return ("float32", stepper(CpuMuon)), ("bfloat16", stepper(Muon))


def pairs() -> dict[str, tuple[Form, Form]]:
    """For each attempt: what is used, and what was tried."""
    torch.manual_seed(0)
    x, tokens = torch.randn(VIT_TOKENS, WIDTH), torch.randn(PYRAMID_TOKENS, WIDTH)
    up, bias = torch.randn(4 * WIDTH, WIDTH) / WIDTH**0.5, torch.randn(4 * WIDTH)
    wide, narrow = torch.randn(2 * WIDTH, WIDTH) / WIDTH**0.5, torch.randn(WIDTH, 2 * WIDTH) / WIDTH**0.5
    found: dict[str, tuple[Form, Form]] = {"step of Muon, tiny": muon_steps()}
    if "bfloat16" in number_formats():
        found["float32 product in bfloat16 parts"] = (
            ("one product", lambda: F.linear(x, up)),
            ("three products", lambda: split_product(x, up)),
        )
    for block in (128, 1024):
        found[f"feed-forward net in blocks of {block}"] = (
            ("all tokens", lambda: feed_forward(tokens, wide, narrow, PYRAMID_TOKENS)),
            ("blocks", lambda block=block: feed_forward(tokens, wide, narrow, block)),
        )
    for name in number_formats():
        dtype = getattr(torch, name)
        y, weight, offset = x.to(dtype), up.to(dtype), bias.to(dtype)
        found[f"linear layer with GELU, {name}"] = (
            ("two kernels", lambda y=y, weight=weight, offset=offset: F.gelu(F.linear(y, weight, offset))),
            ("one kernel", lambda y=y, weight=weight, offset=offset: fused_gelu(y, weight, offset)),
        )
        few, many = torch.randn(1, 432, WIDTH).to(dtype), tokens[None].to(dtype)  # 36 text and context tokens, 12 heads
        found[f"scores of one picture, {name}"] = (
            ("product", lambda few=few, many=many: F.linear(few[0], many[0])),
            ("batched product", lambda few=few, many=many: few @ many.transpose(1, 2)),
        )
        used, tried = global_attention(dtype)
        found[f"relative positions in global attention, {name}"] = (("channels", used), ("dense bias", tried))
    return found


def main() -> None:
    """Measure all pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    add_option(parser)
    args = parser.parse_args()
    keep_freed_memory()  # as the command line does
    rows = []
    with torch.inference_mode():
        for what, forms in pairs().items():
            found = take_turns(dict(forms), args.repeats, torch.device("cpu"))
            (used, fast), (tried, slow) = ((name, 1000 * found[name]) for name, _ in forms)
            rows.append((what, f"{used}: {fast:.1f}", f"{tried}: {slow:.1f}", f"{slow / fast:.2f}"))
    report(f"Shapes of base at 448 px, {machine()}", ("what", "used, ms", "tried, ms", "ratio"), rows, args.table)


if __name__ == "__main__":
    main()
