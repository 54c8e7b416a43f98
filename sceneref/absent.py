"""Phrases that fit nothing: an absent object, mostly one whose colour and shape are in sight, or a false relation."""

from __future__ import annotations

from dataclasses import replace

from sceneref.colours import COLOURS, CONFUSABLE
from sceneref.objects import PATTERNS, SHAPES, SIZES
from sceneref.places import DIRECTIONS, draw_place, place_words, relation_words
from sceneref.sampling import pick, weighted
from sceneref.settings import HELD_OUT_PAIRS
from sceneref.view import View, members
from sceneref.words import Description, Wording

_ALIKE: frozenset[frozenset[str]] = CONFUSABLE | frozenset(
    frozenset(pair)
    for pair in (("square", "diamond"), ("circle", "hexagon"), ("circle", "ring"), ("bar", "square"), ("cross", "star"))
)


def build_no_target(view: View, words: Wording) -> str | None:
    """A phrase without a target, or None when this draw found none."""
    if view.chance(0.27):
        return view.persist(lambda: _false_relation(view, words), 16)
    what = view.persist(lambda: _absent_description(view), 12)
    if what is None:
        return None
    words.note("absent")
    return _say_absent(view, words, what)


def _clear(name: str, present: list[str]) -> bool:
    """No value in sight that people may call by this name."""
    return not any(frozenset((name, other)) in _ALIKE for other in present)


def _absent_description(view: View) -> Description | None:
    """A description that fits nothing; it names a held-out pair in `compositional` and only there."""
    what = _draw_description(view)
    if what is None or view.matching(what) or ((what.colour, what.shape) in HELD_OUT_PAIRS) != view.compositional:
        return None
    return what


def _draw_description(view: View) -> Description | None:
    """A description that may fit nothing."""
    colours = sorted({item.colour for item in view.objects})
    shapes = sorted({item.shape for item in view.objects})
    kind = weighted(view.rng, ("pair", "size", "pattern", "new"), (0.55, 0.16, 0.07, 0.22))
    if view.compositional and kind in ("pair", "new"):
        absent = [p for p in sorted(HELD_OUT_PAIRS) if not view.matching(Description(colour=p[0], shape=p[1]))]
        near = [p for p in absent if p[0] in colours and p[1] in shapes]
        half = [p for p in absent if p[0] in colours or p[1] in shapes]
        colour, shape = pick(view.rng, near if near and view.chance(0.7) else half or absent)
        return Description(colour=colour, shape=shape)
    if kind == "pair":
        what = Description(colour=pick(view.rng, colours), shape=pick(view.rng, shapes))
        return replace(what, size=pick(view.rng, SIZES)) if view.chance(0.12) else what
    if kind == "new":
        return _unseen(view, colours, shapes)
    item = view.objects[view.random_focus()]
    named = {"shape": item.shape, "colour": item.colour}
    if not view.compositional:
        draw = view.rng.random()
        if draw < 0.35:
            named.pop("colour")
        elif draw < 0.5:
            named.pop("shape")
    if kind == "size":
        return Description(size="large" if item.size == "small" else "small", **named)
    return Description(pattern=pick(view.rng, PATTERNS[1:]), **named) if view.patterned else None


def _unseen(view: View, colours: list[str], shapes: list[str]) -> Description | None:
    """A shape or a colour that the picture does not have at all."""
    new_colours = [name for name in COLOURS if name not in colours and _clear(name, colours)]
    new_shapes = [name for name in SHAPES if name not in shapes and _clear(name, shapes)]
    draw = view.rng.random()
    if draw < 0.25 and new_shapes:
        return Description(shape=pick(view.rng, new_shapes))
    if draw < 0.4 and new_colours:
        return Description(colour=pick(view.rng, new_colours))
    if draw < 0.7 and new_shapes:
        return Description(colour=pick(view.rng, colours), shape=pick(view.rng, new_shapes))
    if draw < 0.95 and new_colours:
        return Description(colour=pick(view.rng, new_colours), shape=pick(view.rng, shapes))
    if new_colours and new_shapes:
        return Description(colour=pick(view.rng, new_colours), shape=pick(view.rng, new_shapes))
    return None


def _say_absent(view: View, words: Wording, what: Description) -> str:
    """The wordings that other phenomena use, so that no form of words gives the absence away."""
    form = weighted(
        view.rng, ("one", "many", "place", "relation", "compare", "order"), (0.56, 0.13, 0.13, 0.1, 0.04, 0.04)
    )
    if form == "many":
        return words.many(what, 2)
    if form == "place":
        before, after = place_words(words, draw_place(view))
        return f"{words.one(what, before=before)} {after}".strip()
    if form == "relation":
        found = view.landmark()
        if found is not None:
            relation = pick(view.rng, (*DIRECTIONS, "next", "closest"))
            link = relation_words(words, relation)
            words.place = view.place_beside(relation, found[0]) if relation in DIRECTIONS else None
            return f"{words.one(what)} {link} {words.one(found[1])}"
    if form == "compare" and what.size is None:
        return words.one(what, before=words.pick(("biggest", "largest", "smallest", "bigger", "smaller")))
    if form == "order":
        ordinal = words.pick(("second", "second", "third"))
        return f"{words.one(what, before=ordinal)} from the {pick(view.rng, DIRECTIONS)}"
    return words.one(what, clauses=0.12, indefinite=0.05)


def _false_relation(view: View, words: Wording) -> str | None:
    """ "the star left of the circle" where every star lies right of it, past the margin."""
    what = view.any_description(view.random_focus())
    found = view.landmark()
    if found is None:
        return None
    mark, mark_what = found
    group = members(view.matching(what) & ~(1 << mark))
    direction = pick(view.rng, DIRECTIONS)
    if not group or not all(view.fails(direction, index, mark) for index in group):
        return None
    words.note("false-relation", direction)
    words.place = view.place_beside(direction, mark)
    if view.chance(0.12):
        lead = words.pick(("all", "all the", "every"))
        core = words.core(what, plural=lead != "every")
        link = relation_words(words, direction).removeprefix("that is ").removeprefix("which is ")
        return f"{lead} {core} {link} {words.one(mark_what)}"
    return f"{words.one(what)} {relation_words(words, direction)} {words.one(mark_what)}"
