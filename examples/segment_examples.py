"""Segment the example scenes with the model in the box: a table on screen, overlays in a folder.

python examples/segment_examples.py --out out
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from PIL import Image, ImageDraw
from rich.console import Console
from transformers.utils import logging as transformers_logging

from refersam import ReferSamPredictor, Segmentation
from refersam.cli.console import NOT_FOR_PHOTOGRAPHS
from refersam.cli.segment import add_result, result_table, save_results

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
            save_results([result], args.out, Path(picture).stem)
            add_result(table, picture, result, milliseconds)
            if phrase == phrases[0]:
                first_answers.append(result)
    console.print(table)
    console.print(f"Masks and overlays are in {args.out}/", highlight=False)
    console.print(NOT_FOR_PHOTOGRAPHS, highlight=False)
    if args.sheet:
        write_sheet(first_answers, args.sheet)


def write_sheet(answers: list[Segmentation], path: Path, columns: int = 4) -> None:
    """Overlays side by side, each under its phrase."""
    side, caption = 256, 24
    rows = -(-len(answers) // columns)
    sheet = Image.new("RGB", (columns * side, rows * (side + caption)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, answer in enumerate(answers):
        x, y = index % columns * side, index // columns * (side + caption)
        answer_text = "nothing matches" if answer.no_target else f"{answer.score:.2f}"
        draw.text((x + 6, y + 5), f"{answer.phrase}: {answer_text}", fill="black", font_size=14)
        sheet.paste(answer.overlay().resize((side, side)), (x, y + caption))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


if __name__ == "__main__":
    main()
