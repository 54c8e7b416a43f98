"""Several processes that predict at once on the same cores: milliseconds of each, and beside a training.

    python benchmarks/contention.py                                  # bundled model, OpenMP settings, 1, 2, 4 processes
    python benchmarks/contention.py --preset base --settings GOMP_SPINCOUNT=300000 GOMP_SPINCOUNT=1000
    python benchmarks/contention.py --model exported --settings ""   # a folder of `refersam export openvino`

Each process loads the model, waits for the others, and then answers a phrase of 6 tokens about one image in a loop. The
number is the median over all answers of all processes; "alone" is the time of one process with the first setting.
libgomp's own default is GOMP_SPINCOUNT=300000, refersam's is 1000.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from report import add_option, machine, report

SETTINGS = ("GOMP_SPINCOUNT=300000", "GOMP_SPINCOUNT=10000", "GOMP_SPINCOUNT=1000", "OMP_WAIT_POLICY=PASSIVE")
TRAINING = """
extension: sceneref.training
steps: 100000
batch_size: 12
log_every: 1
data: {image_size: 128, phrases_per_image: 4, validation_images: 4}
sceneref: {scene_sizes: [128]}
"""


def work(model: str, seconds: float) -> None:
    """One process: say "ready", wait for a line, predict for so long, print the seconds of each answer as JSON."""
    import numpy as np

    from refersam import ReferSamPredictor

    predictor = ReferSamPredictor.from_pretrained(model, device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    for _ in range(2):
        predictor.predict(image, "the red circle")
    print("ready", flush=True)
    sys.stdin.readline()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or not times:
        start = time.perf_counter()
        predictor.predict(image, "the red circle")
        times.append(time.perf_counter() - start)
    print(json.dumps(times), flush=True)


def measure(model: str, setting: str, processes: int, seconds: float) -> float:
    """Median seconds of an answer while so many processes predict at once."""
    command = [sys.executable, __file__, "--worker", "--model", model, "--seconds", str(seconds)]
    environment = environment_of(setting)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    workers = [subprocess.Popen(command, **pipes) for _ in range(processes)]  # type: ignore[call-overload]
    for worker in workers:
        worker.stdout.readline()
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    times = [seconds for worker in workers for seconds in json.loads(worker.stdout.readline())]
    for worker in workers:
        worker.communicate()
    return statistics.median(times)


def environment_of(setting: str) -> dict[str, str]:
    """The environment with a setting of OpenMP, and no other."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_WAIT", "KMP_"))}
    return kept | dict([setting.split("=")] if setting else [])


@contextlib.contextmanager
def training(setting: str) -> Iterator[None]:
    """The bundled model's training on synthetic scenes runs inside, after its first steps."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text(TRAINING)
        command = [sys.executable, "-m", "refersam", "train", str(recipe), "--out", f"{folder}/run"]
        process = subprocess.Popen(command, env=environment_of(setting), stdout=subprocess.DEVNULL)
        try:
            log = Path(folder) / "run" / "log.jsonl"
            while process.poll() is None and not (log.exists() and log.read_text().count("\n") > 2):
                time.sleep(0.5)
            if process.returncode is not None:
                sys.exit("The training did not start.")
            yield
        finally:
            process.kill()
            process.wait()


def main() -> None:
    """Measure all settings and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or file; without it, the preset's")
    parser.add_argument("--preset", default="tiny", choices=["tiny", "base"])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), help='environment variables; "" for none')
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--beside-training", action="store_true", help="also one process beside a training")
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    add_option(parser)
    args = parser.parse_args()
    if args.worker:
        work(args.model, args.seconds)
        return
    with tempfile.TemporaryDirectory() as folder:
        from engines import make_model

        model = args.model or str(make_model(args.preset, Path(folder)))
        rows = []
        first: float | None = None
        for setting in args.settings:
            row = []
            for processes in args.processes:
                found = measure(model, setting, processes, args.seconds)
                first = first or found
                row.append(f"{1000 * found:.0f} ({found / first:.1f})")
            if args.beside_training:
                with training(setting):
                    found = measure(model, setting, 1, args.seconds)
                row.append(f"{1000 * found:.0f} ({found / first:.1f})")
            rows.append((setting or "none", *row))
    names = [f"{count} at once" if count > 1 else "alone" for count in args.processes]
    names += ["beside a training"] if args.beside_training else []
    where = Path(args.model).name if args.model else {"tiny": "bundled model", "base": "base at 448 px"}[args.preset]
    report(f"ms per answer (ratio to the first), {where}, {machine()}", ("setting", *names), rows, args.table)


if __name__ == "__main__":
    main()
