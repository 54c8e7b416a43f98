"""Time and memory of opening a data set of RefCOCO's size: `open_dataset` and all splits at once.

    python benchmarks/data_index.py                   # a drawn data set in a temporary folder: 20,000 pictures,
                                                      # 50,000 refs, 142,000 phrases, instances.json of about 200 MB
    python benchmarks/data_index.py --data-root DATA  # the real one

Each case runs in a process of its own, whose peak memory is the process's own peak; "before" is that of a process that
has only imported the package.
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

PICTURES, ANNOTATIONS, REFS = 20_000, 197_000, 50_000
WORDS = tuple("man woman left right red blue shirt chair on the in front of dog white second from table".split())  # noqa: SIM905
SPLITS = ("train",) * 85 + ("val",) * 8 + ("testA",) * 4 + ("testB",) * 3


def write_data_set(root: Path, coordinates: int) -> None:
    """Annotations in RefCOCO's format; the pictures are empty files, since they are only looked for.

    Args:
        root: folder to write into.
        coordinates: of a polygon, on average.
    """
    drawn = random.Random(0)
    images = root / "images" / "train2014"
    images.mkdir(parents=True)
    folder = root / "refcoco"
    folder.mkdir()
    names = [f"COCO_train2014_{number:012d}.jpg" for number in range(PICTURES)]
    for name in names:
        (images / name).touch()
    with (folder / "instances.json").open("w") as file:
        file.write('{"info": {}, "images": ')
        json.dump([{"id": i, "file_name": n, "width": 640, "height": 480} for i, n in enumerate(names)], file)
        file.write(', "categories": ')
        json.dump([{"id": number, "name": f"category {number}", "supercategory": ""} for number in range(80)], file)
        file.write(', "annotations": [')
        for number in range(ANNOTATIONS):
            polygon = [round(drawn.uniform(0, 640), 2) for _ in range(2 * drawn.randint(3, coordinates))]
            row = {"id": number, "image_id": number % PICTURES, "category_id": drawn.randrange(80), "iscrowd": 0}
            row |= {"segmentation": [polygon], "area": 1.5, "bbox": polygon[:4]}
            file.write((", " if number else "") + json.dumps(row))
        file.write("]}")
    refs, sentence_id = [], 0
    for number in range(REFS):
        annotation = number * (ANNOTATIONS // REFS)
        sentences = []
        for _ in range(drawn.choice((2, 3, 3, 3, 3, 3))):
            tokens = drawn.choices(WORDS, k=drawn.randint(1, 7))
            text = " ".join(tokens)
            sentences.append({"tokens": tokens, "raw": text.capitalize(), "sent_id": sentence_id, "sent": text})
            sentence_id += 1
        image = annotation % PICTURES
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
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=0))  # what Python 2 wrote unless told otherwise


def measure(root: str, splits: tuple[str, ...] | None) -> dict[str, float]:
    """One case: `splits` None for all at once, () for nothing but the imports."""
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
    parser.add_argument("--data-root", type=Path, help="with refcoco in it")
    parser.add_argument("--coordinates", type=int, default=110, help="of a drawn polygon, on average")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        root = args.data_root or Path(temporary)
        context = multiprocessing.get_context("spawn")
        if args.data_root is None:  # in a process of its own, too: on Linux a child's peak begins at its parent's size
            with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
                pool.submit(write_data_set, root, args.coordinates).result()
        size = (root / "refcoco" / "instances.json").stat().st_size / 2**20
        table = Table("", "phrases", "seconds", "peak MiB", title=f"RefCOCO's index, instances.json of {size:.0f} MB")
        for name, splits in (("before", ()), ("train", ("train",)), ("val", ("val",)), ("all splits", None)):
            with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
                row = pool.submit(measure, str(root), splits).result()
            table.add_row(name, f"{row['phrases']:,}", f"{row['seconds']:.1f}", f"{row['peak MiB']:.0f}")
        Console().print(table)


if __name__ == "__main__":
    main()
