"""A small data set in the benchmarks' formats, for checks by hand."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

WIDTH, HEIGHT = 40, 30


def box(left: int, top: int, right: int, bottom: int) -> list[float]:
    """Return a rectangle as a polygon: pixels left to right - 1, top to bottom - 1."""
    return [left, top, right, top, right, bottom, left, bottom]


class Miniature:
    """Two images of 40 x 30 pixels, four objects, three refs; tests change the entries, then write.

    Image 1 (train): objects 10 and 11 of category 3 (dog), and a crowd, 12, of the same. Image 2 (val): object 20 of
    category 5 (cat), of two polygons that overlap.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = [self.image(1), self.image(2)]
        self.annotations = [
            self.annotation(10, 1, 3, [box(2, 3, 12, 13)]),
            self.annotation(11, 1, 3, [box(20, 3, 30, 13)]),
            self.annotation(12, 1, 3, {"size": [HEIGHT, WIDTH], "counts": [5, HEIGHT, HEIGHT * WIDTH - HEIGHT - 5]}, 1),
            self.annotation(20, 2, 5, [box(2, 2, 20, 20), box(10, 10, 30, 25)]),
        ]
        self.categories = [{"id": 3, "name": "dog"}, {"id": 5, "name": "cat"}]
        self.refs = [
            self.ref(0, 10, 1, "train", "the left dog", "dog on the left"),
            self.ref(1, 11, 1, "train", "the right dog"),
            self.ref(2, 20, 2, "val", "the cat"),
        ]

    @staticmethod
    def image(number: int, split: str = "train") -> dict[str, Any]:
        return {"id": number, "file_name": f"COCO_{split}2014_{number:012d}.jpg", "width": WIDTH, "height": HEIGHT}

    @staticmethod
    def annotation(number: int, image: int, category: int, segmentation: object, iscrowd: int = 0) -> dict[str, Any]:
        return {
            "id": number,
            "image_id": image,
            "category_id": category,
            "segmentation": segmentation,
            "iscrowd": iscrowd,
            "bbox": [0, 0, 1, 1],
        }

    @staticmethod
    def ref(number: int, ann_id: object, image: int, split: str, *phrases: str, **more: object) -> dict[str, Any]:
        sentences = [
            {"sent_id": 10 * number + i, "sent": phrase, "raw": phrase.upper() + "!", "tokens": phrase.split()}
            for i, phrase in enumerate(phrases)
        ]
        return {
            "ref_id": number,
            "ann_id": ann_id,
            "category_id": 3,
            "image_id": image,
            "file_name": f"COCO_train2014_{image:012d}_{number}.jpg",  # there is no image of this name
            "split": split,
            "sent_ids": [sentence["sent_id"] for sentence in sentences],
            "sentences": sentences,
            **more,
        }

    def write(self, folder: str = "refcoco", refs_file: str = "refs(unc).p", images: str = "images/train2014") -> Path:
        """Write index and images, and return the data root."""
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        instances = {"info": {}, "images": self.images, "annotations": self.annotations, "categories": self.categories}
        (self.root / folder / "instances.json").write_text(json.dumps(instances))
        refs = json.dumps(self.refs).encode() if refs_file.endswith(".json") else pickle.dumps(self.refs, protocol=0)
        (self.root / folder / refs_file).write_bytes(refs)
        for entry in self.images:
            self.draw(self.root / images / entry["file_name"])
        return self.root

    @staticmethod
    def draw(path: Path, width: int = WIDTH, height: int = HEIGHT) -> Path:
        """Write an image of noise."""
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        return path


@pytest.fixture
def miniature(tmp_path: Path) -> Miniature:
    """Data set in an empty folder."""
    return Miniature(tmp_path / "data")
