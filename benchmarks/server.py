"""Load test of `refersam serve`: requests a second, waiting times, answers mixed up or lost, and memory.

    python benchmarks/server.py                              # 2,000 requests: 1, then 4, then 16 clients
    python benchmarks/server.py --requests 200 --clients 8
    python benchmarks/server.py --models model exported      # the bundled model, and one of `refersam export openvino`
    python benchmarks/server.py --url http://127.0.0.1:8000  # a server that already runs, with the same model

Each client sends one image of examples/ with one to three phrases, waits for the answer, and sends the next. Every
answer is compared with what the model says without a server: its phrases, its image's size, and its masks, which may
differ in few pixels where a batch rounds in another way. Server and clients share this machine's processors.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from pycocotools import mask as coco_mask
from report import add_option, machine, report

from refersam import ReferSamPredictor

EXAMPLES = Path(__file__).parents[1] / "examples"
PHRASES = ("the orange star", "every red object", "the largest circle")
BUNDLED = "model"
"""Name of the bundled model."""
MOST_DIFFERENT = 0.002
"""Share of an image's pixels that rounding may move."""


class Case:
    """A request and its right answer.

    Args:
        path: of the image.
        phrases: of the request.
        predictor: says what is right.
    """

    def __init__(self, path: Path, phrases: tuple[str, ...], predictor: ReferSamPredictor) -> None:
        self.content, self.phrases = path.read_bytes(), list(phrases)
        self.masks = [answer.mask for answer in predictor.predict(path, phrases)]

    def ask(self, client: httpx2.Client) -> tuple[float, str]:
        """Seconds, and "right", "mixed up" or the status of a refusal."""
        start = time.perf_counter()
        try:
            reply = client.post("/v1/segment", files={"image": self.content}, data={"phrases": self.phrases})
        except httpx2.TransportError as error:
            return time.perf_counter() - start, f"lost ({type(error).__name__})"
        seconds = time.perf_counter() - start
        if reply.status_code != 200:
            return seconds, str(reply.status_code)
        return seconds, "right" if self._is_right(reply.json()["results"]) else "mixed up"

    def _is_right(self, results: list[dict[str, Any]]) -> bool:
        if [result["phrase"] for result in results] != self.phrases:
            return False
        masks = [coco_mask.decode(result["rle"]).astype(bool) for result in results]
        return all(
            mask.shape == right.shape and np.mean(mask != right) <= MOST_DIFFERENT
            for mask, right in zip(masks, self.masks, strict=True)
        )


@contextlib.contextmanager
def running_server(model: str) -> Iterator[str]:
    """Address of a server of its own."""
    command = [sys.executable, "-m", "refersam", "serve", "--port", "0"]
    command += [] if model == BUNDLED else ["--model", model]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        found = re.search(r"http://\S+", process.stdout.readline() if process.stdout else "")
        if found is None:
            sys.exit("The server did not start.")
        yield found.group()
    finally:
        process.terminate()
        process.wait()


def memory(client: httpx2.Client) -> float:
    """Of the server, in MiB; 0 where its system does not tell."""
    found = re.search(r"^process_resident_memory_bytes (\S+)", client.get("/metrics").text, re.MULTILINE)
    return float(found.group(1)) / 2**20 if found else 0.0


def main() -> None:
    """Ask, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--requests", type=int, default=2000, help="in all")
    parser.add_argument(
        "--models", nargs="+", default=[BUNDLED], help=f"one server after the other; {BUNDLED!r} is bundled"
    )
    parser.add_argument("--url", help="of a server that already runs; else one is started")
    add_option(parser)
    args = parser.parse_args()

    predictor = ReferSamPredictor.from_pretrained(device="cpu")
    images = sorted(EXAMPLES.glob("scene_*.png"))
    cases = [Case(path, PHRASES[: 1 + index % 3], predictor) for index, path in enumerate(images)]
    del predictor
    rows = []
    for model in args.models:
        with running_server(model) if args.url is None else contextlib.nullcontext(args.url) as url:
            with httpx2.Client(base_url=url, timeout=120) as client:
                while client.get("/ready").status_code != 200:
                    time.sleep(0.1)
                for case in cases:  # buffers are filled once
                    case.ask(client)
            for clients in args.clients:
                rows.append((Path(model).name, *measure(url, cases, clients, args.requests // len(args.clients))))
    numbers = ("requests/s", "phrases/s", "p50 ms", "p95 ms", "p99 ms", "MiB before", "MiB after")
    report(f"refersam serve: {machine()}", ("model", "clients", "requests", *numbers, "answers"), rows, args.table)


def measure(url: str, cases: list[Case], clients: int, requests: int) -> tuple[str, ...]:
    """A row of the table."""
    numbers = count()

    def work(_: int) -> list[tuple[float, str, int]]:
        results = []
        with httpx2.Client(base_url=url, timeout=120) as client:
            while (number := next(numbers)) < requests:
                case = cases[number % len(cases)]
                results.append((*case.ask(client), len(case.phrases)))
        return results

    with httpx2.Client(base_url=url) as client:
        before, start = memory(client), time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            results = [result for part in pool.map(work, range(clients)) for result in part]
        wall, after = time.perf_counter() - start, memory(client)
    kinds = [kind for _, kind, _ in results]
    p50, p95, p99 = 1000 * np.percentile([seconds for seconds, _, _ in results], [50, 95, 99])
    return (
        str(clients),
        str(len(results)),
        f"{len(results) / wall:.1f}",
        f"{sum(phrases for _, _, phrases in results) / wall:.1f}",
        *(f"{value:.0f}" for value in (p50, p95, p99, before, after)),
        ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds))),
    )


if __name__ == "__main__":
    main()
