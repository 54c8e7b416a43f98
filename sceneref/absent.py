"""No-target phrases: an absent object, usually of a colour and a shape that the scene contains, or a false relation."""

from __future__ import annotations

from dataclasses import replace

from sceneref.colours import COLOURS, CONFUSABLE
from sceneref.objects import PATTERNS, SHAPES, SIZES
from sceneref.places import DIRECTIONS, draw_position, position_words, relation_words
from sceneref.sampling import pick, weighted
from sceneref.settings import HELD_OUT_PAIRS
from sceneref.view import View, members
from sceneref.words import Description, Wording

_SIMILAR: frozenset[frozenset[str]] = CONFUSABLE | frozenset(
    frozenset(pair)
    for pair in (("square", "diamond"), ("circle", "hexagon"), ("circle", "ring"), ("bar", "square"), ("cross", "star"))
)


def build_no_target(view: View, words: Wording) -> str | None:
    """Return a phrase that matches no object, or None if this draw produced none."""
    if view.chance(0.27):
        return view.retry(lambda: _false_relation(view, words), 16)
    description = view.retry(lambda: _absent_description(view), 12)
    if description is None:
        return None
    words.add_tags("absent")
    return _phrase_absent(view, words, description)


def _is_distinct(name: str, present: list[str]) -> bool:
    """Return whether no value in the scene could be called by this name."""
    return not any(frozenset((name, other)) in _SIMILAR for other in present)


def _absent_description(view: View) -> Description | None:
    """Return a description that matches no object; it names a held-out pair in `compositional` and only there."""
    description = _draw_description(view)
    if description is None or view.matching(description):
        return None
    is_held_out = (description.colour, description.shape) in HELD_OUT_PAIRS
    return description if is_held_out == view.compositional else None


def _draw_description(view: View) -> Description | None:
    """Draw a description, which may or may not match an object."""
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
        description = Description(colour=pick(view.rng, colours), shape=pick(view.rng, shapes))
        return replace(description, size=pick(view.rng, SIZES)) if view.chance(0.12) else description
    if kind == "new":
        return _draw_absent_attributes(view, colours, shapes)
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


def _draw_absent_attributes(view: View, colours: list[str], shapes: list[str]) -> Description | None:
    """Draw a description with a shape or a colour that no object of the scene has."""
    new_colours = [name for name in COLOURS if name not in colours and _is_distinct(name, colours)]
    new_shapes = [name for name in SHAPES if name not in shapes and _is_distinct(name, shapes)]
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


def _phrase_absent(view: View, words: Wording, description: Description) -> str:
    """Return a phrase with the wording of another phenomenon, so that the wording does not reveal the absence."""
    form = weighted(
        view.rng, ("one", "many", "place", "relation", "compare", "order"), (0.56, 0.13, 0.13, 0.1, 0.04, 0.04)
    )
    if form == "many":
        return words.plural_phrase(description, 2)
    if form == "place":
        before, after = position_words(words, draw_position(view))
        return f"{words.singular(description, before=before)} {after}".strip()
    if form == "relation":
        found = view.landmark()
        if found is not None:
            relation = pick(view.rng, (*DIRECTIONS, "next", "closest"))
            link = relation_words(words, relation)
            words.region = view.region_beside(relation, found[0]) if relation in DIRECTIONS else None
            return f"{words.singular(description)} {link} {words.singular(found[1])}"
    if form == "compare" and description.size is None:
        return words.singular(description, before=words.pick(("biggest", "largest", "smallest", "bigger", "smaller")))
    if form == "order":
        ordinal = words.pick(("second", "second", "third"))
        return f"{words.singular(description, before=ordinal)} from the {pick(view.rng, DIRECTIONS)}"
    return words.singular(description, clauses=0.12, indefinite=0.05)


def _false_relation(view: View, words: Wording) -> str | None:
    """Return a phrase such as "the star left of the circle" where every star is right of it by at least the margin."""
    description = view.any_description(view.random_focus())
    found = view.landmark()
    if found is None:
        return None
    landmark, landmark_description = found
    group = members(view.matching(description) & ~(1 << landmark))
    direction = pick(view.rng, DIRECTIONS)
    if not group or not all(view.fails(direction, index, landmark) for index in group):
        return None
    words.add_tags("false-relation", direction)
    words.region = view.region_beside(direction, landmark)
    if view.chance(0.12):
        lead = words.pick(("all", "all the", "every"))
        noun_phrase = words.noun_phrase(description, plural=lead != "every")
        link = relation_words(words, direction).removeprefix("that is ").removeprefix("which is ")
        return f"{lead} {noun_phrase} {link} {words.singular(landmark_description)}"
    return f"{words.singular(description)} {relation_words(words, direction)} {words.singular(landmark_description)}"
