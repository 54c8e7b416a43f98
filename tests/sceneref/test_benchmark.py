"""SceneRef: phrase semantics against an independent parser, exact masks, seeds, files, streams."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch.utils.data
from PIL import Image
from pycocotools.coco import COCO

from refersam.errors import DataError
from sceneref import (
    COLOURS,
    DEFAULT_PHENOMENA,
    HELD_OUT_PAIRS,
    SHAPES,
    Region,
    Scene,
    SceneObject,
    ScenePhrase,
    SceneRefDataset,
    SceneRefSettings,
    SceneRefStream,
    blind_guess_scores,
    generate_scene,
    write_sceneref,
)
from sceneref.colours import PALETTE, lab_distances, to_lab
from sceneref.layout import MIN_VISIBLE
from sceneref.objects import RADII, object_coverage, unit_polygon
from sceneref.phrases import build_phrase
from sceneref.view import View
from sceneref.words import tokenize

SMALL = SceneRefSettings(width=128, height=128)


# --- an independent parser of the phrases: text -> set of objects, with the smallest difference that it relied on ---

VALUES = {
    **{name: ("colour", name) for name in COLOURS},
    **{shape: ("shape", shape) for shape in SHAPES},
    **{"grey": ("colour", "gray"), "violet": ("colour", "purple")},
    **dict.fromkeys(("large", "big"), ("size", "large")),
    **dict.fromkeys(("small", "little", "tiny"), ("size", "small")),
    **dict.fromkeys(("plain", "solid"), ("pattern", "plain")),
    **dict.fromkeys(("striped", "stripes"), ("pattern", "striped")),
    **dict.fromkeys(("dotted", "spotted", "dots"), ("pattern", "dotted")),
    **dict.fromkeys(("checkered", "checked"), ("pattern", "checkered")),
    **dict.fromkeys(("disc", "disk"), ("shape", "circle")),
    **{"donut": ("shape", "ring"), "plus": ("shape", "cross"), "rhombus": ("shape", "diamond")},
    **{"moon": ("shape", "crescent"), "rectangle": ("shape", "bar")},
}
PLURALS = {"crosses": "cross", "pluses": "plus", "rhombuses": "rhombus", "dots": "dots", "stripes": "stripes"}
FILLER = {
    "the", "a", "an", "all", "of", "every", "each", "both", "two", "three", "four", "five", "six", "seven", "eight",
    "nine", "ten", "object", "thing", "shape", "one", "item", "figure", "everything", "that", "which", "is", "are",
    "with", "pattern", "sign",
}  # fmt: skip
ASIDE = {
    "in", "on", "at", "to", "far", "side", "corner", "very", "closest", "nearest", "furthest", "farthest", "up", "down",
}  # fmt: skip
DIRECTION = {"leftmost": "left", "rightmost": "right", "topmost": "top", "highest": "top", "upper": "top"}
DIRECTION |= {"uppermost": "top", "bottommost": "bottom", "lowest": "bottom", "lower": "bottom", "lowermost": "bottom"}
DIRECTION |= {name: name for name in ("left", "right", "top", "bottom")}
DIRECTION |= dict.fromkeys(("middle", "center", "centre", "central"), "middle")
RANK = {"first": 0, "1st": 0, "second": 1, "2nd": 1, "third": 2, "3rd": 2, "fourth": 3, "4th": 3, "fifth": 4, "5th": 4}
RELATIONS = [
    (r"(?:to the|on the)? ?(left|right) (?:side )?of", None),
    (r"(above|higher than)", "top"),
    (r"(below|underneath|under|beneath|lower than)", "bottom"),
    (r"(next to|beside|near)", "near"),
    (r"(closest to|nearest to|nearest)", "near"),
    (r"(farthest from|furthest from|furthest away from)", "far"),
    (r"(bigger than|larger than)", "bigger"),
    (r"(smaller than)", "smaller"),
]


class PhraseParser:
    """Parser of phrases about a scene, without margins; `slack` is the smallest difference it relied on, in sides."""

    def __init__(self, scene: Scene) -> None:
        self.objects = scene.objects
        self.height, self.width = scene.image.shape[:2]
        self.side = min(self.width, self.height)
        self.slack = math.inf
        self.ratio = math.inf

    def read(self, text: str) -> set[int]:
        text = text.lower().rstrip(".").replace("-most", "most").replace("isn't", "is not").replace("aren't", "are not")
        text = re.sub(r" of the (picture|image)$", "", text)
        text = re.sub(r"\b(top|bottom|upper|lower)-(left|right)", r"\1 \2", text)
        if " and " in text:
            parts = [self.read(part) for part in re.split(r", | and ", text.removeprefix("both "))]
            assert all(len(part) == 1 for part in parts)
            return set.union(*parts)
        if match := re.fullmatch(r"(.*) (?:except|but|except for) the (.*) ones?", text):
            return self.read(match[1]) - self.plain(match[2])
        for pattern, name in RELATIONS:
            if match := re.fullmatch(rf"(.*?) (?:(?:that|which) is )?{pattern} (.*)", text):
                if re.search(r"(top|bottom|center|centre|middle|corner)$", match[3]):
                    continue
                return self.related(self.plain(match[1]), name or match[2], self.plain(match[3]))
        return self.placed(text)

    def related(self, xs: set[int], relation: str, landmarks: set[int]) -> set[int]:
        if not xs:
            return set()
        assert len(landmarks) == 1, "the landmark is not one object"
        landmark = self.objects[min(landmarks)]
        xs = xs - landmarks
        if relation in ("near", "far"):
            sign = 1 if relation == "near" else -1
            return self.least(xs, lambda o: sign * math.dist(o.centre, landmark.centre))
        if relation in ("bigger", "smaller"):
            for i in xs:
                big, small = sorted((self.objects[i].radius, landmark.radius), reverse=True)
                self.ratio = min(self.ratio, big / small)
            return {i for i in xs if (self.objects[i].radius > landmark.radius) == (relation == "bigger")}
        key = self.key(relation)
        for i in xs:
            self.slack = min(self.slack, abs(key(self.objects[i]) - key(landmark)) / self.side)
        return {i for i in xs if key(self.objects[i]) < key(landmark)}

    def key(self, direction: str):
        if direction == "middle":
            return lambda o: math.dist(o.centre, (self.width / 2, self.height / 2))
        axis, sign = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}[direction]
        return lambda o: sign * o.centre[axis]

    def least(self, xs: set[int], key, rank: int = 0, count: int = 1) -> set[int]:
        ranked = sorted(xs, key=lambda i: key(self.objects[i]))
        if rank >= len(ranked):
            return set()
        keys = [key(self.objects[i]) for i in ranked]
        for later in (rank, rank + count):
            if 0 < later < len(keys):
                self.slack = min(self.slack, (keys[later] - keys[later - 1]) / self.side)
        return set(ranked[rank : rank + count])

    def placed(self, text: str) -> set[int]:
        words = text.split()
        if "from" in words and any(word in RANK for word in words):
            side = self.key(words[-1])
            rank = next(RANK[word] for word in words if word in RANK)
            rest = [w for w in words[: words.index("from")] if w not in RANK]
            return self.least(self.plain(" ".join(rest)), side, rank)
        for word, sign in (("biggest", -1), ("largest", -1), ("bigger", -1), ("larger", -1), ("smallest", 1),
                           ("smaller", 1), ("tiniest", 1), ("littler", 1)):  # fmt: skip
            if word in words:
                xs = sorted(self.plain(text.replace(word, "")), key=lambda i: sign * self.objects[i].radius)
                if len(xs) > 1:
                    a, b = self.objects[xs[0]].radius, self.objects[xs[1]].radius
                    self.ratio = min(self.ratio, a / b if sign < 0 else b / a)
                return set(xs[:1])
        places = [DIRECTION[word] for word in words if word in DIRECTION]
        if not places:
            return self.plain(text)
        xs = self.plain(" ".join(word for word in words if word not in DIRECTION and word not in ASIDE))
        if len(places) == 2:
            corner = (0 if "left" in places else self.width, 0 if "top" in places else self.height)
            return self.least(xs, lambda o: math.dist(o.centre, corner))
        count = 2 if "two" in words else 1
        return self.least(xs, self.key(places[0]), count=count) if xs else set()

    def plain(self, text: str) -> set[int]:
        xs = set(range(len(self.objects)))
        negate = False
        for word in text.split():
            if word == "not":
                negate = True
                continue
            if word.startswith("non-"):
                word, negate = word.removeprefix("non-"), True
            word = PLURALS.get(word, word)
            if word not in VALUES and word not in FILLER and word.endswith("s"):
                word = word[:-1]
            if word in FILLER:
                continue
            assert word in VALUES, f"unknown word {word!r}"
            name, value = VALUES[word]
            # "plus sign", "crescent moon", "checkered pattern" name one thing with two words
            xs &= {i for i, o in enumerate(self.objects) if (getattr(o, name) == value) != negate}
            negate = False
        return xs


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [generate_scene(SMALL, "train", 7, index) for index in range(300)]


@pytest.fixture(scope="module")
def compositional() -> list[Scene]:
    return [generate_scene(SMALL, "compositional", 7, index) for index in range(100)]


def test_an_independent_parser_agrees_on_every_phrase(scenes: list[Scene], compositional: list[Scene]) -> None:
    for scene in scenes + compositional:
        for phrase in scene.phrases:
            parser = PhraseParser(scene)
            assert parser.read(phrase.text) == set(phrase.targets), (phrase, scene.objects)
            assert parser.slack >= 0.05 - 1e-6, phrase
            assert parser.ratio >= 1.25 - 1e-6 or not phrase.targets, phrase


def test_parser_on_images_that_are_not_square() -> None:
    settings = SceneRefSettings(width=200, height=96, phrases_per_scene=6)
    for index in range(40):
        scene = generate_scene(settings, "val", 3, index)
        assert scene.image.shape == (96, 200, 3)
        for phrase in scene.phrases:
            assert PhraseParser(scene).read(phrase.text) == set(phrase.targets), phrase


def test_number_of_targets_follows_the_words(scenes: list[Scene]) -> None:
    for scene in scenes:
        for phrase in scene.phrases:
            words = tokenize(phrase.text)
            count = len(phrase.targets)
            if phrase.tags[0] == "no-target":
                assert count == 0
                assert phrase.tags[1] in ("absent", "false-relation")
                continue
            if phrase.tags[0] == "several" or words[0] in ("all", "every", "each", "both"):
                assert count >= 2, phrase
            elif phrase.tags[0] != "negation":
                assert count == 1, phrase
            if words[0] == "both" or words[:2] == ["the", "two"]:
                assert count == 2, phrase


def test_mentions_match_each_description_alone(scenes: list[Scene]) -> None:
    """According to the independent parser: the group that a position, an order or a comparison selects from."""
    counts: Counter[int] = Counter()
    for scene in scenes:
        for phrase in scene.phrases:
            phenomenon, first = phrase.tags[0], set(phrase.mentions[0])
            if phenomenon == "relative":
                assert len(phrase.mentions[1]) == 1, phrase
                assert set(phrase.targets) <= first - set(phrase.mentions[1]), phrase
            if phenomenon == "attribute":
                assert first == set(phrase.targets), phrase
            if phenomenon in ("absolute", "ordinal", "comparison", "negation"):
                assert set(phrase.targets) <= first, phrase
            if "conjunction" in phrase.tags:
                assert {index for mention in phrase.mentions for index in mention} == set(phrase.targets), phrase
            if "absent" in phrase.tags:
                assert not first, phrase
            if "false-relation" in phrase.tags:
                assert first, phrase
            counts[len(phrase.mentions)] += 1
    assert min(counts[number] for number in (1, 2, 3)) > 0


def test_regions_and_negations_select_the_targets(scenes: list[Scene]) -> None:
    """Targets are the objects that match the first description and are in the region, or satisfy the negation."""
    counts: Counter[str] = Counter()
    for scene in scenes:
        x, y = np.array([item.centre for item in scene.objects]).T
        for phrase in scene.phrases:
            assert phrase.region is None or phrase.negation_matches is None, phrase
            left = set(phrase.mentions[0])
            if phrase.region is not None:
                left &= set(np.flatnonzero(phrase.region.holds(x, y) == 1).tolist())
            elif phrase.negation_matches is not None:
                left &= set(phrase.negation_matches)
            else:
                continue
            assert left == set(phrase.targets), phrase
            counts[phrase.tags[0]] += 1
    assert set(counts) == {"absolute", "relative", "ordinal", "negation", "several", "no-target"}


def test_a_region_by_hand() -> None:
    """1 inside, 0 outside, -1 within the margin of a finite end."""
    x, y = np.array([0.0, 5.0, 9.0, 12.0, 20.0, 31.0]), np.zeros(6)
    assert Region("x", low=10, margin=3).holds(x, y).tolist() == [0, 0, -1, -1, 1, 1]
    assert Region("y", high=-1).holds(x, y).tolist() == [0] * 6
    ring = Region("distance", low=2, high=13, margin=1.5, point=(0, 5))
    assert ring.holds(x, y).tolist() == [1, 1, 1, -1, 0, 0]
    assert ring.holds(np.array(0.0), np.array(5.0)) == 0


def test_regions_of_phrases() -> None:
    """Up to halfway to the next rank or distance; beyond a landmark with a margin of 5; None without position."""
    view = hand_made(
        ("large", "red", "star", 20, 20),
        ("small", "red", "star", 80, 25),
        ("small", "blue", "star", 52, 75),
        ("large", "blue", "circle", 86, 85),
    )
    texts: set[str] = set()
    names = ("absolute", "ordinal", "relative", "negation", "several")
    made = [build_phrase(view, name, texts) for name in names for _ in range(500)]
    phrases = [phrase for phrase in made if phrase is not None]

    def regions_of(pattern: str) -> set[tuple[Region | None, tuple[int, ...] | None]]:
        form = re.compile(f"((the|an?) )?({pattern})[.]?", re.IGNORECASE)
        return {(phrase.region, phrase.negation_matches) for phrase in phrases if form.fullmatch(phrase.text)}

    assert regions_of("(second|2nd) star from (the )?right") == {(Region("x", 36, 66), None)}
    assert regions_of("(third|3rd) star from (the )?left") == {(Region("x", low=66), None)}
    assert regions_of("(second|2nd) star from (the )?top") == {(Region("y", 22.5, 50), None)}
    assert regions_of("(leftmost|left-most) star") == {(Region("x", high=36), None)}
    assert regions_of("two leftmost stars") == {(Region("x", high=66), None)}
    below = (Region("y", low=25, margin=5), None)
    assert regions_of(
        "(blue|large blue) (disc|disk|circle) (below|under|beneath|underneath) (the )?small red star"
    ) == {below}
    half = (math.hypot(6, 60) + math.hypot(66, 65)) / 2  # of the red stars from the circle
    to_circle = "(to |from )?(the )?(large |big )?blue (disc|disk|circle)"
    assert regions_of(f"red star (nearest|closest) {to_circle}") == {
        (Region("distance", 5, half, point=(86, 85)), None)
    }
    assert regions_of(f"red star (farthest|furthest) {to_circle}") == {
        (Region("distance", low=half, point=(86, 85)), None)
    }
    assert regions_of("(all |all the |the )?stars that (are not|aren't) large") == {(None, (1, 2))}
    assert regions_of("all (the )?objects except the small ones") == {(None, (0, 3))}


def hand_made(*items: tuple[str, str, str, float, float]) -> View:
    """Return a view of plain objects (size, colour, shape, x, y) in an image of 100 x 100 pixels."""
    radius = {"small": 7.0, "large": 13.0}
    objects = [SceneObject(s, c, z, "plain", radius[z], (x, y), 0.0, 3, PALETTE[c][0]) for z, c, s, x, y in items]
    rng = np.random.default_rng(0)
    return View(objects, SceneRefSettings(width=100, height=100), "val", rng)


def build_many(view: View, phenomenon: str, count: int = 500) -> dict[str, tuple[int, ...]]:
    texts: set[str] = set()
    found: dict[str, tuple[int, ...]] = {}
    for _ in range(count):
        phrase = build_phrase(view, phenomenon, texts)
        if phrase is not None:
            found[phrase.text.lower().rstrip(".")] = phrase.targets
    return found


def meaning(targets_by_text: dict[str, tuple[int, ...]], pattern: str) -> set[tuple[int, ...]]:
    """Return all targets of the phrases of this form, with or without an article."""
    return {targets for text, targets in targets_by_text.items() if re.fullmatch(f"((the|an?) )?({pattern})", text)}


def test_hand_worked_scene() -> None:
    view = hand_made(
        ("large", "red", "star", 20, 20),
        ("small", "red", "star", 80, 25),
        ("small", "blue", "star", 52, 75),
        ("large", "blue", "circle", 86, 85),
    )
    thing = "(object|thing|shape|one|item|figure)"
    absolute = build_many(view, "absolute")
    assert meaning(absolute, "(left-?most|left|far left) star") == {(0,)}
    assert meaning(absolute, "(right-?most|right|far right) star") == {(1,)}
    assert meaning(absolute, f"(right-?most|right|far right) {thing}") == {(3,)}
    assert meaning(absolute, "star (on|at) the (far )?left") == {(0,)}
    ordinal = build_many(view, "ordinal")
    assert meaning(ordinal, "(second|2nd) star from (the )?(left|right)") == {(2,)}
    several = build_many(view, "several")
    assert meaning(several, "(all|all the|all of the) red stars") == {(0, 1)}
    assert meaning(several, "(every|each) star") == {(0, 1, 2)}
    comparison = build_many(view, "comparison")
    assert meaning(comparison, "(smallest|tiniest) red star") == {(1,)}
    assert not meaning(comparison, f"(biggest|largest) {thing}")  # the large ones are too alike
    negation = build_many(view, "negation")
    assert meaning(negation, "star (that|which) is(n't| not) red") == {(2,)}
    relative = build_many(view, "relative")
    assert meaning(relative, "(circle|disc|disk) .*right of (the )?(small )?blue star") == {(3,)}
    assert not meaning(relative, "star .*left of (the )?circle")  # all three stars are
    absent = build_many(view, "no-target")
    assert meaning(absent, "red (circle|disc|disk)") == {()}
    assert meaning(absent, "star above (the )?(large|big) red star") == {()}
    assert not meaning(absent, "blue (circle|disc|disk)|red star (that is |which is )?above (the )?blue star")


def test_phrases_respect_the_margin() -> None:
    view = hand_made(
        ("large", "red", "star", 30, 20), ("small", "red", "star", 33, 70), ("small", "blue", "star", 70, 72)
    )  # fmt: skip
    absolute = build_many(view, "absolute")
    assert meaning(absolute, "(right-?most|right|far right) star") == {(2,)}
    assert not meaning(absolute, "(left-?most|left|far left|bottom|bottommost|lowest|lower) star")


def test_settings_are_checked() -> None:
    for bad in (
        {"width": 16}, {"min_objects": 1}, {"min_objects": 5, "max_objects": 4}, {"max_objects": 11},
        {"phrases_per_scene": 0}, {"difficulty": 1.5}, {"patterned": -0.1}, {"phenomena": {"riddle": 1.0}},
        {"phenomena": {"attribute": 0.0}}, {"phenomena": {"attribute": -1.0}}, {"phenomena": {}},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"\d|Unknown|Shares"):
            SceneRefSettings(**bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="split"):
        generate_scene(SMALL, "testA", 0, 0)
    with pytest.raises(ValueError, match="negative"):
        generate_scene(SMALL, "train", -1, 0)


def test_easy_stage() -> None:
    settings = SceneRefSettings(width=64, height=64, max_objects=4, phenomena={"attribute": 1.0}, difficulty=0.0)
    scenes = [generate_scene(settings, "train", 0, index) for index in range(40)]
    assert all(2 <= len(scene.objects) <= 4 and scene.phrases for scene in scenes)
    kinds = Counter(phrase.tags[0] for scene in scenes for phrase in scene.phrases)
    assert kinds["attribute"] >= 0.95 * kinds.total()


def test_share_of_patterned_scenes() -> None:
    """As set; by default half of the difficulty, with scenes equal to those of that explicit share."""

    def patterned(**settings: float) -> list[bool]:
        large = SceneRefSettings(width=256, height=256, max_objects=4, phrases_per_scene=1, **settings)  # type: ignore[arg-type]
        scenes = [generate_scene(large, "train", 0, index) for index in range(40)]
        return [any(item.pattern != "plain" for item in scene.objects) for scene in scenes]

    usual = patterned()
    assert usual == patterned(patterned=0.5)
    assert sum(patterned(patterned=0.0)) == 0
    assert 0 < sum(usual) < 20 < sum(patterned(patterned=1.0)) < 40  # picks of several may all be plain


def test_only_ordinals_still_gives_phrases() -> None:
    settings = SceneRefSettings(width=64, height=64, max_objects=2, phenomena={"ordinal": 1.0})
    assert all(generate_scene(settings, "train", 0, index).phrases for index in range(20))


@pytest.mark.parametrize(("width", "height"), [(32, 32), (64, 64), (512, 96), (90, 400), (512, 512)])
def test_any_image_size(width: int, height: int) -> None:
    settings = SceneRefSettings(width=width, height=height)
    for index in range(3):
        scene = generate_scene(settings, "test", 1, index)
        assert scene.image.shape == (height, width, 3)
        assert scene.image.dtype == np.uint8
        assert scene.masks.shape == (len(scene.objects), height, width)
        assert len(scene.phrases) >= 1


def test_scenes_with_many_objects() -> None:
    for index in range(5):
        scene = generate_scene(SceneRefSettings(width=64, height=64, min_objects=10), "train", 0, index)
        assert len(scene.objects) == 10


def test_equal_arguments_give_equal_bytes() -> None:
    first, again = (generate_scene(SMALL, "train", 5, 11) for _ in range(2))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.objects == again.objects
    assert first.phrases == again.phrases
    others = [generate_scene(SMALL, *key) for key in (("val", 5, 11), ("train", 6, 11), ("train", 5, 12))]
    assert all(other.image.tobytes() != first.image.tobytes() for other in others)
    code = (
        "from sceneref import *; import hashlib;"
        "s = generate_scene(SceneRefSettings(width=128, height=128), 'train', 5, 11);"
        "print(hashlib.sha256(s.image.tobytes() + repr(s.phrases).encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12", "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert out.stdout.strip() == hashlib.sha256(first.image.tobytes() + repr(first.phrases).encode()).hexdigest()


def inside(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Return whether points (N, 2) are in a polygon (M, 2), by counting the edges crossed by a ray to the right."""
    crossings = np.zeros(len(points), dtype=int)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        spans = (y0 > points[:, 1]) != (y1 > points[:, 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            crossings += spans & (points[:, 0] < x0 + (points[:, 1] - y0) * (x1 - x0) / (y1 - y0))
    return crossings % 2 == 1


def full_shares(item: SceneObject, shape: tuple[int, int], fine: int = 6) -> np.ndarray:
    """Return the (H, W) share of each pixel in an object's shape, from `fine` x `fine` points per pixel."""
    angle = math.radians(item.rotation)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    outline, hole = (None if part is None else part @ turn for part in unit_polygon(item.shape, item.form))
    middle = (outline.min(axis=0) + outline.max(axis=0)) / 2
    reach = math.ceil(1.5 * item.radius)
    left, top = (max(0, int(value) - reach) for value in item.centre)
    width, height = min(2 * reach + 1, shape[1] - left), min(2 * reach + 1, shape[0] - top)
    ys, xs = np.mgrid[0 : height * fine, 0 : width * fine]
    points = (np.stack([xs, ys], axis=-1).reshape(-1, 2) + 0.5) / fine + np.array([left, top])
    points = (points - np.array(item.centre)) / item.radius + middle
    found = inside(points, outline)
    if hole is not None:
        found &= ~inside(points, hole)
    shares = np.zeros(shape)
    shares[top : top + height, left : left + width] = found.reshape(height, fine, width, fine).mean(axis=(1, 3))
    return shares


def test_masks_agree_with_the_geometry(scenes: list[Scene]) -> None:
    for scene in scenes[:15]:
        shares = np.stack([full_shares(item, scene.image.shape[:2]) for item in scene.objects])
        for index, mask in enumerate(scene.masks):
            above = shares[index + 1 :].max(axis=0, initial=0.0)
            assert mask[(shares[index] > 0.78) & (above < 0.22)].all()
            assert not mask[(shares[index] < 0.22) | (above > 0.78)].any()


def test_image_agrees_with_the_masks() -> None:
    settings = SceneRefSettings(width=160, height=128, difficulty=0.0)  # flat colours on a plain ground
    wrong = total = 0
    for index in range(30):
        scene = generate_scene(settings, "val", 2, index)
        pixels = scene.image.astype(int)
        ground = pixels[~scene.masks.any(axis=0)]
        background = np.array([np.bincount(ground[:, k]).argmax() for k in range(3)])
        for item, mask in zip(scene.objects, scene.masks, strict=True):
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            others = (scene.masks.any(axis=0) & ~mask)[box]
            away = np.abs(pixels[box] - background).sum(axis=-1)
            near = np.abs(pixels[box] - np.array(item.rgb)).sum(axis=-1)
            wrong += int((((near < away) != mask[box]) & ~others).sum())
            total += int(mask.sum())
    assert wrong <= 0.01 * total


def test_objects_are_whole_disjoint_and_visible(scenes: list[Scene]) -> None:
    for scene in scenes:
        height, width = scene.image.shape[:2]
        assert scene.masks.sum(axis=0).max() == 1
        assert 2 <= len(scene.objects) <= 10
        for item, mask in zip(scene.objects, scene.masks, strict=True):
            full = object_coverage(item)
            rows, columns = full.hard.shape
            assert full.x >= 0
            assert full.y >= 0
            assert full.x + columns <= width
            assert full.y + rows <= height
            assert mask.sum() >= MIN_VISIBLE * full.hard.sum()
            assert not mask[: full.y].any()
            low, high = RADII[item.size]
            assert low - 1e-9 <= item.radius / 128 <= high + 1e-9
            if full.hard.sum() == mask.sum():
                ys, xs = np.nonzero(mask)
                assert abs((xs.min() + xs.max() + 1) / 2 - item.centre[0]) <= 1.6
                assert abs((ys.min() + ys.max() + 1) / 2 - item.centre[1]) <= 1.6


def test_colours_of_a_scene_are_distinct(scenes: list[Scene]) -> None:
    least = []
    for scene in scenes:
        colours = {item.colour: item.rgb for item in scene.objects}
        if len(colours) > 1:
            lab = to_lab(np.array(list(colours.values()), dtype=np.float64))
            distances = lab_distances(lab, lab) + 1000 * np.eye(len(lab))
            least.append(distances.min())
    assert np.min(least) > 20
    labs = {name: to_lab(np.array(options, dtype=np.float64)) for name, options in PALETTE.items()}
    assert all(lab_distances(labs[a], labs[b]).min() > 20 for a in COLOURS for b in COLOURS if a != b)


def test_objects_contrast_with_the_background() -> None:
    least = []
    for index in range(150):
        scene = generate_scene(SceneRefSettings(width=64, height=64, difficulty=0.0), "train", 1, index)
        ground = np.median(scene.image[~scene.masks.any(axis=0)], axis=0)
        fills = np.array([item.rgb for item in scene.objects], dtype=np.float64)
        least.append(lab_distances(to_lab(ground[None]), to_lab(fills)).min())
    assert min(least) > 18
    assert np.mean(np.array(least) > 28) > 0.95


def test_shapes_and_colours_repeat(scenes: list[Scene]) -> None:
    repeated = []
    for scene in scenes:
        kinds = min(len({item.shape for item in scene.objects}), len({item.colour for item in scene.objects}))
        repeated.append(kinds < len(scene.objects))
    assert np.mean(repeated) > 0.95


def test_phrase_blind_baselines_are_low(scenes: list[Scene], compositional: list[Scene]) -> None:
    for group in (scenes, compositional):
        scores = blind_guess_scores(group)
        assert 0 < scores["best"] < 25
        assert scores["best"] == max(scores.values())


def test_blind_guess_by_hand() -> None:
    masks = np.zeros((2, 10, 10), dtype=bool)
    masks[0, :2, :5] = True  # 10 pixels
    masks[1, 4:8, 4:9] = True  # 20 pixels, nearest to the centre
    centres = ((2.5, 1.0), (6.5, 6.0))
    items = tuple(SceneObject("bar", "red", "small", "plain", 3.0, c, 0.0, 0, (255, 0, 0)) for c in centres)
    phrases = (ScenePhrase("x", (0,), ("attribute",)), ScenePhrase("y", (0, 1), ("several",)), ScenePhrase("z", (), ()))
    scene = Scene(np.zeros((10, 10, 3), np.uint8), items, masks, phrases)
    assert blind_guess_scores([scene]) == pytest.approx(
        {
            "everything": (10 + 30) / 2,
            "all objects": 100 * (1 / 3 + 1) / 2,
            "largest object": 100 * (0 + 2 / 3) / 2,
            "central object": 100 * (0 + 2 / 3) / 2,
            "best": 100 * (1 / 3 + 1) / 2,
        }
    )
    assert scene.target_mask(phrases[1]).sum() == 30
    assert not scene.target_mask(phrases[2]).any()
    assert blind_guess_scores([])["best"] == 0.0


def test_mix_of_phenomena(scenes: list[Scene]) -> None:
    kinds = Counter(phrase.tags[0] for scene in scenes for phrase in scene.phrases)
    assert kinds.total() >= 0.98 * 4 * len(scenes)
    for name, share in DEFAULT_PHENOMENA.items():
        assert abs(kinds[name] / kinds.total() - share) < 0.04, name
    for scene in scenes:
        assert len({phrase.text.lower() for phrase in scene.phrases}) == len(scene.phrases)


def test_large_objects_are_not_favoured(scenes: list[Scene]) -> None:
    picked = [scene.objects[p.targets[0]].size for scene in scenes for p in scene.phrases if len(p.targets) == 1]
    drawn = [item.size for scene in scenes for item in scene.objects]
    assert abs(picked.count("large") / len(picked) - drawn.count("large") / len(drawn)) < 0.09


def named_values(text: str) -> set[tuple[str, str]]:
    words = [PLURALS.get(word, word) for word in tokenize(text)]
    return {VALUES[w] for word in words for w in (word, word.removesuffix("s")) if w in VALUES}


def test_held_out_pairs(scenes: list[Scene], compositional: list[Scene]) -> None:
    assert sorted(colour for colour, _ in HELD_OUT_PAIRS) == sorted(COLOURS)
    assert sorted(shape for _, shape in HELD_OUT_PAIRS) == sorted(SHAPES)
    for scene in scenes:
        assert not any((item.colour, item.shape) in HELD_OUT_PAIRS for item in scene.objects)
        for phrase in scene.phrases:
            if phrase.tags[1:2] == ("absent",):
                values = named_values(re.split(r" (?:to|above|below|next|under)\b", phrase.text.lower())[0])
                assert not any({("colour", c), ("shape", s)} <= values for c, s in HELD_OUT_PAIRS), phrase
    for scene in compositional:
        assert any((item.colour, item.shape) in HELD_OUT_PAIRS for item in scene.objects)
        for phrase in scene.phrases:
            assert {"colour", "shape"} <= set(phrase.tags)
            assert all((scene.objects[i].colour, scene.objects[i].shape) in HELD_OUT_PAIRS for i in phrase.targets)


def test_stream_shards_without_repeats() -> None:
    settings = SceneRefSettings(width=48, height=48, phrases_per_scene=1, max_objects=3)
    single = [scene.image.tobytes() for scene in SceneRefStream(settings, seed=4, start=3, count=9)]
    assert single == [generate_scene(settings, "train", 4, index).image.tobytes() for index in range(3, 12)]
    stream = SceneRefStream(settings, seed=4, start=3, count=9)
    loader = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=2)
    assert sorted(scene.image.tobytes() for scene in loader) == sorted(single)
    assert next(iter(pickle.loads(pickle.dumps(stream)))).image.tobytes() == single[0]  # for spawned workers
    endless = iter(SceneRefStream(settings, seed=4, start=3))
    assert next(endless).image.tobytes() == single[0]
    with pytest.raises(ValueError, match="start"):
        SceneRefStream(settings, start=-1)


def test_map_style_dataset() -> None:
    settings = SceneRefSettings(width=48, height=48, phrases_per_scene=1)
    dataset = SceneRefDataset(settings, "val", seed=4, count=3)
    assert len(dataset) == 3
    assert dataset[2].image.tobytes() == generate_scene(settings, "val", 4, 2).image.tobytes()
    with pytest.raises(IndexError):
        dataset[3]


def read_json(path: Path):
    return json.loads(path.read_text())


def test_writer_round_trip(tmp_path: Path) -> None:
    settings = SceneRefSettings(width=96, height=80, phrases_per_scene=8)
    seen: list[int] = []
    statistics = write_sceneref(tmp_path, "val", 6, 9, settings, seen.append)
    assert seen == [1, 2, 3, 4, 5, 6]
    folder = tmp_path / "sceneref"
    refs = read_json(folder / "grefs(unc).json")
    coco = COCO(str(folder / "instances.json"))
    images = sorted(coco.imgs.values(), key=lambda row: row["id"])
    assert read_json(folder / "statistics_val.json") == statistics
    assert statistics["refs"] == len(refs) == sum(statistics["phenomena"].values())
    position = 0
    for index, row in enumerate(images):
        scene = generate_scene(settings, "val", 9, index)
        assert row["file_name"] == f"val_9_{index:06d}.png"
        image = np.asarray(Image.open(tmp_path / "images/scenes" / row["file_name"]))
        np.testing.assert_array_equal(image, scene.image)
        for phrase in scene.phrases:
            ref = refs[position]
            position += 1
            assert ref["image_id"] == row["id"]
            assert ref["sentences"][0]["raw"] == phrase.text
            assert ref["sentences"][0]["sent"] == " ".join(ref["sentences"][0]["tokens"])
            assert ref["sent_ids"] == [ref["sentences"][0]["sent_id"]]
            assert ref["tags"] == list(phrase.tags)
            assert ref["split"] == "val"
            assert ref["no_target"] == (not phrase.targets)
            if ref["no_target"]:
                assert ref["ann_id"] == [-1]
                assert ref["category_id"] == [-1]
                continue
            rows = [coco.anns[i] for i in ref["ann_id"]]
            mask = np.any([coco.annToMask(annotation) for annotation in rows], axis=0)
            np.testing.assert_array_equal(mask, scene.target_mask(phrase))
            shapes = {scene.objects[i].shape for i in phrase.targets}
            assert {coco.cats[i]["name"] for i in ref["category_id"]} == shapes
            for annotation, target in zip(rows, phrase.targets, strict=True):
                item = scene.objects[target]
                assert (annotation["color"], annotation["size"], annotation["pattern"]) == (
                    item.colour, item.size, item.pattern,
                )  # fmt: skip
                assert annotation["area"] == scene.masks[target].sum()
    assert position == len(refs)


def test_writer_adds_splits_and_replaces_them(tmp_path: Path) -> None:
    settings = SceneRefSettings(width=48, height=48, phrases_per_scene=2, max_objects=4)
    write_sceneref(tmp_path, "val", 3, 0, settings)
    write_sceneref(tmp_path, "train", 4, 0, settings)
    folder, images_folder = tmp_path / "sceneref", tmp_path / "images/scenes"
    before = {path.name: path.read_bytes() for path in [*folder.iterdir(), *images_folder.iterdir()]}
    refs = read_json(folder / "grefs(unc).json")
    instances = read_json(folder / "instances.json")
    assert {ref["split"] for ref in refs} == {"train", "val"}
    for rows, key in ((refs, "ref_id"), (instances["images"], "id"), (instances["annotations"], "id")):
        assert len({row[key] for row in rows}) == len(rows)
    write_sceneref(tmp_path, "val", 3, 0, settings)
    assert {path.name: path.read_bytes() for path in [*folder.iterdir(), *images_folder.iterdir()]} == before
    write_sceneref(tmp_path, "val", 2, 1, settings)
    assert sorted(path.name for path in images_folder.glob("val*")) == ["val_1_000000.png", "val_1_000001.png"]
    assert len(list(images_folder.glob("train*"))) == 4
    assert [r for r in read_json(folder / "grefs(unc).json") if r["split"] == "train"] == [
        r for r in refs if r["split"] == "train"
    ]


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    """The last one would lose the other's split."""
    settings = SceneRefSettings(width=48, height=48, phrases_per_scene=2, max_objects=4)

    def meanwhile(_done: int) -> None:
        with pytest.raises(DataError, match=r"^Another process is at work in .*sceneref: wait for it"):
            write_sceneref(tmp_path, "train", 1, 0, settings)

    write_sceneref(tmp_path, "val", 1, 0, settings, meanwhile)
    write_sceneref(tmp_path, "train", 1, 0, settings)
    assert {ref["split"] for ref in read_json(tmp_path / "sceneref" / "grefs(unc).json")} == {"train", "val"}


def test_writer_refuses_a_foreign_folder_and_bad_counts(tmp_path: Path) -> None:
    settings = SceneRefSettings(width=48, height=48)
    with pytest.raises(ValueError, match="count"):
        write_sceneref(tmp_path, "val", 0, 0, settings)
    folder = tmp_path / "sceneref"
    folder.mkdir()
    for content in ('{"info": "subset of COCO", "images": [], "annotations": []}', "[]", "{broken"):
        (folder / "instances.json").write_text(content)
        with pytest.raises(ValueError, match=r"SceneRef|JSON"):
            write_sceneref(tmp_path, "val", 1, 0, settings)
        assert (folder / "instances.json").read_text() == content
    (folder / "instances.json").unlink()
    (folder / "grefs(unc).json").write_text("[]")
    with pytest.raises(ValueError, match="SceneRef"):
        write_sceneref(tmp_path, "val", 1, 0, settings)


def test_a_killed_run_leaves_the_old_index(tmp_path: Path) -> None:
    settings = SceneRefSettings(width=48, height=48, phrases_per_scene=1)
    write_sceneref(tmp_path, "val", 2, 0, settings)
    folder = tmp_path / "sceneref"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_sceneref(tmp_path, "train", 5, 0, settings, stop)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
