"""Segment the example scenes with the bundled model, print a table of results, and write masks and overlays.

python examples/segment_examples.py --out out
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from rich.console import Console
from transformers.utils import logging as transformers_logging

from refersam import ReferSamPredictor, Segmentation
from refersam.cli.console import say_domain
from refersam.cli.segment import add_result, result_table, save_results
from refersam.drawing import contact_sheet

EXAMPLES = Path(__file__).parent


def main() -> None:
    """Segment all example scenes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--sheet", type=Path, help="also write an overview image with the first phrase of each scene")
    args = parser.parse_args()

    console = Console()
    transformers_logging.disable_progress_bar()
    with console.status("Loading the model ..."):
        predictor = ReferSamPredictor.from_pretrained()
    table = result_table()
    examples = json.loads((EXAMPLES / "phrases.json").read_text())
    predictor.predict(EXAMPLES / next(iter(examples)), "anything")  # warm-up, since the first call is slower
    first_results: list[Segmentation] = []
    for image, phrases in examples.items():
        for phrase in phrases:
            start = time.perf_counter()
            result = predictor.predict(EXAMPLES / image, phrase)
            milliseconds = 1000 * (time.perf_counter() - start)
            save_results([result], args.out, EXAMPLES / image)
            add_result(table, image, result, milliseconds)
            if phrase == phrases[0]:
                first_results.append(result)
    console.print(table)
    console.print(f"Masks and overlays are in {args.out}/", highlight=False)
    say_domain(predictor.domain)
    if args.sheet:
        write_sheet(first_results, args.sheet)


def write_sheet(results: list[Segmentation], path: Path) -> None:
    """Write a contact sheet of overlays with their phrases and scores."""
    tiles = [
        (f"{result.phrase}: {'nothing matches' if result.no_target else f'{result.score:.2f}'}", result.overlay())
        for result in results
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(tiles).save(path, optimize=True)


if __name__ == "__main__":
    main()
