"""Writer of SceneRef in gRefCOCO's file format.

`DIR/sceneref/grefs(unc).json` and `instances.json` contain all splits written so far; the images are in
`DIR/images/scenes/`. Each split has its own range of ids, so that a split can be replaced without changing the others.
The images are written first. The index files are then replaced atomically: an interrupted run leaves each of them
either unchanged or complete.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from refersam.files import WriteLock, errors_named, save_png
from sceneref.benchmark import BlindGuessMeter, Scene, generate_scene
from sceneref.objects import SHAPES
from sceneref.phrases import ScenePhrase
from sceneref.settings import DEFAULT_PHENOMENA, SceneRefSettings, split_number
from sceneref.words import tokenize

REFS_FILE = "grefs(unc).json"
INSTANCES_FILE = "instances.json"
_DESCRIPTION = "SceneRef"
#: Ids of a split's images, objects, refs and sentences start at this number times (index of the split + 1).
_IDS_PER_SPLIT = 100_000_000
MAX_COUNT = 1_000_000

Entry = dict[str, Any]


def write_sceneref(
    out: Path,
    split: str,
    count: int,
    seed: int,
    settings: SceneRefSettings,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Write the images and phrases of a split; other splits in the directory are not changed.

    Args:
        out: directory, in which `sceneref/` and `images/scenes/` are created.
        split: one of `SPLITS`; an existing version of it is replaced.
        count: number of scenes, 1 to `MAX_COUNT`.
        seed: seed of the benchmark, at least 0.
        settings: content of the scenes.
        progress: called after each scene with the number of scenes done.

    Returns:
        Statistics, also written to `sceneref/statistics_{split}.json`: "images", "objects", "refs", "sentences",
        "phenomena" (phrases per first tag), "tags" (phrases per tag), "blind_guess" (see `blind_guess_scores`).

    Raises:
        ValueError: unknown split, count out of range, or a directory with an index that SceneRef did not write.
        DataError: another process is writing to `sceneref/`.
    """
    split_number(split)
    if not 1 <= count <= MAX_COUNT:
        raise ValueError(f"count must be 1 to {MAX_COUNT}; got {count}.")
    with WriteLock(Path(out) / "sceneref"):
        return _write_split(Path(out), split, count, seed, settings, progress)


def _write_split(
    out: Path,
    split: str,
    count: int,
    seed: int,
    settings: SceneRefSettings,
    progress: Callable[[int], None] | None,
) -> dict[str, Any]:
    index_folder, image_folder = out / "sceneref", out / "images" / "scenes"
    old_instances, old_refs = _read_index(index_folder)
    index_folder.mkdir(parents=True, exist_ok=True)
    image_folder.mkdir(parents=True, exist_ok=True)

    rows = _SplitRows(split, (split_number(split) + 1) * _IDS_PER_SPLIT)
    meter = BlindGuessMeter()
    for index in range(count):
        scene = generate_scene(settings, split, seed, index)
        name = f"{split}_{seed}_{index:06d}.png"
        _write_image(image_folder / name, scene.image)
        rows.add(scene, name)
        meter.add(scene)
        if progress is not None:
            progress(index + 1)

    statistics = rows.statistics(seed, settings, meter.scores())
    keep = _other_splits(old_instances, old_refs, rows.first_id)
    instances = {
        "info": {"description": _DESCRIPTION, "version": "1"},
        "licenses": [],
        "categories": [{"supercategory": "shape", "id": i + 1, "name": shape} for i, shape in enumerate(SHAPES)],
        "images": _sorted(keep["images"] + rows.images, "id"),
        "annotations": _sorted(keep["annotations"] + rows.annotations, "id"),
    }
    _replace_files(
        {
            index_folder / f"statistics_{split}.json": _dump(statistics, indent=2),
            index_folder / INSTANCES_FILE: _dump(instances),
            index_folder / REFS_FILE: _dump(_sorted(keep["refs"] + rows.refs, "ref_id")),
        }
    )
    new_names = {row["file_name"] for row in rows.images}
    for row in old_instances["images"]:
        if _in_range(row["id"], rows.first_id) and row["file_name"] not in new_names:
            (image_folder / Path(row["file_name"]).name).unlink(missing_ok=True)
    return statistics


class _SplitRows:
    """Index entries of one split.

    Args:
        split: one of `SPLITS`.
        first_id: first id of the split's range.
    """

    def __init__(self, split: str, first_id: int) -> None:
        self.split, self.first_id = split, first_id
        self.images: list[Entry] = []
        self.annotations: list[Entry] = []
        self.refs: list[Entry] = []

    def add(self, scene: Scene, name: str) -> None:
        """Add the entries of a scene.

        Args:
            scene: the scene.
            name: file name of its image.
        """
        image_id = self.first_id + len(self.images)
        height, width = scene.image.shape[:2]
        self.images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        annotation_ids = []
        encoded = coco_mask.encode(np.asfortranarray(scene.masks.transpose(1, 2, 0).astype(np.uint8)))
        areas = coco_mask.area(encoded).tolist()
        boxes = coco_mask.toBbox(encoded).tolist()
        for item, rle, area, box in zip(scene.objects, encoded, areas, boxes, strict=True):
            annotation_ids.append(self.first_id + len(self.annotations))
            self.annotations.append(
                {
                    "id": annotation_ids[-1],
                    "image_id": image_id,
                    "category_id": SHAPES.index(item.shape) + 1,
                    "segmentation": {"size": [height, width], "counts": rle["counts"].decode("ascii")},
                    "bbox": box,
                    "area": area,
                    "iscrowd": 0,
                    "color": item.colour,
                    "size": item.size,
                    "pattern": item.pattern,
                }
            )
        for phrase in scene.phrases:
            self._add_ref(scene, phrase, image_id, name, annotation_ids)

    def _add_ref(self, scene: Scene, phrase: ScenePhrase, image_id: int, name: str, annotation_ids: list[int]) -> None:
        ref_id = self.first_id + len(self.refs)
        tokens = tokenize(phrase.text)
        sentence = {"tokens": tokens, "raw": phrase.text, "sent_id": ref_id, "sent": " ".join(tokens)}
        categories = sorted({SHAPES.index(scene.objects[i].shape) + 1 for i in phrase.targets})
        self.refs.append(
            {
                "ref_id": ref_id,
                "ann_id": [annotation_ids[i] for i in phrase.targets] or [-1],
                "image_id": image_id,
                "category_id": categories or [-1],
                "split": self.split,
                "file_name": f"{Path(name).stem}_{ref_id}{Path(name).suffix}",
                "sentences": [sentence],
                "sent_ids": [ref_id],
                "no_target": not phrase.targets,
                "tags": list(phrase.tags),
            }
        )

    def statistics(self, seed: int, settings: SceneRefSettings, blind: dict[str, float]) -> dict[str, Any]:
        """Return the statistics of the scenes added so far."""
        first = Counter(row["tags"][0] for row in self.refs)
        every = Counter(tag for row in self.refs for tag in row["tags"])
        return {
            "split": self.split,
            "seed": seed,
            "width": settings.width,
            "height": settings.height,
            "images": len(self.images),
            "objects": len(self.annotations),
            "refs": len(self.refs),
            "sentences": len(self.refs),
            "phenomena": {name: first[name] for name in DEFAULT_PHENOMENA},
            "tags": dict(sorted(every.items())),
            "blind_guess": {name: round(score, 2) for name, score in blind.items()},
        }


def _read_index(folder: Path) -> tuple[Entry, list[Entry]]:
    """Read the index in a directory; return an empty one if there is none.

    Raises:
        ValueError: files of these names exist, but SceneRef did not write them.
    """
    instances_file, refs_file = folder / INSTANCES_FILE, folder / REFS_FILE
    advice = "Choose another directory, or move these files."
    if not instances_file.exists():
        if refs_file.exists():
            raise ValueError(
                f"Expected {INSTANCES_FILE} beside {refs_file}, but found none: SceneRef did not write it. {advice}"
            )
        return {"images": [], "annotations": []}, []
    try:
        instances = json.loads(instances_file.read_text(encoding="utf-8"))
        refs = json.loads(refs_file.read_text(encoding="utf-8")) if refs_file.exists() else []
    except ValueError as error:
        raise ValueError(f"The index in {folder} is not valid JSON: {error}. {advice}") from error
    info = instances.get("info") if isinstance(instances, dict) else None
    if not isinstance(info, dict) or info.get("description") != _DESCRIPTION or not isinstance(refs, list):
        raise ValueError(f"{instances_file} was not written by SceneRef (info.description is not 'SceneRef'). {advice}")
    return instances, refs


def _in_range(identifier: int, first_id: int) -> bool:
    return first_id <= identifier < first_id + _IDS_PER_SPLIT


def _other_splits(instances: Entry, refs: list[Entry], first_id: int) -> dict[str, list[Entry]]:
    return {
        "images": [row for row in instances["images"] if not _in_range(row["id"], first_id)],
        "annotations": [row for row in instances["annotations"] if not _in_range(row["id"], first_id)],
        "refs": [row for row in refs if not _in_range(row["ref_id"], first_id)],
    }


def _sorted(rows: list[Entry], key: str) -> list[Entry]:
    return sorted(rows, key=lambda row: int(row[key]))


def _dump(value: Any, indent: int | None = None) -> bytes:
    separators = None if indent else (",", ":")
    return json.dumps(value, indent=indent, separators=separators).encode("utf-8")


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _write_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    image = Image.fromarray(pixels)
    save_png(image, path, compress_level=4)


def _replace_files(contents: dict[Path, bytes]) -> None:
    """Write all files under temporary names, then rename them in the given order."""
    try:
        for path, content in contents.items():
            with errors_named(path, str(_temporary(path))), _temporary(path).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path in contents:
            _temporary(path).replace(path)
    finally:
        for path in contents:
            _temporary(path).unlink(missing_ok=True)
