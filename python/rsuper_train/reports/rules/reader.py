# SPDX-License-Identifier: Apache-2.0
"""Reads the sentences of one report in order, with what each inherits from its heading and those before."""

from __future__ import annotations

from rsuper_train.reports.rules import concepts as c
from rsuper_train.reports.rules.concepts import Phrases
from rsuper_train.reports.rules.memory import Memory
from rsuper_train.reports.rules.parse import Key, Parse
from rsuper_train.reports.rules.places import ELSEWHERE, NOWHERE, Where, find_spots
from rsuper_train.reports.rules.scan import Item
from rsuper_train.reports.rules.sentences import Sentence, split
from rsuper_train.reports.rules.sizes import find_sizes
from rsuper_train.reports.rules.statement import Statement
from rsuper_train.reports.rules.tokens import Tokens

WHERE = c.ORGAN | c.PART
STATED = c.LESION | c.NORMAL
# Sentences whose parse is kept, and how long they may be; what a report says twice is short.
REMEMBERED = 8192
LONGEST_REMEMBERED = 300


class Reader:
    """Reads one report into its memory."""

    def __init__(self, tokens: Tokens, phrases: Phrases, parses: dict[Key, Parse | None]) -> None:
        self.tokens = tokens
        self.phrases = phrases
        self._parses = parses
        self.memory = Memory(phrases)
        self._paragraph = -1
        self._left: list[Item] | None = None
        self._heading_read: list[Item] | None = None
        self._headings: list[Where] = []

    def read(self) -> Memory:
        """All that the report says."""
        for number, sentence in enumerate(split(self.tokens, self.phrases)):
            if sentence.section != "past":
                self._read_sentence(number, sentence)
        return self.memory

    def _read_sentence(self, number: int, sentence: Sentence) -> None:
        memory = self.memory
        if sentence.paragraph != self._paragraph:
            self._paragraph = sentence.paragraph
            memory.start_paragraph()
        headed = self._heading(sentence)
        parse = self._parse(sentence, bool(headed))
        kinds = parse.kinds
        if headed and sentence.first == sentence.body and self._leaves(sentence, parse, headed):
            headed = []
        if kinds & WHERE or sentence.heading:
            memory.spoke_of_organ = True
        if kinds & c.FINDING and not kinds & (c.LESION | c.NEGATION):
            memory.forget_rows()
        if not kinds & STATED and not (kinds & c.SIZE and (memory.last or kinds & c.ATTENUATION)):
            if kinds & c.ATTENUATION and (kinds & c.PRONOUN or sentence.last - sentence.body < 3):
                memory.look_again(parse)
            if kinds & WHERE:
                memory.carry(parse.spots)
            return
        memory.headed = bool(headed)
        Statement(memory, number, sentence, parse, headed).read()

    def _parse(self, sentence: Sentence, headed: bool) -> Parse:
        """The concepts of a sentence; reports repeat theirs word by word, so parses are remembered."""
        tokens = self.tokens
        first, last = sentence.body, sentence.last
        sizes = find_sizes(tokens, first, last)
        self.memory.sizes = [size for size, _ in sizes.values()]
        key = self._words(first, last), headed
        parse = self._parses.get(key)
        if parse is None:
            parse = Parse(tokens, self.phrases, first, last, headed, sizes)
            if len(self._parses) >= REMEMBERED:
                self._parses.clear()
            if len(key[0]) <= LONGEST_REMEMBERED:
                # kept when it comes a second time: most sentences that are new stay the only ones
                self._parses[key] = parse if key in self._parses else None
        return parse

    def _words(self, first: int, last: int) -> str:
        """The words first..last with their sizes by kind: "a cyst of 9 mm" is parsed as "a cyst of 8 mm" was."""
        text = self.tokens.lowered
        at, end = self.tokens.starts[first], self.tokens.ends[last]
        if not self.memory.sizes:
            return text[at:end]
        pieces: list[str] = []
        for size in self.memory.sizes:
            pieces += text[at : size.start], size.kind
            at = size.end
        return "".join((*pieces, text[at:end]))

    def _heading(self, sentence: Sentence) -> list[Where]:
        if not sentence.heading or sentence.heading is self._left:
            return []
        if sentence.heading is not self._heading_read:
            self._heading_read = sentence.heading
            spots = find_spots(sentence.heading)
            self._headings = [self.memory.where(spot, NOWHERE) for spot in spots if spot.settled()]
        return self._headings

    def _leaves(self, sentence: Sentence, parse: Parse, headed: list[Where]) -> bool:
        """Whether a new line speaks of another organ than its heading, which then is none any more."""
        if not sentence.first or "n" not in self.tokens.gaps[sentence.first - 1]:
            return False
        organs = {spot.settled() for spot in parse.spots if not spot.off} - {"", ELSEWHERE}
        if organs and organs.isdisjoint(place[0] for place in headed):
            self._left = sentence.heading
            return True
        return False
