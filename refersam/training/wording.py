"""Other ways to say the same: typing errors, and polite or roundabout sentences around a phrase."""

from __future__ import annotations

import numpy as np

from refersam.training.directions import is_side

_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEXT_KEYS = {key: row[max(0, i - 1) : i] + row[i + 1 : i + 2] for row in _KEYS for i, key in enumerate(row)}
_SHORTEST = 4
"""Letters of a word that a typing error leaves readable."""

_FRAMES = (
    "please mark {}",
    "please find {} for me",
    "show me {}",
    "can you select {}",
    "can you cut out {} please",
    "where is {}",
    "i need {}",
    "i am thinking of {}",
    "segment {} in this image",
    "highlight {}",
    "my target is {} , nothing else",
    "look for {} in the picture",
    "give me the mask of {}",
    "what i mean is {}",
    "it should be {} , i think",
    "in this scene , {}",
    "we are interested in {} here",
    "take {} and leave the rest",
)


def misspell(phrase: str, numbers: np.ndarray) -> str:
    """One typing error in one word of four letters or more; sides (left, right, top ...) keep their spelling.

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


def frame(phrase: str, number: float) -> str:
    """A sentence around it.

    Args:
        phrase: any.
        number: in [0, 1), which sentence.
    """
    return _FRAMES[int(number * len(_FRAMES))].format(phrase)
