"""Results as a COCO instances file, for annotation tools and pycocotools."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from refersam.bulk.results import Line
from refersam.files import write_atomically


def coco_annotation(result: Mapping[str, Any], number: int, image: int, category: int) -> dict[str, Any]:
    """Return a COCO instance annotation with run-length encoded mask and box (x, y, width, height).

    Args:
        result: `Answer.as_dict` of an answer with a mask that is not empty.
        number: id of the annotation.
        image: id of the image.
        category: id of the phrase.
    """
    left, top, right, bottom = result["box"]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": result["rle"],
        "area": result["area"],
        "bbox": [left, top, right - left, bottom - top],
        "iscrowd": 0,
        "score": result["score"],
    }


def write_coco(lines: Iterable[Line], path: Path) -> int:
    """Write results as COCO instances: a category for each phrase, an annotation for each mask that is not empty.

    `info` holds the domain of the model, if it has one.

    Args:
        lines: lines of `read_results`; one is in memory at a time, with the names of images and phrases.
        path: JSON file, written atomically.

    Returns:
        The number of annotations.
    """
    images: dict[str, dict[str, Any]] = {}
    categories: dict[str, int] = {}
    count = 0
    domains: set[str] = set()

    def write(file: IO[bytes]) -> None:
        nonlocal count
        file.write(b'{"annotations": [')
        for line in lines:
            if "domain" in line:
                domains.add(line["domain"])
            size = {"width": line["width"], "height": line["height"]}
            image = images.setdefault(line["image"], {"id": len(images) + 1, "file_name": line["image"], **size})
            for result in line["results"]:
                category = categories.setdefault(result["phrase"], len(categories) + 1)
                if result["box"] is None:
                    continue
                count += 1
                annotation = coco_annotation(result, count, image["id"], category)
                file.write((b",\n" if count > 1 else b"\n") + json.dumps(annotation).encode())
        named = [{"id": number, "name": phrase, "supercategory": "phrase"} for phrase, number in categories.items()]
        info = {"info": {"domain": ", ".join(sorted(domains))}} if domains else {}
        rest = json.dumps({"images": list(images.values()), "categories": named, **info})
        file.write(b"\n], " + rest[1:].encode())

    write_atomically(path, write)
    return count
