"""Draw images of the docs: the model's data flow, attention maps of the bundled model, a correction by a click.

python tools/draw_docs.py          # into docs/images
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from refersam.drawing import contact_sheet, draw_overlay
from refersam.image import load_image
from refersam.inference.predictor import ReferSamPredictor
from refersam.model.attention import LevelAttention
from refersam.model.prompter import Prompter

SCENE, PHRASE = "examples/scene_1.png", "the orange star"
INK, PAPER, TEXT, IMAGE, OURS = "#1d2733", "#ffffff", "#dcebfb", "#e4f3e2", "#fbe3ea"

FONT_SIZE, LINE_HEIGHT = 16, 20

Box = tuple[int, int, int, int, str, tuple[str, ...]]
BOXES: dict[str, Box] = {
    # name: left, top, width, height, fill, title and a line below it
    "image": (130, 20, 130, 46, PAPER, ("image",)),
    "phrase": (430, 20, 130, 46, PAPER, ("phrase",)),
    "vit": (20, 110, 210, 76, IMAGE, ("SAM's image encoder", "ViT, four layer groups")),
    "prior": (240, 110, 150, 76, OURS, ("spatial prior", "strides 4 to 32")),
    "text encoder": (420, 110, 150, 76, TEXT, ("text encoder", "BERT or CLIP")),
    "context": (590, 110, 160, 76, OURS, ("context tokens", "learned")),
    "vli": (110, 240, 640, 76, OURS, ("Vision-Language Interactor", "injection, extraction, fusion of image and text")),
    "embedding": (20, 370, 220, 76, IMAGE, ("image embedding", "stride 16")),
    "vlp": (320, 370, 290, 76, OURS, ("Vision-Language Prompter", "attends to pyramid and text")),
    "decoder": (180, 500, 240, 60, IMAGE, ("SAM's mask decoder",)),
    "mask": (180, 614, 100, 46, PAPER, ("mask",)),
    "score": (310, 614, 210, 46, PAPER, ("score, no target",)),
}  # fmt: skip
ARROWS: tuple[tuple[str, str, str], ...] = (
    ("image", "vit", ""),
    ("image", "prior", ""),
    ("phrase", "text encoder", ""),
    ("vit", "vli", "both ways"),
    ("prior", "vli", ""),
    ("text encoder", "vli", ""),
    ("context", "vli", ""),
    ("vit", "embedding", ""),
    ("vli", "embedding", ""),
    ("vli", "vlp", ""),
    ("embedding", "decoder", ""),
    ("vlp", "decoder", "dense and sparse prompts"),
    ("decoder", "mask", ""),
    ("decoder", "score", ""),
)
LEGEND = ((IMAGE, "SAM"), (TEXT, "text encoder"), (OURS, "ReferSAM"))


def data_flow() -> str:
    """Return the data-flow diagram of the model as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 770 680" font-family="sans-serif" '
        f'font-size="{FONT_SIZE}" fill="{INK}">',
        f'<rect width="770" height="680" fill="{PAPER}"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto-start-reverse">'
        f'<path d="M0,0L8,4L0,8z" fill="{INK}"/></marker></defs>',
    ]
    for start, end, note in ARROWS:
        x, y0, y1 = _arrow(BOXES[start], BOXES[end])
        tips = ' marker-end="url(#tip)"' + (' marker-start="url(#tip)"' if note == "both ways" else "")
        parts.append(f'<line x1="{x}" y1="{y0}" x2="{x}" y2="{y1}" stroke="{INK}" stroke-width="1.5"{tips}/>')
        if note and note != "both ways":
            parts.append(f'<text x="{x + 12}" y="{(y0 + y1) / 2 + 5}">{escape(note)}</text>')
    for left, top, width, height, fill, lines in BOXES.values():
        parts.append(
            f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="8" fill="{fill}" stroke="{INK}"/>'
        )
        first = top + (height - LINE_HEIGHT * (len(lines) - 1)) / 2 + 5
        for number, line in enumerate(lines):
            weight = ' font-weight="bold"' if number == 0 else ""
            place = f'x="{left + width / 2}" y="{first + LINE_HEIGHT * number}"'
            parts.append(f'<text {place} text-anchor="middle"{weight}>{escape(line)}</text>')
    for number, (fill, meaning) in enumerate(LEGEND):
        y = 530 + 30 * number
        parts.append(f'<rect x="580" y="{y}" width="22" height="16" rx="3" fill="{fill}" stroke="{INK}"/>')
        parts.append(f'<text x="612" y="{y + 14}">{meaning}</text>')
    return "\n".join([*parts, "</svg>"])


def _arrow(start: Box, end: Box) -> tuple[float, int, int]:
    """Return x, first y and last y of the vertical arrow between two boxes whose horizontal ranges overlap."""
    left, right = max(start[0], end[0]), min(start[0] + start[2], end[0] + end[2])
    if end[1] - start[1] > 200:  # keep clear of the box between them
        right = min(right, BOXES["vli"][0])
    return (left + right) / 2, start[1] + start[3], end[1]


def attention_maps(layer: LevelAttention, query: Tensor, key: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Compute the (Nq, H/8, W/8) attention map of each query, averaged over heads, with the sum 1.

    The weight of a cell of a coarse level is distributed evenly over the cells of stride 8 that it covers.
    """
    queries, keys = layer.split_heads(layer.q_proj(query)), layer.split_heads(layer.k_proj(key))
    scores = queries @ keys.transpose(2, 3) * layer.scale  # (1, heads, Nq, L)
    mixing = layer.mixing_weights(query)
    total = torch.zeros(query.shape[1], *sizes[0])
    for level, part in enumerate(scores.split([height * width for height, width in sizes], dim=-1)):
        weights = (part.softmax(dim=-1) * mixing[..., level : level + 1]).mean(dim=1)  # (1, Nq, cells)
        factor = sizes[0][0] // sizes[level][0]
        cells = weights.unflatten(2, sizes[level])[0] / factor**2
        total += cells.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
    return total


def overlay_heatmap(image: Image.Image, weights: Tensor) -> Image.Image:
    """Overlay a map on a faded grayscale image, with the largest values in red."""
    values = weights / weights.max().clamp(min=1e-9)
    scaled = Image.fromarray((values.numpy() * 255).astype(np.uint8)).resize(image.size, Image.Resampling.BICUBIC)
    share = (np.asarray(scaled, dtype=np.float32) / 255)[..., None]
    grey = np.asarray(image.convert("L").convert("RGB"), dtype=np.float32) * 0.5 + 110
    return Image.fromarray(((1 - share) * grey + share * np.array([200.0, 20, 60])).clip(0, 255).astype(np.uint8))


@torch.no_grad()
def attention_sheets(predictor: ReferSamPredictor) -> tuple[Image.Image, Image.Image]:
    """Return two sheets: attention maps of words, context tokens and prompts; coarse mask and final mask."""
    model, image = predictor.model, load_image(SCENE)
    prompter: Any = model.prompter
    if not isinstance(prompter, Prompter):
        raise SystemExit("This model has no prompter.")
    interactions = model.interactor.interactions
    attentions = {
        "first": interactions[0].fusion.text_to_pyramid,
        "last": interactions[-1].extra_fusions[-1].text_to_pyramid,
        "prompter": prompter.layers[-1].pyramid_attention,
    }
    inputs_of: dict[str, tuple[Any, ...]] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _layer, inputs, name=name: inputs_of.__setitem__(name, inputs))
        for name, layer in attentions.items()
    ]
    inputs = predictor.processor(images=image, text=[PHRASE])
    output = model(**inputs)
    for hook in hooks:
        hook.remove()
    height, width = inputs["pixel_values"].shape[2:]
    sizes = [(height // stride, width // stride) for stride in (8, 16, 32)]
    maps = {name: attention_maps(layer, *inputs_of[name][:2], sizes) for name, layer in attentions.items()}
    words = predictor.processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    answer = torch.nn.functional.adaptive_avg_pool2d((output.mask_logits >= 0).float(), sizes[0])[0]

    def tile(name: str, kind: str, number: int) -> tuple[str, Image.Image]:
        share = (maps[kind][number] * answer).sum()
        return f"{name}: {share:.0%}", overlay_heatmap(image, maps[kind][number])

    token_tiles = [(f'"{word}"', i) for i, word in enumerate(words) if word not in ("[CLS]", "[SEP]")]
    token_tiles += [("context token 1", len(words))]
    tiles = [tile(f"{name}, first fusion", "first", i) for name, i in token_tiles]
    tiles += [tile(f"{name}, last fusion", "last", i) for name, i in token_tiles]
    tiles += [tile("dense token", "prompter", 0)]
    tiles += [tile(f"sparse token {i}", "prompter", i) for i in range(1, min(4, maps["prompter"].shape[0]))]
    result = predictor.predict(image, PHRASE)
    coarse = predictor.processor.resize_logits(output.coarse_mask_logits, image.height, image.width)[0] >= 0
    masks = [
        ("coarse mask: the dense prompt", draw_overlay(image, coarse.numpy())),
        ("final mask, after SAM's decoder", draw_overlay(image, result.mask)),
    ]
    return contact_sheet(tiles, columns=4, side=230), contact_sheet([("image", image), *masks], 3, 300)


def main() -> None:
    """Write all images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    (args.out / "model.svg").write_text(data_flow() + "\n")
    attention, masks = attention_sheets(ReferSamPredictor.from_pretrained(device="cpu"))
    attention.quantize(128).save(args.out / "attention.png", optimize=True)
    masks.save(args.out / "coarse.png", optimize=True)


if __name__ == "__main__":
    main()
