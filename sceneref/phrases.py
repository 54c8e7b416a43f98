"""Phrases about a scene: one builder per phenomenon, which returns text and targets, or None if it found no phrase.

Semantics, with X a description, a landmark an object with a unique description, and margins of at least 5 % of the
shorter side:

- attribute: the only X.
- absolute: the X furthest in a direction. "In the middle": the X nearest to the image centre. Corners: the X nearest
  to that corner, which also has the smallest x + y distance to it and lies in that quarter of the image.
- relative: the only X on that side of the landmark, with all others on the opposite side. "Next to": the nearest X.
- comparison: the largest or smallest X, or the only X larger or smaller than a landmark (ratio at least 1.25).
- ordinal: the k-th X counted from a side.
- negation: the X without an attribute value that another X has.
- several: all X; "X and Y"; all X on one side of a landmark.
- no-target: an X that is absent, or a relation that holds for no X.
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
from sceneref.words import Description, Region, Wording, count_word


@dataclass(frozen=True)
class ScenePhrase:
    """A phrase with its targets and the semantics of its parts.

    Attributes:
        text: the phrase.
        targets: indices of the target objects, ascending; empty for a no-target phrase.
        tags: phenomenon (a key of `DEFAULT_PHENOMENA`), then properties of the wording: "size", "colour", "shape",
            "pattern", "generic", "synonym", "conjunction", "absent", "false-relation" and others.
        mentions: for each description, in the order of the phrase, the indices of the objects that match it alone,
            ascending. For "the star left of the red ring": all stars, then the ring. Negated attributes and positions
            are not descriptions.
        region: region that the position words restrict the target to. For "the star left of the red ring": everything
            left of the ring. None without position words.
        negation_matches: indices of all objects that satisfy the negation, ascending. For "the star that is not red":
            all objects that are not red. None without negation.
    """

    text: str
    targets: tuple[int, ...]
    tags: tuple[str, ...]
    mentions: tuple[tuple[int, ...], ...] = ()
    region: Region | None = None
    negation_matches: tuple[int, ...] | None = None


Draft = tuple[str, int]
Builder = Callable[[View, Wording], Draft | None]

_NEGATED = ("colour", "colour", "colour", "size", "pattern", "shape")


def build_attribute(view: View, words: Wording) -> Draft | None:
    """Build a phrase such as "the red star" or "the one that is blue": one object matches the description."""
    index = view.random_focus()
    description = view.unique_description(index)
    if description is None:
        return None
    return words.singular(description, clauses=0.12, indefinite=0.05), 1 << index


def build_comparison(view: View, words: Wording) -> Draft | None:
    """Build a phrase such as "the biggest star", "the smaller of the two circles", "the star bigger than the ring"."""
    index = view.random_focus()
    description = view.any_description(index, without=("size",))
    bits = view.matching(description)
    big = view.chance(0.5)
    if view.chance(0.25):
        return _compare_with_landmark(view, words, description, bits, big)
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
            words.allow_ones = False
            return f"the {word} of the two {words.noun_phrase(description, plural=True)}", 1 << target
        return words.singular(description, before=word), 1 << target
    word = words.pick(("biggest", "largest", "biggest", "largest") if big else ("smallest", "smallest", "tiniest"))
    if view.chance(0.12):
        return f"{words.singular(description)} that is {word}", 1 << target
    if view.chance(0.08):
        words.allow_ones = False
        return f"the {word} of the {words.noun_phrase(description, plural=True)}", 1 << target
    return words.singular(description, before=word), 1 << target


def _compare_with_landmark(view: View, words: Wording, description: Description, bits: int, big: bool) -> Draft | None:
    found = view.landmark()
    if found is None:
        return None
    landmark, landmark_description = found
    hits = 0
    for index in members(bits & ~(1 << landmark)):
        if view.clearly_bigger(index, landmark) if big else view.clearly_bigger(landmark, index):
            hits |= 1 << index
        elif not (view.clearly_bigger(landmark, index) if big else view.clearly_bigger(index, landmark)):
            return None
    if hits.bit_count() != 1:
        return None
    link = words.pick(("that is ", "which is ", ""))
    word = words.pick(("bigger than", "larger than") if big else ("smaller than",))
    return f"{words.singular(description)} {link}{word} {words.singular(landmark_description)}", hits


def build_negation(view: View, words: Wording) -> Draft | None:
    """Build a phrase such as "the star that is not red", "the non-red circle", "every circle except the red one"."""
    index = view.random_focus()
    if view.chance(0.2):
        return _all_except(view, words, index)
    name = pick(view.rng, ("size", "pattern") if view.compositional else _NEGATED)
    description = view.any_description(index, without=(name,))
    bits = view.matching(description)
    other = pick(view.rng, members(bits))
    value = getattr(view.objects[other], name)
    if value == getattr(view.objects[index], name) or value == "plain":
        return None
    targets = bits & ~view.set_of(name, value)
    words.add_tags(name)
    words.negation_matches = view.everything & ~view.set_of(name, value)
    if targets.bit_count() == 1:
        return _not(words, description, name, value, plural=False), targets
    if view.chance(0.4):
        lead = words.pick(("every ", "every ", "each "))
        return lead + _not(words, description, name, value, plural=False, no_articles=True), targets
    lead = words.pick(("all ", "all ", "all the ", "the ", ""))
    return lead + _not(words, description, name, value, plural=True, no_articles=True), targets


def _not(
    words: Wording, description: Description, name: str, value: str, plural: bool, no_articles: bool = False
) -> str:
    """Return the noun phrase of X without an attribute value, with "the" unless `no_articles`."""
    verb = "are" if plural else "is"
    if name != "shape" and words.chance(0.22):
        noun_phrase = words.noun_phrase(description, plural, before=f"non-{words.adjective(value)}")
    else:
        noun_phrase = words.noun_phrase(description, plural)
        if name == "shape":
            noun = words.noun(value, plural)
            negated = noun if plural else f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
        else:
            negated = words.adjective(value)
        link = words.pick(("that {} not", "that {} not", "which {} not", "that {}n't")).format(verb)
        noun_phrase += f" {link} {negated}"
    return noun_phrase if no_articles else words.with_article(noun_phrase)


def _all_except(view: View, words: Wording, index: int) -> Draft | None:
    """Build a phrase such as "all stars except the red one": all X except those with a further attribute value."""
    name = pick(view.rng, ("size", "pattern") if view.compositional else ("colour", "colour", "size", "pattern"))
    description = view.any_description(index, without=(name,))
    bits = view.matching(description)
    value = getattr(view.objects[pick(view.rng, members(bits))], name)
    excluded = bits & view.set_of(name, value)
    targets = bits & ~excluded
    if value == "plain" or targets.bit_count() < 2 or not excluded:
        return None
    words.add_tags(name)
    words.negation_matches = view.everything & ~excluded
    lead = words.pick(("every", "all", "all the", "all of the"))
    noun_phrase = words.noun_phrase(description, plural=lead != "every")
    pronoun = "one" if excluded.bit_count() == 1 else "ones"
    link = words.pick(("except", "except", "but", "except for"))
    return f"{lead} {noun_phrase} {link} the {words.adjective(value)} {pronoun}", targets


def build_several(view: View, words: Wording) -> Draft | None:
    """Build a phrase with several targets: "all red stars", "the star and the ring", "the two leftmost stars"."""
    form = weighted(view.rng, ("group", "and", "side", "outer"), (0.52, 0.28, 0.12, 0.08))
    if form == "and":
        return view.retry(lambda: _conjunction(view, words), 4)
    return view.retry(lambda: _several_alike(view, words, form), 8)


def _several_alike(view: View, words: Wording, form: str) -> Draft | None:
    """Build a phrase about several objects that match one description.

    Args:
        view: the scene.
        words: wording of the phrase.
        form: "group" ("all red stars"), "side" ("all stars left of the square") or "outer" ("the two leftmost stars").
    """
    index = view.random_focus()
    description = view.any_description(index)
    bits = view.matching(description)
    if form == "group":
        if bits.bit_count() < 2 or (not description.named and not view.chance(0.15)):
            return None
        return words.plural_phrase(description, bits.bit_count()), bits
    if form == "side":
        return _all_beside(view, words, description, bits)
    direction = pick(view.rng, ("left", "right", "top", "bottom"))
    key = view.towards(direction)
    ranked = sorted(members(bits), key=key)
    if len(ranked) < 3 or key(ranked[2]) - key(ranked[1]) < view.margin:
        return None
    words.add_tags("position")
    words.region = view.region_in_order(direction, bits, 0, 1)
    targets = 1 << ranked[0] | 1 << ranked[1]
    if view.chance(0.5):
        noun_phrase = words.noun_phrase(description, plural=True, before=f"{count_word(2)} {_OUTER[direction][0]}")
        return words.with_article(noun_phrase), targets
    noun_phrase = words.noun_phrase(description, plural=True, before="two")
    return f"{words.with_article(noun_phrase)} {_OUTER[direction][1]}", targets


_OUTER = {
    "left": ("leftmost", "on the far left"),
    "right": ("rightmost", "on the far right"),
    "top": ("topmost", "at the very top"),
    "bottom": ("bottommost", "at the very bottom"),
}


def _conjunction(view: View, words: Wording) -> Draft | None:
    count = 3 if view.chance(0.12) else 2
    targets = sample(view.rng, view.focus, count)
    named = [description for description in map(view.unique_description, targets) if description is not None]
    if len(named) < max(2, len(targets)):
        return None
    bits = sum(1 << target for target in targets)
    parts = [words.singular(description, indefinite=0.03) for description in named]
    words.add_tags("conjunction")
    text = ", ".join(parts[:-1]) + f" and {parts[-1]}"
    return f"both {text}" if len(parts) == 2 and view.chance(0.08) else text, bits


_SIDE_WORDS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "top": ("above",),
    "bottom": ("below", "under"),
}


def _all_beside(view: View, words: Wording, description: Description, bits: int) -> Draft | None:
    found = view.landmark()
    if found is None:
        return None
    landmark, landmark_description = found
    direction = pick(view.rng, ("left", "right", "top", "bottom"))
    targets = 0
    for index in members(bits & ~(1 << landmark)):
        if view.holds(direction, index, landmark):
            targets |= 1 << index
        elif not view.fails(direction, index, landmark):
            return None
    if targets.bit_count() < 2:
        return None
    words.add_tags("position")
    words.region = view.region_beside(direction, landmark)
    lead = words.pick(("all ", "all the ", "every ", "every ", "the "))
    noun_phrase = words.noun_phrase(description, plural=lead != "every ")
    return f"{lead}{noun_phrase} {words.pick(_SIDE_WORDS[direction])} {words.singular(landmark_description)}", targets


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
    """Build one phrase of a phenomenon; return None if no attempt succeeded.

    Args:
        view: the scene; the targets are added to `view.used`.
        phenomenon: a key of `DEFAULT_PHENOMENA`.
        texts: lower-case phrases about the scene so far; the new phrase is added.
        tries: number of attempts; the first two thirds accept only new targets.
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
        mentions = tuple([tuple(members(view.matching(description))) for description in words.descriptions])
        negation_matches = None if words.negation_matches is None else tuple(members(words.negation_matches))
        tags = (phenomenon, *words.tags)
        return ScenePhrase(words.finish(text), tuple(members(bits)), tags, mentions, words.region, negation_matches)
    return None


def draw_phenomena(rng: np.random.Generator, shares: Mapping[str, float], count: int) -> list[str]:
    """Draw `count` phenomena with probabilities proportional to their shares."""
    names = [name for name in DEFAULT_PHENOMENA if shares.get(name, 0.0) > 0]
    return [weighted(rng, names, [shares[name] for name in names]) for _ in range(count)]
