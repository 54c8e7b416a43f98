"""List private phrases in texts and code, each with the field's term to write instead. Exit code 1 if there are any.

    python tools/check_terms.py                  # everything that people read
    python tools/check_terms.py docs README.md   # these files and directories

One line per place: FILE:LINE: phrase -> what to write.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("refersam", "sceneref", "benchmarks", "tools", "docs", "examples", "experiments", "tests")
SUFFIXES = frozenset({".md", ".py", ".yaml", ".yml", ".html", ".js", ".css"})
FILES = frozenset({"Makefile", "Dockerfile"})
EXCEPT = frozenset({"check_terms.py", "test_check_terms.py"})
"""This list, and its test."""

TERMS = {
    r"pictures?": "image",
    r"(?:model|one|weights|checkpoint)s? in the box": "bundled model, bundled checkpoint",
    r"number formats?": "dtype, precision",
    r"recomput\w*": "gradient checkpointing",
    r"highest rate|matrix_rate": "peak learning rate, muon_learning_rate",
    r"(?:backbone|text|prior)_factor": "image_encoder_lr_scale, text_encoder_lr_scale, spatial_prior_lr_scale",
    r"share[sd]? out|deal(?:s|t)? out": "shard, distribute",
    r"lessons?": "pretraining phase",
    r"nothing_recorded": "is_inference",
    r"asked (?:about )?once": "single use",
    r"look(?:s|ed|ing)? up": "gather",
    r"looks? at once": "encode once",
    r"(?:does|do) not depend on the phrase|sees? no text": "text-independent",
    r"as they stand": "reference implementation",
    r"(?:is|are) no numbers?": "NaN",
    r"what it survives": "fault tolerance",
    r"how it stands": "robustness",
    r"by heart": "overfit",
    r"in miniature(?!\.)": "small-scale",
    r"tak(?:es?|ing) turns": "alternate, interleave",
    r"let(?:s|ting)? go of": "free, release",
    r"(?:is|are|was|were|be|been) told|told(?= at| as| by| in)": "is reported",
    r"not to be had": "not available",
    r"that is none|what is none": "not a ...",
    r"drawn scenes?|drawings(?! -->)": "synthetic scenes, rendered scenes",
    r"takes? home": "download",
    r"(?:is|was|are|were) heard|hears?(?!t)": "text conditioning",
    r"knows no sign": "the tokenizer maps ... to [UNK]",
    r"whoever": "name the person or program",
}
"""Regular expressions of phrases, and the terms of the field."""

START, GAP = r"(?:(?<![a-zA-Z])|(?<=[a-z])(?=[A-Z]))", r"(?:[_ ]+|[ ]*\n[ ]*)"
"""Start of a word, also in snake_case and CamelCase, and what separates two words."""
WORDS = {re.compile(f"{START}(?i:{phrase.replace(' ', GAP)})(?![a-z])"): term for phrase, term in TERMS.items()}


PHRASE_DATA = frozenset({"places.py", "rewording.py", "phrases_by_hand.yaml", "test_benchmark.py"})
"""Files with phrases of data, in which people say "picture"."""


def text_files(places: Iterable[Path]) -> Iterator[Path]:
    """Yield the text files among files and, sorted, inside directories; hidden directories are left out."""
    for place in places:
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            hidden = any(part.startswith(".") for part in path.relative_to(place).parts)
            is_text = path.suffix in SUFFIXES or path.name in FILES
            if path.is_file() and not hidden and is_text and path.name not in PHRASE_DATA:
                yield path


def find_terms(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line number from 1, phrase, term to write) of each private phrase in a text, in order of lines.

    A phrase may continue on the next line, also in a comment or quote; it is reported at its first line.
    """
    joined = re.sub(r"\n[ \t]*[#>]?", lambda match: "\n" + " " * (len(match[0]) - 1), text)
    places = [
        (match.start(), " ".join(match[0].split()), term)
        for words, term in WORDS.items()
        for match in words.finditer(joined)
    ]
    for start, phrase, term in sorted(places):
        yield text.count("\n", 0, start) + 1, phrase, term


def main() -> None:
    """Print all places."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="*", type=Path, help="files and directories; by default those of the project")
    args = parser.parse_args()
    project = [*sorted(ROOT.glob("*.md")), ROOT / "Makefile", ROOT / "mkdocs.yml", *(ROOT / name for name in FOLDERS)]
    count = 0
    for path in text_files(args.places or project):
        if path.name in EXCEPT:
            continue
        for number, phrase, term in find_terms(path.read_text(encoding="utf-8")):
            name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
            sys.stdout.write(f"{name}:{number}: {phrase} -> {term}\n")
            count += 1
    if count:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
