"""Score a model on drawings by another renderer, with ordinary wordings: does it know more than how SceneRef draws?

    python benchmarks/other_drawings.py                       # the model in the box on 200 pictures
    python benchmarks/other_drawings.py --model runs/tiny/model --sheet drawings.png

The pictures share nothing with SceneRef's code: Pillow's own ellipses and polygons on plain, gridded or shaded ground,
in CSS colours, without patterns, some outlined, apart from each other. The phrases are a handful of fixed forms: "the
large brown diamond", "all the red objects", "every blue star", "the object on the far right", "the square to the right
of the small diamond", and objects that are not there. Places differ by a tenth of the picture at least, so that every
phrase has one meaning.
"""

from __future__ import annotations

import argparse
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw
from report import add_option, machine, report
from rich.progress import track
from robustness import draw_phrases

from refersam.checkpoints.folders import BUNDLED_CHECKPOINT
from refersam.inference.predictor import ReferSamPredictor

SIDE = 256
FINER = 4
"""Drawn so many times larger, then reduced."""

COLOURS = {
    "red": ("red", "crimson"),
    "green": ("green", "limegreen"),
    "blue": ("blue", "royalblue"),
    "yellow": ("yellow", "gold"),
    "orange": ("orange", "darkorange"),
    "purple": ("purple", "darkviolet"),
    "brown": ("saddlebrown", "sienna"),
    "pink": ("hotpink", "pink"),
    "black": ("black", "#202020"),
    "white": ("white", "#f8f8f8"),
}
GROUNDS = ("lightgray", "whitesmoke", "darkslategray", "tan", "lightblue", "#404040")
RADII = {"small": (15, 21), "large": (31, 40)}


def _turned(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """(angle in degrees from the top, radius) -> points of the unit frame."""
    return [(r * math.sin(math.radians(a)), -r * math.cos(math.radians(a))) for a, r in points]


_ARM = [(0.3, 1.0), (0.3, 0.3), (1.0, 0.3)], [(1.0, 0.3), (0.3, 0.3), (0.3, 1.0)]
"""A quarter of a cross, either way round."""

OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "triangle": [(0, -1), (1, 0.85), (-1, 0.85)],
    "diamond": [(0, -1.1), (0.75, 0), (0, 1.1), (-0.75, 0)],
    "star": _turned((36 * i, 1.1 if i % 2 == 0 else 0.45) for i in range(10)),
    "hexagon": _turned((60 * i, 1.0) for i in range(6)),
    "cross": [(s * u, t * v) for s, t, arm in ((1, -1, 0), (1, 1, 1), (-1, 1, 0), (-1, -1, 1)) for u, v in _ARM[arm]],
}
SHAPES = ("circle", *OUTLINES)


@dataclass(frozen=True)
class Thing:
    """An object: its attributes by their words, and where it is, in pixels."""

    size: str
    colour: str
    shape: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Question:
    """A phrase of one form, and the numbers of the things it means."""

    form: str
    phrase: str
    targets: tuple[int, ...]


def draw_things(numbers: random.Random) -> list[Thing]:
    """Three to six things that do not touch; colours and shapes come from a few, so that phrases are needed."""
    colours, shapes = numbers.sample(list(COLOURS), 3), numbers.sample(SHAPES, 3)
    things: list[Thing] = []
    wanted = numbers.randint(3, 6)
    while len(things) < wanted:
        size = numbers.choice(list(RADII))
        radius = numbers.uniform(*RADII[size])
        edge = 1.15 * radius + 3
        x, y = numbers.uniform(edge, SIDE - edge), numbers.uniform(edge, SIDE - edge)
        if all(math.hypot(x - t.x, y - t.y) > 1.2 * (radius + t.radius) for t in things):
            things.append(Thing(size, numbers.choice(colours), numbers.choice(shapes), x, y, radius))
    return things


def paint(things: list[Thing], numbers: random.Random) -> tuple[Image.Image, list[np.ndarray]]:
    """The picture, and each thing's mask."""
    wide = SIDE * FINER
    used = {thing.colour for thing in things}
    grounds = [name for name in GROUNDS if _stands_out(name, used)]
    ground = ImageColor.getrgb(numbers.choice(grounds))
    picture = Image.new("RGB", (wide, wide), ground)
    pen = ImageDraw.Draw(picture)
    kind = numbers.choice(("plain", "plain", "grid", "shaded"))
    for line in range(0, wide, 24 * FINER):
        shade = tuple(int(0.92 * value) for value in ground)
        if kind == "grid":
            pen.line((line, 0, line, wide), shade, FINER)
            pen.line((0, line, wide, line), shade, FINER)
        elif kind == "shaded":
            factor = 1 - 0.2 * line / wide
            pen.rectangle((0, line, wide, line + 24 * FINER), tuple(int(factor * value) for value in ground))
    edge = "black" if numbers.random() < 0.3 and sum(ground) > 300 else None
    paints = {name: numbers.choice(COLOURS[name]) for name in sorted(used)}
    masks = []
    for thing in things:
        mask = Image.new("1", (wide, wide))
        for canvas, fill, outline in ((pen, paints[thing.colour], edge), (ImageDraw.Draw(mask), 1, None)):
            _outline(canvas, thing, fill, outline)
        masks.append(np.asarray(mask.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)) >= 128)
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), masks


def _stands_out(ground: str, colours: set[str]) -> bool:
    values = np.array(ImageColor.getrgb(ground), dtype=float)
    return all(np.abs(values - ImageColor.getrgb(paint)).sum() > 110 for name in colours for paint in COLOURS[name])


def _outline(pen: ImageDraw.ImageDraw, thing: Thing, fill: str | int, outline: str | None) -> None:
    x, y, radius = (FINER * value for value in (thing.x, thing.y, thing.radius))
    width = 2 * FINER if outline else 0
    if thing.shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill, outline, width)
    else:
        points = [(x + radius * u, y + radius * v) for u, v in OUTLINES[thing.shape]]
        pen.polygon(points, fill, outline, width)


def _where(things: list[Thing], **wanted: str) -> tuple[int, ...]:
    return tuple(i for i, t in enumerate(things) if all(getattr(t, name) == value for name, value in wanted.items()))


_SAID = (("colour", "shape"), ("size", "colour", "shape"), ("size", "shape"), ("colour",), ("shape",))


def _attributes(things: list[Thing], numbers: random.Random) -> Question | None:
    thing = numbers.choice(things)
    names = numbers.choice(
        (("colour", "shape"), ("size", "colour", "shape"), ("size", "shape"), ("colour",), ("shape",))
    )
    said = {name: getattr(thing, name) for name in names}
    words = [*said.values()] + ([] if "shape" in said else ["object"])
    targets = _where(things, **said)
    return Question("the large brown diamond", f"the {' '.join(words)}", targets) if len(targets) == 1 else None


def _all_of_colour(things: list[Thing], numbers: random.Random) -> Question | None:
    colour = numbers.choice(things).colour
    targets = _where(things, colour=colour)
    lead = numbers.choice(("all the", "all", "the"))
    return Question("all the red objects", f"{lead} {colour} objects", targets) if len(targets) > 1 else None


def _every(things: list[Thing], numbers: random.Random) -> Question | None:
    thing = numbers.choice(things)
    targets = _where(things, colour=thing.colour, shape=thing.shape)
    return Question("every blue star", f"every {thing.colour} {thing.shape}", targets) if len(targets) > 1 else None


_PLACES: dict[str, Callable[[Thing], float]] = {
    "on the far right": lambda t: -t.x,
    "on the far left": lambda t: t.x,
    "at the top": lambda t: t.y,
    "at the bottom": lambda t: -t.y,
}


def _place(things: list[Thing], numbers: random.Random) -> Question | None:
    words, key = numbers.choice(list(_PLACES.items()))
    noun = numbers.choice(("object", numbers.choice(things).shape))
    group = [i for i, t in enumerate(things) if noun in ("object", t.shape)]
    if len(group) < 2:
        return None
    first, second = sorted(group, key=lambda i: key(things[i]))[:2]
    if key(things[second]) - key(things[first]) < SIDE / 10:
        return None
    return Question("the object on the far right", f"the {noun} {words}", (first,))


_SIDES: dict[str, Callable[[Thing, Thing], float]] = {
    "to the right of": lambda a, b: a.x - b.x,
    "to the left of": lambda a, b: b.x - a.x,
    "above": lambda a, b: b.y - a.y,
    "below": lambda a, b: a.y - b.y,
}


def _beside(things: list[Thing], numbers: random.Random) -> Question | None:
    words, distance = numbers.choice(list(_SIDES.items()))
    mark = numbers.choice(things)
    said = numbers.choice(({"size": mark.size, "shape": mark.shape}, {"colour": mark.colour, "shape": mark.shape}))
    shape = numbers.choice(things).shape
    others = [i for i in _where(things, shape=shape) if things[i] is not mark]
    margins = [distance(things[i], mark) for i in others]
    hits = tuple(i for i, margin in zip(others, margins, strict=True) if margin > SIDE / 10)
    is_clear = all(abs(margin) > SIDE / 10 for margin in margins)
    if len(_where(things, **said)) != 1 or len(hits) != 1 or not is_clear:
        return None
    return Question(
        "the square to the right of the small diamond", f"the {shape} {words} the {' '.join(said.values())}", hits
    )


def _absent(things: list[Thing], numbers: random.Random) -> Question | None:
    colour = numbers.choice([*COLOURS])
    shape = numbers.choice(SHAPES)
    return None if _where(things, colour=colour, shape=shape) else Question("not there", f"the {colour} {shape}", ())


FORMS = (_attributes, _all_of_colour, _every, _place, _beside, _absent)


def ask(things: list[Thing], numbers: random.Random) -> list[Question]:
    """A question of each form that the things allow."""
    found = []
    for form in FORMS:
        tries = (form(things, numbers) for _ in range(30))
        question = next((question for question in tries if question is not None), None)
        if question is not None:
            found.append(question)
    return found


def main() -> None:
    """Draw, ask, score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(BUNDLED_CHECKPOINT))
    parser.add_argument("--count", type=int, default=200, help="pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, help="draw the answers of the first ten pictures here, as PNG")
    add_option(parser)
    args = parser.parse_args()

    predictor = ReferSamPredictor.from_pretrained(args.model, device="cpu")
    scores: dict[str, list[float]] = defaultdict(list)
    rows = []
    for number in track(range(args.count), "asking"):
        numbers = random.Random(f"{args.seed}-{number}")
        things = draw_things(numbers)
        picture, masks = paint(things, numbers)
        questions = ask(things, numbers)
        answers = predictor.predict(picture, [question.phrase for question in questions])
        for question, answer in zip(questions, answers, strict=True):
            truth = np.zeros((SIDE, SIDE), dtype=bool)
            for index in question.targets:
                truth |= masks[index]
            union = (answer.mask | truth).sum()
            score = float((answer.mask & truth).sum() / union) if union else 1.0
            scores[question.form].append(score)
            rows.append((picture, answer.mask, question.phrase, score >= 0.5))
    with_target = [score for form, found in scores.items() if form != "not there" for score in found]
    table = [(form, str(len(found)), f"{100 * np.mean(found):.1f}") for form, found in scores.items()]
    table.append(("all with a target", str(len(with_target)), f"{100 * np.mean(with_target):.1f}"))
    title = f"{args.count} drawings by another renderer, seed {args.seed}, {machine()}"
    report(title, ("form", "phrases", "mIoU, or share found to be missing"), table, args.table)
    if args.sheet:
        draw_phrases(rows[:60], args.sheet)


if __name__ == "__main__":
    main()
