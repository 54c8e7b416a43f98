"""Measure time and memory of opening a data set of RefCOCO's size: single splits, and all splits at once.

    python benchmarks/data_index.py                   # random annotations in a temporary folder: 20,000 images,
                                                      # 50,000 refs, 142,000 phrases, instances.json of about 200 MB
    python benchmarks/data_index.py --data-root DATA  # RefCOCO itself

Each case runs in its own process, whose peak memory is reported; "imports only" opens no data set.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import pickle
import random
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

IMAGES, ANNOTATIONS, REFS = 20_000, 197_000, 50_000
WORDS = tuple("man woman left right red blue shirt chair on the in front of dog white second from table".split())  # noqa: SIM905
SPLITS = ("train",) * 85 + ("val",) * 8 + ("testA",) * 4 + ("testB",) * 3


def write_data_set(root: Path, coordinates: int) -> None:
    """Write random annotations in RefCOCO's format; the images are empty files, since only their existence is checked.

    Args:
        root: output folder.
        coordinates: mean number of coordinate pairs per polygon.
    """
    rng = random.Random(0)
    images = root / "images" / "train2014"
    images.mkdir(parents=True)
    folder = root / "refcoco"
    folder.mkdir()
    names = [f"COCO_train2014_{number:012d}.jpg" for number in range(IMAGES)]
    for name in names:
        (images / name).touch()
    with (folder / "instances.json").open("w") as file:
        file.write('{"info": {}, "images": ')
        json.dump([{"id": i, "file_name": n, "width": 640, "height": 480} for i, n in enumerate(names)], file)
        file.write(', "categories": ')
        json.dump([{"id": number, "name": f"category {number}", "supercategory": ""} for number in range(80)], file)
        file.write(', "annotations": [')
        for number in range(ANNOTATIONS):
            polygon = [round(rng.uniform(0, 640), 2) for _ in range(2 * rng.randint(3, coordinates))]
            row = {"id": number, "image_id": number % IMAGES, "category_id": rng.randrange(80), "iscrowd": 0}
            row |= {"segmentation": [polygon], "area": 1.5, "bbox": polygon[:4]}
            file.write((", " if number else "") + json.dumps(row))
        file.write("]}")
    refs, sentence_id = [], 0
    for number in range(REFS):
        annotation = number * (ANNOTATIONS // REFS)
        sentences = []
        for _ in range(rng.choice((2, 3, 3, 3, 3, 3))):
            tokens = rng.choices(WORDS, k=rng.randint(1, 7))
            text = " ".join(tokens)
            sentences.append({"tokens": tokens, "raw": text.capitalize(), "sent_id": sentence_id, "sent": text})
            sentence_id += 1
        image = annotation % IMAGES
        refs.append(
            {
                "ref_id": number,
                "ann_id": annotation,
                "category_id": 1,
                "image_id": image,
                "file_name": f"COCO_train2014_{image:012d}_{number}.jpg",
                "split": SPLITS[image % len(SPLITS)],
                "sent_ids": [sentence["sent_id"] for sentence in sentences],
                "sentences": sentences,
            }
        )
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=0))  # the default protocol of Python 2


def measure(root: str, splits: tuple[str, ...] | None) -> dict[str, float]:
    """Measure one case.

    Args:
        root: folder of the data sets.
        splits: the split to open; None for all splits at once, () for the imports only.
    """
    from refersam.data.datasets import open_dataset, read_dataset

    start, count = time.perf_counter(), 0
    if splits is None:
        index = read_dataset(root, "refcoco")
        count = sum(map(len, index.samples.values()))
    elif splits:
        count = len(open_dataset(root, "refcoco", splits[0]))
    return {
        "phrases": count,
        "seconds": time.perf_counter() - start,
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder that contains refcoco/")
    parser.add_argument("--coordinates", type=int, default=110, help="mean coordinate pairs per random polygon")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        root = args.data_root or Path(temporary)
        context = multiprocessing.get_context("spawn")
        if args.data_root is None:  # in its own process, since on Linux a child's peak starts at its parent's size
            with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
                pool.submit(write_data_set, root, args.coordinates).result()
        size = (root / "refcoco" / "instances.json").stat().st_size / 2**20
        table = Table("", "phrases", "seconds", "peak MiB", title=f"RefCOCO's index, instances.json of {size:.0f} MB")
        for name, splits in (("imports only", ()), ("train", ("train",)), ("val", ("val",)), ("all splits", None)):
            with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
                row = pool.submit(measure, str(root), splits).result()
            table.add_row(name, f"{row['phrases']:,}", f"{row['seconds']:.1f}", f"{row['peak MiB']:.0f}")
        Console().print(table)


if __name__ == "__main__":
    main()
