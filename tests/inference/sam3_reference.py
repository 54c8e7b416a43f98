"""Masks of SAM 3 by transformers' own processor, model and post-processing.

`python sam3_reference.py FOLDER IMAGE OUT PHRASE...` is a process of its own, with torchvision on PYTHONPATH: there it
does not change how transformers reads images in other tests.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib.util import find_spec

import numpy as np
import torch

MISSING = "torchvision is not installed"
if __name__ == "__main__" and find_spec("torchvision") is None:
    sys.exit(MISSING)
for name in ("nms", "qnms"):  # a torchvision whose operators are built for another torch: none of them is used here
    with suppress(RuntimeError):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from PIL import Image  # noqa: E402 - see above
from transformers import Sam3Model, Sam3Processor  # noqa: E402


@torch.inference_mode()
def main(folder: str, file: str, out: str, *phrases: str) -> None:
    """Write the united masks (P, H, W), the scores of each phrase, and the pixels that the model reads."""
    processor = Sam3Processor.from_pretrained(folder)
    model = Sam3Model.from_pretrained(folder).eval()
    image = Image.open(file)
    masks, counts = [], []
    for phrase in phrases:
        inputs = processor(images=image, text=phrase, return_tensors="pt")
        outputs = model(**{name: value for name, value in inputs.items() if name != "original_sizes"})
        (found,) = processor.post_process_instance_segmentation(outputs, target_sizes=inputs["original_sizes"].tolist())
        masks.append(
            found["masks"].bool().any(dim=0).numpy() if len(found["masks"]) else np.zeros(image.size[::-1], bool)
        )
        counts.append(len(found["scores"]))
    np.savez(out, masks=np.stack(masks), counts=counts, pixels=inputs["pixel_values"].numpy())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
