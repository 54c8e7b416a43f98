"""Segment the example scenes with the model in the box: a table on screen, overlays in a folder.

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
    """Segment them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--sheet", type=Path, help="also write one picture with the first phrase of each scene")
    args = parser.parse_args()

    console = Console()
    transformers_logging.disable_progress_bar()
    with console.status("Loading the model ..."):
        predictor = ReferSamPredictor.from_pretrained()
    table = result_table()
    examples = json.loads((EXAMPLES / "phrases.json").read_text())
    predictor.predict(EXAMPLES / next(iter(examples)), "anything")  # the first call is slower than all others
    first_answers: list[Segmentation] = []
    for picture, phrases in examples.items():
        for phrase in phrases:
            start = time.perf_counter()
            result = predictor.predict(EXAMPLES / picture, phrase)
            milliseconds = 1000 * (time.perf_counter() - start)
            save_results([result], args.out, EXAMPLES / picture)
            add_result(table, picture, result, milliseconds)
            if phrase == phrases[0]:
                first_answers.append(result)
    console.print(table)
    console.print(f"Masks and overlays are in {args.out}/", highlight=False)
    say_domain(predictor.domain)
    if args.sheet:
        write_sheet(first_answers, args.sheet)


def write_sheet(answers: list[Segmentation], path: Path) -> None:
    """Overlays side by side, each under its phrase."""
    tiles = [
        (f"{answer.phrase}: {'nothing matches' if answer.no_target else f'{answer.score:.2f}'}", answer.overlay())
        for answer in answers
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(tiles).save(path, optimize=True)


if __name__ == "__main__":
    main()
