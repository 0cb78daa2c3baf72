# SPDX-License-Identifier: Apache-2.0
"""The embedded extractor: rules for radiologists' English, driven by the vocabulary; no model, no network."""

from __future__ import annotations

from collections.abc import Iterable

from rsuper_train.reports.rules.concepts import Phrases
from rsuper_train.reports.rules.memory import Memory
from rsuper_train.reports.rules.parse import Key, Parse
from rsuper_train.reports.rules.places import Where
from rsuper_train.reports.rules.reader import Reader
from rsuper_train.reports.rules.rows import Row
from rsuper_train.reports.rules.tokens import Tokens
from rsuper_train.reports.schema import NO_TEXT, OVERSIZED, Place, Report, Tumour, hash_text
from rsuper_train.reports.vocabulary import Vocabulary, load_vocabulary

# The flags, in the order in which they are given.
BINARY = "control characters"
NOT_ENGLISH = "not English?"
NO_ORGAN = "no sentence about an organ"

ENOUGH_WORDS = 12
SAMPLED_WORDS = 100
ENGLISH = frozenset((
    "the", "of", "and", "in", "is", "no", "with", "are", "for", "to", "a", "or", "on", "there", "was", "this",
    "within", "without", "has", "not", "be", "as", "at",
))  # fmt: skip


class RulesExtractor:
    """Reads a report by rules; see README.md beside this file for what they know and what they do not.

    Args:
        vocabulary: the words of reports; the package's own where None.
    """

    name = "rules"

    def __init__(self, vocabulary: Vocabulary | None = None) -> None:
        self._phrases = Phrases(vocabulary or load_vocabulary())
        self._parses: dict[Key, Parse | None] = {}
        self._english = ENGLISH | self._phrases.words

    def extract(self, id: str, text: str) -> Report:
        """The tumours, negatives and flags of one report; any string is read, none is refused.

        Flags say why a person should look: "no text", "control characters", "not English?",
        "no sentence about an organ", "size above 500 mm" (the row is kept without its size).
        """
        tokens = Tokens(text)
        memory = Reader(tokens, self._phrases, self._parses).read()
        tumours = tuple(_tumour(row, tokens) for row in memory.rows)
        return Report(
            id=id or "?",
            tumours=tumours,
            negatives=_negatives(memory.negatives, tumours),
            flags=self._flags(tokens, memory),
            extractor=self.name,
            text_hash=hash_text(text),
        )

    def _flags(self, tokens: Tokens, memory: Memory) -> tuple[str, ...]:
        if not any(tokens.words):
            return (NO_TEXT,)
        flags = []
        if "\x00" in tokens.text or "\ufffd" in tokens.text:
            flags.append(BINARY)
        words = tokens.words
        if len(words) >= ENOUGH_WORDS:
            sample = words[:: max(1, len(words) // SAMPLED_WORDS)]
            if sum(map(self._english.__contains__, sample)) < 0.15 * len(sample):
                flags.append(NOT_ENGLISH)
        if not memory.spoke_of_organ and not memory.rows:
            flags.append(NO_ORGAN)
        if memory.oversized:
            flags.append(OVERSIZED)
        return tuple(flags)


def _tumour(row: Row, tokens: Tokens) -> Tumour:
    start, end = tokens.starts[row.start], tokens.ends[row.end]
    text = tokens.text
    while end < len(text) and text[end] in ".)]!?":
        end += 1
    return Tumour(
        organ=row.organ,
        subsegments=row.parts,
        laterality=row.side or None,
        diameters=row.diameters,
        attenuation=row.attenuation,
        type=row.type,
        certainty=row.certainty,
        count_known=row.count_known,
        sentence=text[start:end],
        start=start,
        end=end,
    )


def _negatives(places: list[Where], tumours: Iterable[Tumour]) -> tuple[Place, ...]:
    """Places said to be free of tumours, but for those where the report has one."""
    named = (
        Place(organ=organ, subsegments=parts, laterality=side or None) for organ, parts, side in dict.fromkeys(places)
    )
    return tuple(place for place in named if not any(place.may_touch(tumour) for tumour in tumours))
