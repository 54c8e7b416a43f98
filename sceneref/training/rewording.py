"""Other wordings of the same phrase: synonyms, typing errors, and sentences around it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refersam.training.directions import is_side
from sceneref.training.settings import RewordingSettings
from sceneref.words import ADJECTIVES, article_for

_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEXT_KEYS = {key: row[max(0, i - 1) : i] + row[i + 1 : i + 2] for row in _KEYS for i, key in enumerate(row)}
_SHORTEST = 4
"""Letters of a word that a typing error leaves readable."""

_OTHER_ADJECTIVES = {
    "red": ("scarlet", "crimson", "ruby"),
    "orange": ("tangerine",),
    "yellow": ("golden", "lemon"),
    "green": ("emerald", "lime"),
    "cyan": ("turquoise", "aqua", "teal"),
    "blue": ("azure", "cobalt"),
    "purple": ("lilac", "mauve"),
    "pink": ("rose", "rosy"),
    "brown": ("chocolate", "chestnut"),
    "gray": ("silver", "ashen"),
    "white": ("ivory", "snowy"),
    "black": ("ebony", "pitch-black"),
    "large": ("huge", "giant", "great"),
    "small": ("mini", "wee", "petite"),
    "striped": ("stripy", "banded"),
    "dotted": ("spotty", "polka-dot"),
    "checkered": ("chequered", "chessboard"),
    "plain": ("unpatterned", "uniform"),
}
_OTHER_NOUNS = {
    "circle": ("ball", "round shape"),
    "square": ("box", "block"),
    "triangle": ("three-sided shape",),
    "ring": ("hoop", "doughnut", "loop"),
    "cross": ("plus symbol",),
    "hexagon": ("six-sided shape",),
    "heart": ("heart shape",),
    "crescent": ("half-moon", "sickle"),
    "diamond": ("lozenge", "kite"),
    "arrow": ("pointer",),
    "bar": ("strip", "stick", "oblong"),
    "object": ("symbol", "element"),
}


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("s", "x")) else "s")


_OTHER_WORDS = {
    **_OTHER_ADJECTIVES,
    **_OTHER_NOUNS,
    **{_plural(word): tuple(map(_plural, others)) for word, others in _OTHER_NOUNS.items()},
}
"""Words of SceneRef's phrases, with synonyms that SceneRef never uses."""

_OPENINGS = (
    "",
    "",
    "please",
    "could you",
    "would you kindly",
    "in this drawing ,",
    "looking at this scene ,",
    "hello ,",
    "now",
    "among everything that is here ,",
    "i know there are many things in it , but",
)
_REQUESTS = (
    "mark {}",
    "find {}",
    "show me {}",
    "select {}",
    "cut out {}",
    "where is {}",
    "i need {}",
    "i am thinking of {}",
    "segment {}",
    "highlight {}",
    "my target is {}",
    "look for {}",
    "give me the mask of {}",
    "what i mean is {}",
    "it should be {}",
    "there should be {}",
    "we are interested in {}",
    "take {}",
    "the only thing that interests me is {}",
    "i would say that it is {}",
)
_ENDINGS = (
    "",
    "",
    "",
    "please",
    "for me",
    "in this image",
    "somewhere in the picture",
    ", nothing else",
    ", i think",
    "and leave the rest",
    ", if there is such a thing",
    ", that is all i want",
    ", do you see",
    "and colour it for me , thank you",
)
_LOOKS_AND_NOUN = re.compile(
    rf"((?:the|an?) )?((?:(?:{'|'.join(sorted(ADJECTIVES))}) )+)([a-z]*(?:[a-rt-z]|ss))", re.IGNORECASE
)
"""An article, adjectives, and a noun in the singular."""
_TURNED = (
    "{0} , it is {1}",
    "{0} , which is {1}",
    "{0} and it is {1}",
    "{0} that looks {1}",
    "{0} , i mean the {2} one",
    "{0} , the {2} one",
)


NUMBERS = 10
"""Random numbers that decide how a phrase is reworded."""


@dataclass(frozen=True)
class RewordingDraw:
    """Random numbers in [0, 1) that decide how a phrase is reworded.

    Attributes:
        error: whether there is a typing error.
        error_kind: which one, 4 numbers of `misspell`.
        sentence: whether there is a sentence around the phrase.
        sentence_kind: which one, of `put_in_sentence`.
        synonym: whether a word is replaced.
        synonym_kind: which one, 2 numbers of `replace_word`.
    """

    error: float
    error_kind: np.ndarray
    sentence: float
    sentence_kind: float
    synonym: float
    synonym_kind: np.ndarray

    @classmethod
    def of_phrases(cls, count: int, rng: np.random.Generator) -> list[RewordingDraw]:
        """Draw numbers for several phrases; what is drawn first does not depend on what recipes use later."""
        first = rng.random((count, 7))
        return [cls.of_numbers(numbers) for numbers in np.hstack([first, rng.random((count, NUMBERS - 7))])]

    @classmethod
    def of_numbers(cls, numbers: np.ndarray) -> RewordingDraw:
        """Name `NUMBERS` random numbers in [0, 1)."""
        return cls(
            error=float(numbers[0]),
            error_kind=numbers[1:5],
            sentence=float(numbers[5]),
            sentence_kind=float(numbers[6]),
            synonym=float(numbers[7]),
            synonym_kind=numbers[8:],
        )


def reword(phrase: str, settings: RewordingSettings, draw: RewordingDraw) -> str:
    """Replace a word, misspell one, put a sentence around the phrase, each by chance.

    Args:
        phrase: any.
        settings: chances.
        draw: random numbers.
    """
    if draw.synonym < settings.synonyms:
        phrase = replace_word(phrase, draw.synonym_kind)
    if draw.error < settings.typing_errors:
        phrase = misspell(phrase, draw.error_kind)
    return put_in_sentence(phrase, draw.sentence_kind) if draw.sentence < settings.sentences else phrase


def replace_word(phrase: str, numbers: np.ndarray) -> str:
    """Replace one word for a colour, pattern, size or shape by a synonym: "the cyan star", "the turquoise star".

    Args:
        phrase: any; one without such a word stays as it is.
        numbers: two in [0, 1): the word, the name.
    """
    words = phrase.split(" ")
    known = [i for i, word in enumerate(words) if word.lower() in _OTHER_WORDS]
    if not known:
        return phrase
    index = known[int(numbers[0] * len(known))]
    words[index] = _pick(_OTHER_WORDS[words[index].lower()], float(numbers[1]))[0]
    if index and words[index - 1] in ("a", "an"):
        words[index - 1] = article_for(words[index])
    return " ".join(words)


def misspell(phrase: str, numbers: np.ndarray) -> str:
    """Make one typing error in a word of four letters or more; sides (left, right, top ...) keep their spelling.

    Args:
        phrase: any.
        numbers: four in [0, 1): the word, the place in it, the kind of error, the wrong key.
    """
    words = phrase.split(" ")
    long = [i for i, word in enumerate(words) if len(word) >= _SHORTEST and word.isalpha() and not is_side(word)]
    if not long:
        return phrase
    index = long[int(numbers[0] * len(long))]
    word = words[index]
    place = 1 + int(numbers[1] * (len(word) - 2))  # neither the first letter nor the last
    kind = int(numbers[2] * 4)
    letter = word[place]
    if kind == 0:  # two letters change places
        word = word[:place] + word[place + 1] + letter + word[place + 2 :]
    elif kind == 1:
        word = word[:place] + word[place + 1 :]
    elif kind == 2:
        word = word[:place] + letter + word[place:]
    else:
        keys = _NEXT_KEYS.get(letter.lower(), letter)
        word = word[:place] + keys[int(numbers[3] * len(keys))] + word[place + 1 :]
    words[index] = word
    return " ".join(words)


def put_in_sentence(phrase: str, number: float) -> str:
    """Put an opening, a request and an ending around a phrase; every second "large red star" is turned round before.

    Args:
        phrase: any.
        number: in [0, 1), which sentence.
    """
    opening, number = _pick(_OPENINGS, number)
    request, number = _pick(_REQUESTS, number)
    ending, number = _pick(_ENDINGS, number)
    if number < 0.5:
        phrase = turn(phrase, 2 * number)
    return " ".join(part for part in (opening, request.format(phrase), ending) if part)


def turn(phrase: str, number: float) -> str:
    """Put the noun first: "the large red star" becomes "the star , it is large and red"; other phrases stay.

    Args:
        phrase: any; turned round is an article or none, adjectives of `sceneref.words`, and one noun.
        number: in [0, 1), in which way.
    """
    found = _LOOKS_AND_NOUN.fullmatch(phrase)
    if found is None:
        return phrase
    article, looks, noun = found.group(1) or "", found.group(2).strip(), found.group(3)
    return _pick(_TURNED, number)[0].format(article + noun, looks.replace(" ", " and "), looks)


def _pick(options: Sequence[str], number: float) -> tuple[str, float]:
    """One of the options, and what is left of the number, in [0, 1) again."""
    index, left = divmod(number * len(options), 1.0)
    return options[int(index)], left
