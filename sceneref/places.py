"""Phrases with positions: absolute ("on the far right"), relative ("left of the star"), ordinal ("third from top")."""

from __future__ import annotations

from sceneref.sampling import pick, weighted
from sceneref.view import MIDDLE_REACH, View, members
from sceneref.words import Region, Wording

DIRECTIONS: tuple[str, ...] = ("left", "right", "top", "bottom")

_BEFORE: dict[str, tuple[str, ...]] = {
    "left": ("leftmost", "leftmost", "left", "left", "far left", "left-most"),
    "right": ("rightmost", "rightmost", "right", "right", "far right", "right-most"),
    "top": ("topmost", "top", "top", "highest", "upper", "uppermost"),
    "bottom": ("bottommost", "bottom", "bottom", "lowest", "lower", "lowermost"),
    "middle": ("middle", "center", "central", "centre"),
}
_SIDE_AFTER: tuple[str, ...] = (
    "on the {}", "on the {}", "on the far {}", "on the far {}", "at the {}", "furthest to the {}", "on the {} side",
    "at the far {}", "farthest to the {}", "that is furthest {}", "to the far {}", "on {}",
)  # fmt: skip
_AFTER: dict[str, tuple[str, ...]] = {
    "left": tuple(form.format("left") for form in _SIDE_AFTER),
    "right": tuple(form.format("right") for form in _SIDE_AFTER),
    "top": ("at the top", "at the top", "at the very top", "nearest the top", "closest to the top", "highest up",
            "on the top"),
    "bottom": ("at the bottom", "at the bottom", "at the very bottom", "nearest the bottom", "closest to the bottom",
               "lowest down", "on the bottom"),
    "middle": ("in the middle", "in the middle", "in the center", "in the centre", "at the center",
               "closest to the center", "nearest the middle", "in the very middle"),
}  # fmt: skip
_CORNER_AFTER: tuple[str, ...] = (
    "in the {}", "in the {} corner", "at the {}", "on the {}", "closest to the {} corner", "in the {} corner",
)  # fmt: skip
_VERTICAL = {"top": ("top", "top", "upper"), "bottom": ("bottom", "bottom", "lower")}

_RELATIONS: dict[str, tuple[str, ...]] = {
    "left": ("to the left of", "to the left of", "left of", "on the left of", "on the left side of"),
    "right": ("to the right of", "to the right of", "right of", "on the right of", "on the right side of"),
    "top": ("above", "above", "above", "higher than"),
    "bottom": ("below", "below", "under", "beneath", "underneath", "lower than"),
    "next": ("next to", "next to", "beside", "near"),
    "closest": ("closest to", "nearest to", "nearest", "that is closest to"),
    "farthest": ("farthest from", "furthest from", "furthest away from"),
}
_ORDINALS = (("first", "1st"), ("second", "2nd"), ("third", "3rd"), ("fourth", "4th"), ("fifth", "5th"))


def _corner_target(view: View, bits: int, vertical: str, horizontal: str) -> int | None:
    """Return the member nearest to a corner, or None.

    It must be nearest by Euclidean and by x + y distance, each with the margin, and lie in that quarter of the image.
    """
    across, down = view.towards(horizontal), view.towards(vertical)
    x = 0.0 if horizontal == "left" else -float(view.width)
    y = 0.0 if vertical == "top" else -float(view.height)
    near = view.extreme(bits, lambda i: ((across(i) - x) ** 2 + (down(i) - y) ** 2) ** 0.5, view.margin)
    if near is None or near != view.extreme(bits, lambda i: across(i) + down(i), view.margin):
        return None
    inside = across(near) - x <= view.width / 2 - view.margin and down(near) - y <= view.height / 2 - view.margin
    return near if inside else None


def absolute_target(view: View, bits: int, where: str) -> int | None:
    """Return the only member of a set that a position matches with the margin; None if there is none.

    Args:
        view: the scene.
        bits: set of objects, as a bit mask.
        where: a direction, "middle", or a corner such as "top left".
    """
    if where == "middle":
        target = view.extreme(bits, view.from_centre, view.margin)
        if target is None or view.from_centre(target) > MIDDLE_REACH * view.side:
            return None
        return target
    if " " in where:
        vertical, horizontal = where.split(" ")
        return _corner_target(view, bits, vertical, horizontal)
    return view.extreme(bits, view.towards(where), view.margin)


def draw_position(view: View) -> str:
    """Draw a direction, "middle", or a corner."""
    kind = weighted(view.rng, ("side", "middle", "corner"), (0.72, 0.1, 0.18))
    if kind == "side":
        return pick(view.rng, DIRECTIONS)
    if kind == "middle":
        return "middle"
    return f"{pick(view.rng, ('top', 'bottom'))} {pick(view.rng, ('left', 'right'))}"


def position_words(words: Wording, where: str) -> tuple[str, str]:
    """Return words for a position: before the adjectives and after the noun; one of the two is empty."""
    if " " in where:
        vertical, horizontal = where.split(" ")
        corner = f"{words.pick(_VERTICAL[vertical])}{words.pick((' ', ' ', '-'))}{horizontal}"
        if words.chance(0.35):
            return corner, ""
        return "", words.pick(_CORNER_AFTER).format(corner)
    if words.chance(0.5):
        return words.pick(_BEFORE[where]), ""
    after = words.pick(_AFTER[where])
    if after.startswith(("in the", "on the", "at the")) and words.chance(0.1):
        after += words.pick((" of the picture", " of the image"))
    elif not after.startswith("that") and words.chance(0.1):
        after = f"that is {after}"
    return "", after


def build_absolute(view: View, words: Wording) -> tuple[str, int] | None:
    """Build a phrase such as "the leftmost star", "object on the far right", "the square in the top left corner"."""
    where = draw_position(view)
    return view.retry(lambda: _absolute(view, words, where), 8)


def _absolute(view: View, words: Wording, where: str) -> tuple[str, int] | None:
    description = view.any_description(view.random_focus())
    bits = view.matching(description)
    target = absolute_target(view, bits, where)
    if target is None:
        return None
    if bits.bit_count() == 1:  # a unique X must actually be at the position
        if not view.chance(0.3):
            return None
        centre = view.width / 2 if where in ("left", "right") else view.height / 2
        if where in DIRECTIONS:
            key = view.towards(where)(target)
            offset = key - centre if where in ("left", "top") else key + centre
            if offset > -2 * view.margin:
                return None
    words.add_tags("corner" if " " in where else where)
    words.region = _region_of(view, bits, where)
    before, after = position_words(words, where)
    text = words.singular(description, before=before, clauses=0.0 if after else 0.06)
    return f"{text} {after}".strip(), 1 << target


def _region_of(view: View, bits: int, where: str) -> Region | None:
    """Return the region in which `absolute_target` lies; None for a set of one object."""
    if bits.bit_count() == 1:
        return None
    if where in DIRECTIONS:
        return view.region_in_order(where, bits, 0, 0)
    if where == "middle":
        return view.region_around(view.width / 2, view.height / 2, bits)
    vertical, horizontal = where.split(" ")
    x, y = 0.0 if horizontal == "left" else view.width, 0.0 if vertical == "top" else view.height
    return view.region_around(x, y, bits)


def build_relative(view: View, words: Wording) -> tuple[str, int] | None:
    """Build a phrase such as "the circle to the left of the red star" or "the heart next to the ring"."""
    description = view.any_description(view.random_focus())
    found = view.landmark()
    if found is None:
        return None
    landmark, landmark_description = found
    bits = view.matching(description) & ~(1 << landmark)
    if not bits:
        return None
    relation = weighted(view.rng, tuple(_RELATIONS), (0.19, 0.19, 0.19, 0.19, 0.12, 0.08, 0.04))
    target = relative_target(view, bits, landmark, relation)
    if target is None:
        return None
    words.add_tags("near" if relation in ("next", "closest") else relation)
    if relation in DIRECTIONS:
        words.region = view.region_beside(relation, landmark)
    else:
        words.region = view.region_around(view.x[landmark], view.y[landmark], bits, relation == "farthest", view.margin)
    return (
        f"{words.singular(description)} {relation_words(words, relation)} {words.singular(landmark_description)}",
        1 << target,
    )


def relation_words(words: Wording, relation: str) -> str:
    """Return words for a relation, such as "to the left of" or "that is above"."""
    link = words.pick(_RELATIONS[relation])
    return link if link.startswith("that") or words.chance(0.85) else f"{words.pick(('that is', 'which is'))} {link}"


def relative_target(view: View, bits: int, landmark: int, relation: str) -> int | None:
    """Return the only member of a set with a relation to a landmark, with the margin; None if there is none."""
    if relation in DIRECTIONS:
        targets = [i for i in members(bits) if view.holds(relation, i, landmark)]
        if len(targets) != 1 or any(not view.fails(relation, i, landmark) for i in members(bits) if i != targets[0]):
            return None
        return targets[0]
    if relation == "farthest":
        return view.extreme(bits, lambda i: -view.distance(i, landmark), view.margin) if bits.bit_count() > 1 else None
    margin = 1.6 * view.margin if relation == "next" else view.margin
    target = view.extreme(bits, lambda i: view.distance(i, landmark), margin)
    if target is None:
        return None
    if relation == "closest":
        return target if bits.bit_count() > 1 else None
    gap = view.distance(target, landmark) - view.radius[target] - view.radius[landmark]
    return target if gap <= 0.2 * view.side else None


def build_ordinal(view: View, words: Wording) -> tuple[str, int] | None:
    """Build a phrase such as "the second star from the left" or "3rd object from the top"."""
    description = view.any_description(view.random_focus())
    bits = view.matching(description)
    count = bits.bit_count()
    if count < 2 or (count == 2 and view.chance(0.8)):
        return None
    direction = pick(view.rng, DIRECTIONS)
    key = view.towards(direction)
    ranked = sorted(members(bits), key=key)
    position = 0 if view.chance(0.06) else 1 + int(view.rng.random() * (min(count, len(_ORDINALS)) - 1))
    keys = [key(i) for i in ranked]
    for earlier, later in ((position - 1, position), (position, position + 1)):
        if earlier >= 0 and later < count and keys[later] - keys[earlier] < view.margin:
            return None
    words.add_tags(direction)
    words.region = view.region_in_order(direction, bits, position, position)
    ordinal = _ORDINALS[position][1 if words.chance(0.15) else 0]
    side = f"from {'' if words.no_articles and words.chance(0.5) else 'the '}{direction}"
    if words.chance(0.1):
        return f"{words.singular(description)} that is {ordinal} {side}", 1 << ranked[position]
    return f"{words.singular(description, before=ordinal)} {side}", 1 << ranked[position]
