"""Text augmentation: synonyms, typing errors, and sentences around a phrase."""

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
"""Minimum length of a word for a typing error."""

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
"""Words of SceneRef's phrases with synonyms that the generator does not use."""

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
_ADJECTIVES_AND_NOUN = re.compile(
    rf"((?:the|an?) )?((?:(?:{'|'.join(sorted(ADJECTIVES))}) )+)([a-z]*(?:[a-rt-z]|ss))", re.IGNORECASE
)
"""Pattern of an optional article, adjectives, and a singular noun."""
_NOUN_FIRST = (
    "{0} , it is {1}",
    "{0} , which is {1}",
    "{0} and it is {1}",
    "{0} that looks {1}",
    "{0} , i mean the {2} one",
    "{0} , the {2} one",
)


NUMBERS = 10
"""Number of random numbers for rewording one phrase."""


@dataclass(frozen=True)
class RewordingDraw:
    """Random numbers in [0, 1) for rewording one phrase.

    Attributes:
        error: decides whether to add a typing error.
        error_kind: 4 numbers for `misspell`.
        sentence: decides whether to add a sentence around the phrase.
        sentence_kind: number for `put_in_sentence`.
        synonym: decides whether to replace a word.
        synonym_kind: 2 numbers for `replace_word`.
    """

    error: float
    error_kind: np.ndarray
    sentence: float
    sentence_kind: float
    synonym: float
    synonym_kind: np.ndarray

    @classmethod
    def of_phrases(cls, count: int, rng: np.random.Generator) -> list[RewordingDraw]:
        """Draw numbers for `count` phrases. The draws are independent of the recipe's settings."""
        first = rng.random((count, 7))
        return [cls.of_numbers(numbers) for numbers in np.hstack([first, rng.random((count, NUMBERS - 7))])]

    @classmethod
    def of_numbers(cls, numbers: np.ndarray) -> RewordingDraw:
        """Construct from `NUMBERS` random numbers in [0, 1)."""
        return cls(
            error=float(numbers[0]),
            error_kind=numbers[1:5],
            sentence=float(numbers[5]),
            sentence_kind=float(numbers[6]),
            synonym=float(numbers[7]),
            synonym_kind=numbers[8:],
        )


def reword(phrase: str, settings: RewordingSettings, draw: RewordingDraw) -> str:
    """Replace a word, misspell a word, and put the phrase into a sentence, each with its probability.

    Args:
        phrase: the phrase.
        settings: probabilities.
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
        phrase: the phrase; returned unchanged if it has no such word.
        numbers: two numbers in [0, 1) that select the word and the synonym.
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
    """Make one typing error in a word of at least four letters; position words (left, right, top ...) are not changed.

    Args:
        phrase: the phrase; returned unchanged if it has no such word.
        numbers: four numbers in [0, 1) that select the word, the letter, the kind of error, and the neighbouring key.
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
    if kind == 0:  # swap two letters
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
    """Add an opening, a request and an ending to a phrase; with probability 0.5 apply `put_noun_first` before.

    Args:
        phrase: the phrase.
        number: number in [0, 1) that selects the sentence.
    """
    opening, number = _pick(_OPENINGS, number)
    request, number = _pick(_REQUESTS, number)
    ending, number = _pick(_ENDINGS, number)
    if number < 0.5:
        phrase = put_noun_first(phrase, 2 * number)
    return " ".join(part for part in (opening, request.format(phrase), ending) if part)


def put_noun_first(phrase: str, number: float) -> str:
    """Move the adjectives behind the noun: "the large red star" becomes "the star , it is large and red".

    Args:
        phrase: the phrase; returned unchanged unless it consists of an optional article, adjectives of
            `sceneref.words`, and one singular noun.
        number: number in [0, 1) that selects the wording.
    """
    found = _ADJECTIVES_AND_NOUN.fullmatch(phrase)
    if found is None:
        return phrase
    article, adjectives, noun = found.group(1) or "", found.group(2).strip(), found.group(3)
    return _pick(_NOUN_FIRST, number)[0].format(article + noun, adjectives.replace(" ", " and "), adjectives)


def _pick(options: Sequence[str], number: float) -> tuple[str, float]:
    """Return one of the options, and the remainder of the number, rescaled to [0, 1)."""
    index, left = divmod(number * len(options), 1.0)
    return options[int(index)], left
