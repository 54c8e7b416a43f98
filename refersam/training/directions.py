"""Detection of positions, order and colours in phrases, which limit the augmentation of their image."""

from __future__ import annotations

import re

_PAIRS = {
    "left": "right",
    "lefts": "rights",
    "lefty": "righty",
    "leftmost": "rightmost",
    "leftside": "rightside",
    "lefthand": "righthand",
    "leftward": "rightward",
    "leftwards": "rightwards",
    "lft": "rght",
    "west": "east",
    "western": "eastern",
}
_MIRRORED = _PAIRS | {right: left for left, right in _PAIRS.items()}
_SIDE = re.compile(rf"\b({'|'.join(_MIRRORED)})\b", re.IGNORECASE)

# "Right" in other senses; ambiguous abbreviations of sides; properties that mirroring changes without changing a word.
_UNSURE = re.compile(
    r"\b(l|r|lt|rt|(all|just) right|right[- ]side[- ]up|rights? angle|(counter)?clockwise|o'?clock"
    r"|right (in|on|at|by|next|behind|above|below|beside|under|over|up|away|here|there|now)"
    r"|reads?|says|saying|written|letters?|words?)\b",
    re.IGNORECASE,
)
_ORDER = (
    r"first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|last|next|\d+(st|nd|rd|th)|middle|center|centre"
    r"|central|corners?|between|o'?clock|sides?|edges?|half|far|farthest|furthest|closest|nearest"
)
_HORIZONTAL = re.compile(rf"\b({'|'.join(_MIRRORED)}|l|r|lt|rt|{_ORDER})\b", re.IGNORECASE)
_VERTICAL = re.compile(
    rf"\b(top|tops|topmost|bottom|bottommost|upper|uppermost|lower|lowest|highest|above|below|under|underneath|beneath"
    rf"|over|up|down|foreground|background|front|back|north|south|{_ORDER})\b",
    re.IGNORECASE,
)
_ANOTHER = re.compile(
    r"\b(of|from|than|with|by|beside|besides|near|nearby|next|alongside|against|behind|before|opposite|across|around"
    r"|in|inside|on|atop|at|as|along|toward|towards|riding|wearing|among|amongst|between|above|below|under|underneath"
    r"|beneath|over|touching|facing|following|holding|carrying"
    r"|closest|nearest|farthest|furthest|closer|nearer|farther|further)\b",
    re.IGNORECASE,
)
_COLOURS = re.compile(
    r"\b(red|orange|yellow|green|blue|cyan|purple|violet|pink|brown|white|black|gr[ae]y|silver|gold(en)?|beige|tan|maroon"
    r"|navy|teal|turquoise|blond|blonde|brunette|colou?r(s|ed|ful)?|dark(er|est)?|light(er|est)?|bright(er|est)?|pale(r)?"
    r"|shad(e|ed|ow|ows|owy)|\w+ish)\b",
    re.IGNORECASE,
)


def mirror_phrase(phrase: str) -> str | None:
    """Return the phrase for the mirrored image; None if it is uncertain, and the image must not be mirrored.

    "The cat left of the dog" becomes "the cat right of the dog"; None for "the cup right next to it".
    """
    return None if _UNSURE.search(phrase) else _SIDE.sub(lambda match: _swap(match.group()), phrase)


def _swap(word: str) -> str:
    other = _MIRRORED[word.lower()]
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other


def is_side(word: str) -> bool:
    """Return whether a word expresses a position or an order, so that it must not be misspelt."""
    return mentions_horizontal(word) or mentions_vertical(word)


def mentions_horizontal(phrase: str) -> bool:
    """Return whether a phrase mentions left, right, the middle or an order: the image must keep its width."""
    return _HORIZONTAL.search(phrase) is not None


def mentions_vertical(phrase: str) -> bool:
    """Return whether a phrase mentions top, bottom, front, the middle or an order: the image must keep its height."""
    return _VERTICAL.search(phrase) is not None


def mentions_another(phrase: str) -> bool:
    """Return whether a phrase may mention another object than its target, which the image must keep."""
    return _ANOTHER.search(phrase) is not None


def mentions_colour(phrase: str) -> bool:
    """Return whether a phrase mentions a colour or brightness: the image must keep its colours."""
    return _COLOURS.search(phrase) is not None
