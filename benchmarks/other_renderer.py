"""Score the generalisation of a model to images of another renderer than SceneRef's.

    python benchmarks/other_renderer.py                       # bundled model, 200 images
    python benchmarks/other_renderer.py --model runs/tiny/model --sheet sheet.png

The images share no code with SceneRef: Pillow's ellipses and polygons on plain, gridded or shaded backgrounds, in CSS
colours, without patterns, some with outlines, without overlap. The phrases have six fixed forms: "the large brown
diamond", "all the red objects", "every blue star", "the object on the far right", "the square to the right of the small
diamond", and absent objects. Compared positions differ by at least a tenth of the image, so that phrases are
unambiguous.
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
SUPERSAMPLING = 4
"""Factor of supersampling: images are drawn at this multiple of their size, then reduced."""

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
BACKGROUNDS = ("lightgray", "whitesmoke", "darkslategray", "tan", "lightblue", "#404040")
RADII = {"small": (15, 21), "large": (31, 40)}


def _from_polar(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Convert (angle in degrees from the top, radius) to (x, y) points of the unit frame."""
    return [(r * math.sin(math.radians(a)), -r * math.cos(math.radians(a))) for a, r in points]


_ARM = [(0.3, 1.0), (0.3, 0.3), (1.0, 0.3)], [(1.0, 0.3), (0.3, 0.3), (0.3, 1.0)]
"""A quarter of a cross, in both orientations."""

OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "triangle": [(0, -1), (1, 0.85), (-1, 0.85)],
    "diamond": [(0, -1.1), (0.75, 0), (0, 1.1), (-0.75, 0)],
    "star": _from_polar((36 * i, 1.1 if i % 2 == 0 else 0.45) for i in range(10)),
    "hexagon": _from_polar((60 * i, 1.0) for i in range(6)),
    "cross": [(s * u, t * v) for s, t, arm in ((1, -1, 0), (1, 1, 1), (-1, 1, 0), (-1, -1, 1)) for u, v in _ARM[arm]],
}
SHAPES = ("circle", *OUTLINES)


@dataclass(frozen=True)
class RenderedObject:
    """An object: attributes, centre (x, y) and radius in pixels."""

    size: str
    colour: str
    shape: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Query:
    """A phrase, its form, and the indices of its target objects."""

    form: str
    phrase: str
    targets: tuple[int, ...]


def sample_objects(rng: random.Random) -> list[RenderedObject]:
    """Draw three to six separate objects that share three colours and three shapes."""
    colours, shapes = rng.sample(list(COLOURS), 3), rng.sample(SHAPES, 3)
    objects: list[RenderedObject] = []
    wanted = rng.randint(3, 6)
    while len(objects) < wanted:
        size = rng.choice(list(RADII))
        radius = rng.uniform(*RADII[size])
        edge = 1.15 * radius + 3
        x, y = rng.uniform(edge, SIDE - edge), rng.uniform(edge, SIDE - edge)
        if all(math.hypot(x - t.x, y - t.y) > 1.2 * (radius + t.radius) for t in objects):
            objects.append(RenderedObject(size, rng.choice(colours), rng.choice(shapes), x, y, radius))
    return objects


def render(objects: list[RenderedObject], rng: random.Random) -> tuple[Image.Image, list[np.ndarray]]:
    """Return the image and the (H, W) mask of each object."""
    wide = SIDE * SUPERSAMPLING
    used = {item.colour for item in objects}
    backgrounds = [name for name in BACKGROUNDS if _has_contrast(name, used)]
    background = ImageColor.getrgb(rng.choice(backgrounds))
    image = Image.new("RGB", (wide, wide), background)
    draw = ImageDraw.Draw(image)
    kind = rng.choice(("plain", "plain", "grid", "shaded"))
    for line in range(0, wide, 24 * SUPERSAMPLING):
        shade = tuple(int(0.92 * value) for value in background)
        if kind == "grid":
            draw.line((line, 0, line, wide), shade, SUPERSAMPLING)
            draw.line((0, line, wide, line), shade, SUPERSAMPLING)
        elif kind == "shaded":
            factor = 1 - 0.2 * line / wide
            draw.rectangle(
                (0, line, wide, line + 24 * SUPERSAMPLING), tuple(int(factor * value) for value in background)
            )
    edge = "black" if rng.random() < 0.3 and sum(background) > 300 else None
    fills = {name: rng.choice(COLOURS[name]) for name in sorted(used)}
    masks = []
    for item in objects:
        mask = Image.new("1", (wide, wide))
        for canvas, fill, outline in ((draw, fills[item.colour], edge), (ImageDraw.Draw(mask), 1, None)):
            _draw_shape(canvas, item, fill, outline)
        masks.append(np.asarray(mask.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)) >= 128)
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), masks


def _has_contrast(background: str, colours: set[str]) -> bool:
    values = np.array(ImageColor.getrgb(background), dtype=float)
    return all(np.abs(values - ImageColor.getrgb(fill)).sum() > 110 for name in colours for fill in COLOURS[name])


def _draw_shape(draw: ImageDraw.ImageDraw, item: RenderedObject, fill: str | int, outline: str | None) -> None:
    x, y, radius = (SUPERSAMPLING * value for value in (item.x, item.y, item.radius))
    width = 2 * SUPERSAMPLING if outline else 0
    if item.shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill, outline, width)
    else:
        points = [(x + radius * u, y + radius * v) for u, v in OUTLINES[item.shape]]
        draw.polygon(points, fill, outline, width)


def _matching(objects: list[RenderedObject], **wanted: str) -> tuple[int, ...]:
    return tuple(i for i, t in enumerate(objects) if all(getattr(t, name) == value for name, value in wanted.items()))


_NAMED = (("colour", "shape"), ("size", "colour", "shape"), ("size", "shape"), ("colour",), ("shape",))


def _attributes(objects: list[RenderedObject], rng: random.Random) -> Query | None:
    item = rng.choice(objects)
    names = rng.choice(_NAMED)
    named = {name: getattr(item, name) for name in names}
    words = [*named.values()] + ([] if "shape" in named else ["object"])
    targets = _matching(objects, **named)
    return Query("the large brown diamond", f"the {' '.join(words)}", targets) if len(targets) == 1 else None


def _all_of_colour(objects: list[RenderedObject], rng: random.Random) -> Query | None:
    colour = rng.choice(objects).colour
    targets = _matching(objects, colour=colour)
    lead = rng.choice(("all the", "all", "the"))
    return Query("all the red objects", f"{lead} {colour} objects", targets) if len(targets) > 1 else None


def _every(objects: list[RenderedObject], rng: random.Random) -> Query | None:
    item = rng.choice(objects)
    targets = _matching(objects, colour=item.colour, shape=item.shape)
    return Query("every blue star", f"every {item.colour} {item.shape}", targets) if len(targets) > 1 else None


_PLACES: dict[str, Callable[[RenderedObject], float]] = {
    "on the far right": lambda t: -t.x,
    "on the far left": lambda t: t.x,
    "at the top": lambda t: t.y,
    "at the bottom": lambda t: -t.y,
}


def _place(objects: list[RenderedObject], rng: random.Random) -> Query | None:
    words, key = rng.choice(list(_PLACES.items()))
    noun = rng.choice(("object", rng.choice(objects).shape))
    group = [i for i, t in enumerate(objects) if noun in ("object", t.shape)]
    if len(group) < 2:
        return None
    first, second = sorted(group, key=lambda i: key(objects[i]))[:2]
    if key(objects[second]) - key(objects[first]) < SIDE / 10:
        return None
    return Query("the object on the far right", f"the {noun} {words}", (first,))


_SIDES: dict[str, Callable[[RenderedObject, RenderedObject], float]] = {
    "to the right of": lambda a, b: a.x - b.x,
    "to the left of": lambda a, b: b.x - a.x,
    "above": lambda a, b: b.y - a.y,
    "below": lambda a, b: a.y - b.y,
}


def _beside(objects: list[RenderedObject], rng: random.Random) -> Query | None:
    words, distance = rng.choice(list(_SIDES.items()))
    landmark = rng.choice(objects)
    named = rng.choice(
        ({"size": landmark.size, "shape": landmark.shape}, {"colour": landmark.colour, "shape": landmark.shape})
    )
    shape = rng.choice(objects).shape
    others = [i for i in _matching(objects, shape=shape) if objects[i] is not landmark]
    margins = [distance(objects[i], landmark) for i in others]
    hits = tuple(i for i, margin in zip(others, margins, strict=True) if margin > SIDE / 10)
    is_clear = all(abs(margin) > SIDE / 10 for margin in margins)
    if len(_matching(objects, **named)) != 1 or len(hits) != 1 or not is_clear:
        return None
    return Query(
        "the square to the right of the small diamond", f"the {shape} {words} the {' '.join(named.values())}", hits
    )


def _absent(objects: list[RenderedObject], rng: random.Random) -> Query | None:
    colour = rng.choice([*COLOURS])
    shape = rng.choice(SHAPES)
    return (
        None if _matching(objects, colour=colour, shape=shape) else Query("absent object", f"the {colour} {shape}", ())
    )


FORMS = (_attributes, _all_of_colour, _every, _place, _beside, _absent)


def make_queries(objects: list[RenderedObject], rng: random.Random) -> list[Query]:
    """Return a query of each form that the objects allow."""
    found = []
    for form in FORMS:
        tries = (form(objects, rng) for _ in range(30))
        query = next((query for query in tries if query is not None), None)
        if query is not None:
            found.append(query)
    return found


def main() -> None:
    """Render and segment the images, and print a table by phrase form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(BUNDLED_CHECKPOINT))
    parser.add_argument("--count", type=int, default=200, help="number of images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, help="write the predicted masks of the first images to this PNG file")
    add_option(parser)
    args = parser.parse_args()

    predictor = ReferSamPredictor.from_pretrained(args.model, device="cpu")
    scores: dict[str, list[float]] = defaultdict(list)
    rows = []
    for number in track(range(args.count), "segmenting"):
        rng = random.Random(f"{args.seed}-{number}")
        objects = sample_objects(rng)
        image, masks = render(objects, rng)
        queries = make_queries(objects, rng)
        results = predictor.predict(image, [query.phrase for query in queries])
        for query, result in zip(queries, results, strict=True):
            truth = np.zeros((SIDE, SIDE), dtype=bool)
            for index in query.targets:
                truth |= masks[index]
            union = (result.mask | truth).sum()
            score = float((result.mask & truth).sum() / union) if union else 1.0
            scores[query.form].append(score)
            rows.append((image, result.mask, query.phrase, score >= 0.5))
    with_target = [score for form, found in scores.items() if form != "absent object" for score in found]
    table = [(form, str(len(found)), f"{100 * np.mean(found):.1f}") for form, found in scores.items()]
    table.append(("all with a target", str(len(with_target)), f"{100 * np.mean(with_target):.1f}"))
    title = f"{args.count} images of another renderer, seed {args.seed}, {machine()}"
    report(title, ("form", "phrases", "mIoU (absent object: accuracy), %"), table, args.table)
    if args.sheet:
        draw_phrases(rows[:60], args.sheet)


if __name__ == "__main__":
    main()
