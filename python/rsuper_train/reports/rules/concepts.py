# SPDX-License-Identifier: Apache-2.0
"""The vocabulary compiled for reading: a dictionary of phrases by their first word, each with all that it may mean."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import permutations

from rsuper_train.reports.rules.tokens import GAP, fold
from rsuper_train.reports.vocabulary import Organ, Vocabulary

# One bit for each thing that a phrase may be.
CUES = (
    "negation", "negation after", "neutral", "change", "normal", "partial", "history", "hypothetical",
    "end of scope", "verb", "advice", "of", "prior", "current", "bound", "up to", "now", "largest", "example",
    "each", "respectively", "distance", "axis", "measure", "reference", "landmark", "place", "origin", "high", "low",
    "same", "many", "another", "one", "definite", "pronoun", "and", "or", "with", "left", "right", "bilateral",
    "finding", "feature", "section past", "section current", "section impression", "there",
)  # fmt: skip
BIT = {cue: 1 << position for position, cue in enumerate(CUES)}
(
    NEGATION, NEGATION_AFTER, NEUTRAL, CHANGE, NORMAL, PARTIAL, HISTORY, HYPOTHETICAL, END, VERB, ADVICE, OF, PRIOR,
    CURRENT, BOUND, UP_TO, NOW, LARGEST, EXAMPLE, EACH, RESPECTIVELY, DISTANCE, AXIS, MEASURE, REFERENCE, LANDMARK,
    PLACE, ORIGIN, HIGH, LOW, SAME, MANY, ANOTHER, ONE, DEFINITE, PRONOUN, AND, OR, WITH, LEFT, RIGHT, BILATERAL,
    FINDING, FEATURE, SECTION_PAST, SECTION_CURRENT, SECTION_IMPRESSION, THERE,
) = BIT.values()  # fmt: skip
(
    LESION,
    ORGAN,
    PART,
    ELSEWHERE,
    ATTENUATION,
    SIZE,
    NUMBER,
    COMMA,
    SEMICOLON,
    COLON,
    OPEN,
    CLOSE,
    SLASH,
    DASH,
    SMALLER,
) = (1 << (len(CUES) + position) for position in range(15))
SIDE = LEFT | RIGHT | BILATERAL
SECTION = SECTION_PAST | SECTION_CURRENT | SECTION_IMPRESSION

# Words that are a part of an organ only where that organ is spoken of.
WEAK_PARTS = frozenset((
    "head", "neck", "body", "tail", "hop", "dome", "right dome", "fundus", "fundal", "ascending", "descending",
    "transverse", "upper third", "lower third", "mid third", "mid zone", "mid portion", "midportion",
    "base", "bases",
))  # fmt: skip
PLURALS = frozenset((
    "foci", "mets", "metastases", "disease", "secondaries", "calculi", "diverticula", "hemangiomata",
    "haemangiomata",
))  # fmt: skip


@dataclass(slots=True)
class Phrase:
    """All that one phrase may mean.

    Args:
        kinds: bits of what it is.
        lesion: type of lesion.
        organ: the organ it names, or implies ("hcc").
        parts: organ -> parts that it names.
        weak: a part only where its organ is spoken of ("head", "body").
        attenuation: "hypo", "iso", "hyper" or "mixed".
        plural: it stands for several.
    """

    kinds: int = 0
    lesion: str = ""
    organ: str = ""
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    weak: bool = False
    attenuation: str = ""
    plural: bool = False


Longer = tuple[list[str], list[str], Phrase]


class Phrases:
    """Phrases by their first word: the word alone, and longer ones by their second word."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.by_first: dict[str, tuple[Phrase | None, dict[str, list[Longer]] | None]] = {}
        self._known: dict[tuple[tuple[str, ...], tuple[str, ...]], Phrase] = {}
        for name, organ in vocabulary.organs.items():
            self._add_organ(name, organ)
        for word in vocabulary.elsewhere:
            for form in _forms(word):
                self._phrase(form).kinds |= ELSEWHERE
        for kind, words in vocabulary.lesions.items():
            for word in words:
                self._add_lesion(kind, word)
        for kind, words in vocabulary.attenuation.items():
            for word in words:
                phrase = self._phrase(word)
                phrase.kinds |= ATTENUATION
                phrase.attenuation = kind
        for cue, words in vocabulary.cues.items():
            if cue not in BIT:
                raise ValueError(f"vocabulary: cues: unknown kind {cue!r}; the rules know {', '.join(CUES)}")
            for word in words:
                for form in _forms(word) if cue in ("finding", "feature") else (word,):
                    self._phrase(form).kinds |= BIT[cue]
        for (words, _), phrase in self._known.items():
            if phrase.lesion and not phrase.attenuation:
                phrase.attenuation = self._attenuation_within(words)
        self._index()
        self.words = frozenset(self.by_first)
        self.paired = frozenset(name for name, organ in vocabulary.organs.items() if organ.paired)
        self.order = {
            name: {part: position for position, part in enumerate(organ.subsegments)}
            for name, organ in vocabulary.organs.items()
        }

    def _index(self) -> None:
        for (words, gaps), phrase in sorted(self._known.items(), key=lambda known: len(known[0][0]), reverse=True):
            alone, longer = self.by_first.get(words[0], (None, None))
            if len(words) == 1:
                alone = phrase
            else:
                longer = longer or {}
                longer.setdefault(words[1], []).append((list(words[1:]), list(gaps), phrase))
            self.by_first[words[0]] = alone, longer

    def _attenuation_within(self, words: tuple[str, ...]) -> str:
        """ "hypo" for "focus of hypoattenuation"."""
        for first in range(len(words)):
            for last in range(len(words), first, -1):
                phrase = self._known.get((words[first:last], ("",) * (last - first - 1)))
                if phrase is not None and phrase.attenuation:
                    return phrase.attenuation
        return ""

    def _phrase(self, text: str) -> Phrase:
        parts = GAP.split(fold(text.strip()))
        words = tuple(parts[0::2])
        gaps = tuple(next((char for char in "/.," if char in gap), "") for gap in parts[1::2])
        if (words, gaps) not in self._known:
            self._known[words, gaps] = Phrase()
        return self._known[words, gaps]

    def _add_organ(self, name: str, organ: Organ) -> None:
        for word in organ.names:
            for form in _forms(word):
                phrase = self._phrase(form)
                phrase.kinds |= ORGAN
                phrase.organ = name
        named = {part: (part, *entry.names) for part, entry in organ.subsegments.items() if not _numbered(part)}
        named |= {group: (group,) for group in organ.groups}
        parts = {part: (part,) for part in organ.subsegments} | organ.groups
        for part, names in named.items():
            for form in {form for word in names for form in self._part_forms(word, organ)}:
                self._add_part(form, name, parts[part])
        for part, entry in organ.subsegments.items():
            if _numbered(part):
                for word in entry.names:
                    for form in self._part_forms(word, organ):
                        self._add_part(form, name, (part,))
        for (one, _), (other, _) in permutations([(word, part) for part, words in named.items() for word in words], 2):
            first, last = one.rsplit(" ", 1), other.rsplit(" ", 1)
            if len(first) == 2 and len(last) == 2 and first[1] == last[1]:
                both = tuple(dict.fromkeys(parts[_of(named, one)] + parts[_of(named, other)]))
                for joint in ("and", "or"):
                    for form in _forms(other):
                        self._add_part(f"{first[0]} {joint} {form}", name, both)

    def _part_forms(self, word: str, organ: Organ) -> Iterable[str]:
        """ "right lobe", "right hepatic lobe", "right lobes"."""
        yield from _forms(word)
        first, _, last = word.rpartition(" ")
        if first:
            for name in organ.names:
                if " " not in name:
                    yield f"{first} {name} {last}"

    def _add_part(self, text: str, organ: str, parts: tuple[str, ...]) -> None:
        phrase = self._phrase(text)
        phrase.kinds |= PART
        phrase.weak = text in WEAK_PARTS
        known = phrase.parts.get(organ, ())
        phrase.parts[organ] = tuple(dict.fromkeys(known + parts))

    def _add_lesion(self, kind: str, word: str) -> None:
        for form in _forms(word):
            phrase = self._phrase(form)
            phrase.kinds |= LESION
            phrase.lesion = kind
            phrase.plural = form != word or word.split()[-1] in PLURALS or word.startswith(("foci", "areas"))


def _of(named: dict[str, tuple[str, ...]], word: str) -> str:
    return next(part for part, words in named.items() if word in words)


def _numbered(part: str) -> bool:
    return re.fullmatch(r"segment \d", part) is not None


def _forms(word: str) -> tuple[str, ...]:
    """Singular and plural."""
    head, _, last = word.rpartition(" ")
    last = plural(last)
    return (word, f"{head} {last}".strip()) if last else (word,)


def plural(word: str) -> str:
    """The plural of one English or Latin noun; "" for a word that is no singular noun of three or more letters."""
    if len(word) < 3 or word in PLURALS or word.endswith(("ies", "ses", "ic", "al", "ous", "ar", "ing")):
        return ""
    if word.endswith("sis"):
        return word[:-2] + "es"
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"
