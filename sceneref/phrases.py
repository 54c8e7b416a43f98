"""Phrases about a scene: for each phenomenon a builder that returns text and targets, or None when it found nothing.

Meanings, with X a description and all margins at least 5 % of the shorter side:

- attribute: the only X.
- absolute: the X furthest in a direction; "in the middle": the X nearest to the picture's centre; corners: the X
  nearest to that corner, which also has the least x + y towards it and lies in that quarter.
- relative: the only X on that side of the landmark, all others on the other side; "next to": the nearest X.
- comparison: the biggest or smallest X, or the only X bigger or smaller than a landmark (ratio 1.25 or more).
- ordinal: the k-th X counted from a side.
- negation: the X without a value that another X has.
- several: all X; "X and Y"; all X on a side of a landmark.
- no-target: X that is absent, or a relation that holds for no X.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from sceneref.absent import build_no_target
from sceneref.places import build_absolute, build_ordinal, build_relative
from sceneref.sampling import pick, sample, weighted
from sceneref.settings import DEFAULT_PHENOMENA
from sceneref.view import View, members
from sceneref.words import Description, Place, Wording, count_word


@dataclass(frozen=True)
class ScenePhrase:
    """A phrase and what it means.

    Attributes:
        text: the phrase.
        targets: indices into the scene's objects, rising; empty when the phrase fits nothing.
        tags: the phenomenon (a key of `DEFAULT_PHENOMENA`), then what the wording uses: "size", "colour", "shape",
            "pattern", "generic", "synonym", "conjunction", "absent", "false-relation" ...
        mentions: for each description in the phrase, in the order they are said, the objects that it fits by itself,
            rising: of "the star left of the red ring" all stars, then the ring. A description of what is absent fits
            none; what only "not", "except" or a place says is no description.
        place: where the phrase says beside its descriptions that its target is: of "the star left of the red ring" all
            that is left of the ring; None where it does not say so.
        spared: all objects, rising, that what the phrase negates leaves: of "the star that is not red" all objects that
            are not; None without negation.
    """

    text: str
    targets: tuple[int, ...]
    tags: tuple[str, ...]
    mentions: tuple[tuple[int, ...], ...] = ()
    place: Place | None = None
    spared: tuple[int, ...] | None = None


Draft = tuple[str, int]
Builder = Callable[[View, Wording], Draft | None]

_NEGATED = ("colour", "colour", "colour", "size", "pattern", "shape")


def build_attribute(view: View, words: Wording) -> Draft | None:
    """ "the red star", "large striped circle", "the one that is blue": the description fits one object."""
    index = view.random_focus()
    what = view.unique_description(index)
    if what is None:
        return None
    return words.one(what, clauses=0.12, indefinite=0.05), 1 << index


def build_comparison(view: View, words: Wording) -> Draft | None:
    """ "the biggest star", "the smaller of the two circles", "the star bigger than the red square"."""
    index = view.random_focus()
    what = view.any_description(index, without=("size",))
    bits = view.matching(what)
    big = view.chance(0.5)
    if view.chance(0.25):
        return _compare_with_landmark(view, words, what, bits, big)
    group = members(bits)
    if len(group) < 2:
        return None
    target = max(group, key=lambda i: view.radius[i] if big else -view.radius[i])
    for other in group:
        if other != target and not (view.clearly_bigger(target, other) if big else view.clearly_bigger(other, target)):
            return None
    if len(group) == 2 and view.chance(0.4):
        word = words.pick(("bigger", "larger") if big else ("smaller", "smaller", "littler"))
        if view.chance(0.5):
            words.ones = False
            return f"the {word} of the two {words.core(what, plural=True)}", 1 << target
        return words.one(what, before=word), 1 << target
    word = words.pick(("biggest", "largest", "biggest", "largest") if big else ("smallest", "smallest", "tiniest"))
    if view.chance(0.12):
        return f"{words.one(what)} that is {word}", 1 << target
    if view.chance(0.08):
        words.ones = False
        return f"the {word} of the {words.core(what, plural=True)}", 1 << target
    return words.one(what, before=word), 1 << target


def _compare_with_landmark(view: View, words: Wording, what: Description, bits: int, big: bool) -> Draft | None:
    found = view.landmark()
    if found is None:
        return None
    mark, mark_what = found
    hits = 0
    for index in members(bits & ~(1 << mark)):
        if view.clearly_bigger(index, mark) if big else view.clearly_bigger(mark, index):
            hits |= 1 << index
        elif not (view.clearly_bigger(mark, index) if big else view.clearly_bigger(index, mark)):
            return None
    if hits.bit_count() != 1:
        return None
    link = words.pick(("that is ", "which is ", ""))
    word = words.pick(("bigger than", "larger than") if big else ("smaller than",))
    return f"{words.one(what)} {link}{word} {words.one(mark_what)}", hits


def build_negation(view: View, words: Wording) -> Draft | None:
    """ "the star that is not red", "the non-red circle", "all objects that are not blue", "every circle except ..."."""
    index = view.random_focus()
    if view.chance(0.2):
        return _all_except(view, words, index)
    name = pick(view.rng, ("size", "pattern") if view.compositional else _NEGATED)
    what = view.any_description(index, without=(name,))
    bits = view.matching(what)
    other = pick(view.rng, members(bits))
    value = getattr(view.objects[other], name)
    if value == getattr(view.objects[index], name) or value == "plain":
        return None
    targets = bits & ~view.set_of(name, value)
    words.note(name)
    words.spared = view.everything & ~view.set_of(name, value)
    if targets.bit_count() == 1:
        return _not(words, what, name, value, plural=False), targets
    if view.chance(0.4):
        lead = words.pick(("every ", "every ", "each "))
        return lead + _not(words, what, name, value, plural=False, bare=True), targets
    lead = words.pick(("all ", "all ", "all the ", "the ", ""))
    return lead + _not(words, what, name, value, plural=True, bare=True), targets


def _not(words: Wording, what: Description, name: str, value: str, plural: bool, bare: bool = False) -> str:
    """X without a value, singular or plural, with "the" unless `bare`."""
    verb = "are" if plural else "is"
    if name != "shape" and words.chance(0.22):
        core = words.core(what, plural, before=f"non-{words.adjective(value)}")
    else:
        core = words.core(what, plural)
        if name == "shape":
            noun = words.noun(value, plural)
            said = noun if plural else f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
        else:
            said = words.adjective(value)
        link = words.pick(("that {} not", "that {} not", "which {} not", "that {}n't")).format(verb)
        core += f" {link} {said}"
    return core if bare else words.the(core)


def _all_except(view: View, words: Wording, index: int) -> Draft | None:
    """ "all stars except the red one": X without those of one further value."""
    name = pick(view.rng, ("size", "pattern") if view.compositional else ("colour", "colour", "size", "pattern"))
    what = view.any_description(index, without=(name,))
    bits = view.matching(what)
    value = getattr(view.objects[pick(view.rng, members(bits))], name)
    excluded = bits & view.set_of(name, value)
    targets = bits & ~excluded
    if value == "plain" or targets.bit_count() < 2 or not excluded:
        return None
    words.note(name)
    words.spared = view.everything & ~excluded
    lead = words.pick(("every", "all", "all the", "all of the"))
    core = words.core(what, plural=lead != "every")
    ones = "one" if excluded.bit_count() == 1 else "ones"
    link = words.pick(("except", "except", "but", "except for"))
    return f"{lead} {core} {link} the {words.adjective(value)} {ones}", targets


def build_several(view: View, words: Wording) -> Draft | None:
    """ "all red stars", "both rings", "the star and the ring", "all stars left of the square", "the two leftmost"."""
    form = weighted(view.rng, ("group", "and", "side", "outer"), (0.52, 0.28, 0.12, 0.08))
    if form == "and":
        return view.persist(lambda: _conjunction(view, words), 4)
    return view.persist(lambda: _several_alike(view, words, form), 8)


def _several_alike(view: View, words: Wording, form: str) -> Draft | None:
    """ "all red stars" (form "group"), "all stars left of the square" ("side"), "the two leftmost stars" ("outer")."""
    index = view.random_focus()
    what = view.any_description(index)
    bits = view.matching(what)
    if form == "group":
        if bits.bit_count() < 2 or (not what.named and not view.chance(0.15)):
            return None
        return words.many(what, bits.bit_count()), bits
    if form == "side":
        return _all_beside(view, words, what, bits)
    direction = pick(view.rng, ("left", "right", "top", "bottom"))
    key = view.towards(direction)
    ranked = sorted(members(bits), key=key)
    if len(ranked) < 3 or key(ranked[2]) - key(ranked[1]) < view.margin:
        return None
    words.note("position")
    words.place = view.place_in_order(direction, bits, 0, 1)
    targets = 1 << ranked[0] | 1 << ranked[1]
    if view.chance(0.5):
        core = words.core(what, plural=True, before=f"{count_word(2)} {_OUTER[direction][0]}")
        return words.the(core), targets
    return words.the(words.core(what, plural=True, before="two")) + f" {_OUTER[direction][1]}", targets


_OUTER = {
    "left": ("leftmost", "on the far left"),
    "right": ("rightmost", "on the far right"),
    "top": ("topmost", "at the very top"),
    "bottom": ("bottommost", "at the very bottom"),
}


def _conjunction(view: View, words: Wording) -> Draft | None:
    count = 3 if view.chance(0.12) else 2
    targets = sample(view.rng, view.focus, count)
    named = [what for what in map(view.unique_description, targets) if what is not None]
    if len(named) < max(2, len(targets)):
        return None
    bits = sum(1 << target for target in targets)
    parts = [words.one(what, indefinite=0.03) for what in named]
    words.note("conjunction")
    text = ", ".join(parts[:-1]) + f" and {parts[-1]}"
    return f"both {text}" if len(parts) == 2 and view.chance(0.08) else text, bits


_SIDE_WORDS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "top": ("above",),
    "bottom": ("below", "under"),
}


def _all_beside(view: View, words: Wording, what: Description, bits: int) -> Draft | None:
    found = view.landmark()
    if found is None:
        return None
    mark, mark_what = found
    direction = pick(view.rng, ("left", "right", "top", "bottom"))
    targets = 0
    for index in members(bits & ~(1 << mark)):
        if view.holds(direction, index, mark):
            targets |= 1 << index
        elif not view.fails(direction, index, mark):
            return None
    if targets.bit_count() < 2:
        return None
    words.note("position")
    words.place = view.place_beside(direction, mark)
    lead = words.pick(("all ", "all the ", "every ", "every ", "the "))
    core = words.core(what, plural=lead != "every ")
    return f"{lead}{core} {words.pick(_SIDE_WORDS[direction])} {words.one(mark_what)}", targets


def _no_target(view: View, words: Wording) -> Draft | None:
    text = build_no_target(view, words)
    return None if text is None else (text, 0)


BUILDERS: dict[str, Builder] = {
    "attribute": build_attribute,
    "absolute": build_absolute,
    "relative": build_relative,
    "comparison": build_comparison,
    "ordinal": build_ordinal,
    "negation": build_negation,
    "several": build_several,
    "no-target": _no_target,
}


def build_phrase(view: View, phenomenon: str, texts: set[str], tries: int = 24) -> ScenePhrase | None:
    """One phrase of a phenomenon, or None when the scene does not seem to allow one.

    Args:
        view: the scene; the targets found are added to `view.used`.
        phenomenon: a key of `DEFAULT_PHENOMENA`.
        texts: lower-case phrases the scene already has; the new one is added.
        tries: draws before giving up; the first two thirds insist on new targets.
    """
    for attempt in range(tries):
        words = Wording(view.rng)
        draft = BUILDERS[phenomenon](view, words)
        if draft is None:
            continue
        text, bits = draft
        if (bits and bits in view.used and attempt < tries * 2 // 3) or text.lower() in texts:
            continue
        view.used.add(bits)
        texts.add(text.lower())
        mentions = tuple([tuple(members(view.matching(what))) for what in words.said])
        spared = None if words.spared is None else tuple(members(words.spared))
        tags = (phenomenon, *words.tags)
        return ScenePhrase(words.finish(text), tuple(members(bits)), tags, mentions, words.place, spared)
    return None


def draw_phenomena(rng: np.random.Generator, shares: Mapping[str, float], count: int) -> list[str]:
    """Draws `count` phenomena by their shares."""
    names = [name for name in DEFAULT_PHENOMENA if shares.get(name, 0.0) > 0]
    return [weighted(rng, names, [shares[name] for name in names]) for _ in range(count)]
