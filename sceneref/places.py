"""Phrases about places: absolute ("on the far right"), relative ("left of the star"), ordinal ("third from top")."""

from __future__ import annotations

from sceneref.sampling import pick, weighted
from sceneref.view import MIDDLE_REACH, View, members
from sceneref.words import Place, Wording

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
    """The X nearest to a corner, also least by x + y towards it, and inside that quarter; both with a margin."""
    across, down = view.towards(horizontal), view.towards(vertical)
    x = 0.0 if horizontal == "left" else -float(view.width)
    y = 0.0 if vertical == "top" else -float(view.height)
    near = view.extreme(bits, lambda i: ((across(i) - x) ** 2 + (down(i) - y) ** 2) ** 0.5, view.margin)
    if near is None or near != view.extreme(bits, lambda i: across(i) + down(i), view.margin):
        return None
    inside = across(near) - x <= view.width / 2 - view.margin and down(near) - y <= view.height / 2 - view.margin
    return near if inside else None


def absolute_target(view: View, bits: int, where: str) -> int | None:
    """The one of a set of objects that a place singles out with a margin; None when there is none.

    Args:
        view: the scene.
        bits: the X.
        where: a direction, "middle", or a corner as "top left".
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


def draw_place(view: View) -> str:
    """A direction, "middle", or a corner."""
    kind = weighted(view.rng, ("side", "middle", "corner"), (0.72, 0.1, 0.18))
    if kind == "side":
        return pick(view.rng, DIRECTIONS)
    if kind == "middle":
        return "middle"
    return f"{pick(view.rng, ('top', 'bottom'))} {pick(view.rng, ('left', 'right'))}"


def place_words(words: Wording, where: str) -> tuple[str, str]:
    """Words for a place: one to go before the adjectives or one to go after the noun; the other is empty."""
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
    """ "the leftmost star", "red object on the far right", "the square in the top left corner"."""
    where = draw_place(view)
    return view.persist(lambda: _absolute(view, words, where), 8)


def _absolute(view: View, words: Wording, where: str) -> tuple[str, int] | None:
    what = view.any_description(view.random_focus())
    bits = view.matching(what)
    target = absolute_target(view, bits, where)
    if target is None:
        return None
    if bits.bit_count() == 1:  # the place is said of the only X: it must be true by itself
        if not view.chance(0.3):
            return None
        centre = view.width / 2 if where in ("left", "right") else view.height / 2
        if where in DIRECTIONS:
            key = view.towards(where)(target)
            offset = key - centre if where in ("left", "top") else key + centre
            if offset > -2 * view.margin:
                return None
    words.note("corner" if " " in where else where)
    words.place = _place_of(view, bits, where)
    before, after = place_words(words, where)
    text = words.one(what, before=before, clauses=0.0 if after else 0.06)
    return f"{text} {after}".strip(), 1 << target


def _place_of(view: View, bits: int, where: str) -> Place | None:
    """Where the one of a set is that `absolute_target` finds; None for a set of one."""
    if bits.bit_count() == 1:
        return None
    if where in DIRECTIONS:
        return view.place_in_order(where, bits, 0, 0)
    if where == "middle":
        return view.place_around(view.width / 2, view.height / 2, bits)
    vertical, horizontal = where.split(" ")
    x, y = 0.0 if horizontal == "left" else view.width, 0.0 if vertical == "top" else view.height
    return view.place_around(x, y, bits)


def build_relative(view: View, words: Wording) -> tuple[str, int] | None:
    """ "the circle to the left of the red star", "star above the square", "the heart next to the ring"."""
    what = view.any_description(view.random_focus())
    found = view.landmark()
    if found is None:
        return None
    mark, mark_what = found
    bits = view.matching(what) & ~(1 << mark)
    if not bits:
        return None
    relation = weighted(view.rng, tuple(_RELATIONS), (0.19, 0.19, 0.19, 0.19, 0.12, 0.08, 0.04))
    target = relative_target(view, bits, mark, relation)
    if target is None:
        return None
    words.note("near" if relation in ("next", "closest") else relation)
    if relation in DIRECTIONS:
        words.place = view.place_beside(relation, mark)
    else:
        words.place = view.place_around(view.x[mark], view.y[mark], bits, relation == "farthest", view.margin)
    return f"{words.one(what)} {relation_words(words, relation)} {words.one(mark_what)}", 1 << target


def relation_words(words: Wording, relation: str) -> str:
    """ "to the left of", "that is above" ..."""
    link = words.pick(_RELATIONS[relation])
    return link if link.startswith("that") or words.chance(0.85) else f"{words.pick(('that is', 'which is'))} {link}"


def relative_target(view: View, bits: int, mark: int, relation: str) -> int | None:
    """The only one of a set that stands in a relation to a landmark, with a margin; None when there is none."""
    if relation in DIRECTIONS:
        targets = [i for i in members(bits) if view.holds(relation, i, mark)]
        if len(targets) != 1 or any(not view.fails(relation, i, mark) for i in members(bits) if i != targets[0]):
            return None
        return targets[0]
    if relation == "farthest":
        return view.extreme(bits, lambda i: -view.distance(i, mark), view.margin) if bits.bit_count() > 1 else None
    margin = 1.6 * view.margin if relation == "next" else view.margin
    target = view.extreme(bits, lambda i: view.distance(i, mark), margin)
    if target is None:
        return None
    if relation == "closest":
        return target if bits.bit_count() > 1 else None
    gap = view.distance(target, mark) - view.radius[target] - view.radius[mark]
    return target if gap <= 0.2 * view.side else None


def build_ordinal(view: View, words: Wording) -> tuple[str, int] | None:
    """ "the second star from the left", "3rd object from the top"."""
    what = view.any_description(view.random_focus())
    bits = view.matching(what)
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
    words.note(direction)
    words.place = view.place_in_order(direction, bits, position, position)
    ordinal = _ORDINALS[position][1 if words.chance(0.15) else 0]
    side = f"from {'' if words.bare and words.chance(0.5) else 'the '}{direction}"
    if words.chance(0.1):
        return f"{words.one(what)} that is {ordinal} {side}", 1 << ranked[position]
    return f"{words.one(what, before=ordinal)} {side}", 1 << ranked[position]
