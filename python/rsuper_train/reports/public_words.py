# SPDX-License-Identifier: Apache-2.0
"""The words in cells of the public tables, in the vocabulary's names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import get_args

from rsuper_train.reports.schema import Attenuation, Certainty, Laterality, Place
from rsuper_train.reports.vocabulary import ROMAN, Organ, Vocabulary

UNKNOWN = frozenset(["", "u", "unknown", "nan", "none", "n/a", "na"])

_SEGMENT = re.compile(r"segments? ([1-8]|i{1,3}|iv|v|vi{1,3})[ab]?")
_NUMBERS = {numeral.lower(): number for number, numeral in enumerate(ROMAN, start=1)}
_SIDE = re.compile(r"(left|right|bilateral|both)(?: (.+))?")
_STANDARD: dict[str, Attenuation] = {"low": "hypo", "high": "hyper", "iso": "iso", "heterogeneous": "mixed"}
_STEMS: dict[str, Attenuation] = {"hetero": "mixed", "mixed": "mixed", "hypo": "hypo", "hyper": "hyper", "iso": "iso"}


class Words:
    """Names of organs, parts, attenuations and types of lesions, from the words of cells."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        organs = vocabulary.organs
        self._organs = {word: name for name, organ in organs.items() for word in organ.names}
        self._organs |= {organ.public: name for name, organ in organs.items() if organ.public}
        self._organs |= {name: name for name in organs}
        self._attenuations = _turned(vocabulary.attenuation)
        self._types = _turned(vocabulary.lesions)

    def knows(self, organ: str) -> bool:
        return organ in self._vocabulary.organs or organ == "unknown"

    def all_organs(self) -> tuple[Place, ...]:
        return tuple(Place(organ=name) for name in self._vocabulary.organs)

    def organ(self, cell: str) -> str:
        """The vocabulary's name; a word that it does not have stays as it is."""
        word = _plain(cell)
        return "unknown" if word in UNKNOWN else self._organs.get(word, word)

    def place(self, organ: str, cell: str) -> tuple[Place, bool]:
        """The place of "head / body" or "left", and whether all of it was understood."""
        entry = self._vocabulary.organs.get(organ, Organ(names=(), paired=True))
        parts: list[str] = []
        sides: set[str] = set()
        understood = True
        for word in map(_plain, re.split(r"[/,;]", cell)):
            if word in UNKNOWN:
                continue
            named = _parts(word, entry)
            side = _SIDE.fullmatch(word) if not named else None
            if side and entry.paired:
                sides.add(side[1])
                word = side[2] or ""
                named = _parts(word, entry)
            parts += named
            understood = understood and bool(named or not word)
        # in the order of the vocabulary, each once
        order = [name for name in entry.subsegments if name in parts]
        return Place(organ=organ, subsegments=tuple(order), laterality=_laterality(sides)), understood

    def attenuation(self, raw: str, standardized: str) -> Attenuation:
        """That of the model's answer; the standardized one where the answer is not there or says something else."""
        word, standard = _plain(raw), _STANDARD.get(_plain(standardized), "unknown")
        if word in self._attenuations:
            return _known(self._attenuations[word])
        for stem, attenuation in _STEMS.items():
            if word.startswith(stem):
                return attenuation
        # the public list of words for "high" has enhancement of any kind
        return "unknown" if standard == "hyper" and "enhanc" in word else standard

    def type(self, cell: str) -> str:
        word = _plain(cell)
        return "lesion" if word in UNKNOWN else self._types.get(word, word)

    def certainty(self, cell: str) -> Certainty:
        word = _plain(cell)
        return next((known for known in get_args(Certainty) if known == word), "unknown")


def _plain(cell: str) -> str:
    return " ".join(cell.replace("_", " ").replace("-", " ").lower().split())


def _turned(words: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Word -> name; a name's own word is its own."""
    return {word: name for name, listed in words.items() for word in listed} | {name: name for name in words}


def _known(name: str) -> Attenuation:
    return next((known for known in get_args(Attenuation) if known == name), "unknown")


def _parts(word: str, organ: Organ) -> tuple[str, ...]:
    """The parts of an organ that a word names."""
    if match := _SEGMENT.fullmatch(word):
        number = _NUMBERS.get(match[1]) or match[1]
        return organ.parts_named(f"segment {number}")
    return organ.parts_named(word)


def _laterality(sides: set[str]) -> Laterality | None:
    if not sides:
        return None
    return "left" if sides == {"left"} else "right" if sides == {"right"} else "bilateral"
