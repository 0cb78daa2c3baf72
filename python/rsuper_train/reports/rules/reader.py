# SPDX-License-Identifier: Apache-2.0
"""Reads the sentences of one report in order, with what each inherits from its heading and those before."""

from __future__ import annotations

from rsuper_train.reports.rules import concepts as c
from rsuper_train.reports.rules.concepts import Phrases
from rsuper_train.reports.rules.parse import Key, Parse
from rsuper_train.reports.rules.places import ELSEWHERE, NOWHERE, UNKNOWN, Spot, Where, find_spots, order
from rsuper_train.reports.rules.rows import Row
from rsuper_train.reports.rules.scan import Item
from rsuper_train.reports.rules.sentences import Sentence, split
from rsuper_train.reports.rules.sizes import Size, find_sizes
from rsuper_train.reports.rules.statement import LOOK_BACK, Statement
from rsuper_train.reports.rules.tokens import Tokens

WHERE = c.ORGAN | c.PART
STATED = c.LESION | c.NORMAL
# Sentences whose parse is kept, and how long they may be; what a report says twice is short.
REMEMBERED = 8192
LONGEST_REMEMBERED = 300


class Reader:
    """State while one report is read; `rows` and `negatives` are what it has said so far."""

    def __init__(self, tokens: Tokens, phrases: Phrases, parses: dict[Key, Parse | None]) -> None:
        self.tokens = tokens
        self.phrases = phrases
        self._parses = parses
        self.rows: list[Row] = []
        self.negatives: list[Where] = []
        self.spoke_of_organ = False
        self.oversized = False
        self.carried: Where = NOWHERE
        self.exactly: Where = NOWHERE  # with its parts
        self._paragraph = -1
        self.sizes: list[Size] = []
        self._headed = False
        self._left: list[Item] | None = None
        self._heading_read: list[Item] | None = None
        self._headings: list[Where] = []
        self.group: list[Row] = []
        self.last: list[Row] = []

    def read(self) -> None:
        for number, sentence in enumerate(split(self.tokens, self.phrases)):
            if sentence.section != "past":
                self._read_sentence(number, sentence)

    def _read_sentence(self, number: int, sentence: Sentence) -> None:
        if sentence.paragraph != self._paragraph:
            self.carried = self.exactly = NOWHERE
            self._paragraph = sentence.paragraph
            self.last = self.group = []
        headed = self._heading(sentence)
        parse = self._parse(sentence, bool(headed))
        kinds = parse.kinds
        if headed and sentence.first == sentence.body and self._leaves(sentence, parse, headed):
            headed = []
        if kinds & WHERE or sentence.heading:
            self.spoke_of_organ = True
        if kinds & c.FINDING and not kinds & (c.LESION | c.NEGATION):
            self.last = self.group = []
        if not kinds & STATED and not (kinds & c.SIZE and (self.last or kinds & c.ATTENUATION)):
            if kinds & c.ATTENUATION and (kinds & c.PRONOUN or sentence.last - sentence.body < 3):
                self.look_again(parse)
            if kinds & WHERE:
                self.carry(parse.spots)
            return
        self._headed = bool(headed)
        Statement(self, number, sentence, parse, headed).read()

    def _parse(self, sentence: Sentence, headed: bool) -> Parse:
        """The concepts of a sentence; reports repeat theirs word by word, so parses are remembered."""
        tokens = self.tokens
        first, last = sentence.body, sentence.last
        sizes = find_sizes(tokens, first, last)
        self.sizes = [size for size, _ in sizes.values()]
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
        if not self.sizes:
            return text[at:end]
        pieces: list[str] = []
        for size in self.sizes:
            pieces += text[at : size.start], size.kind
            at = size.end
        return "".join((*pieces, text[at:end]))

    def _heading(self, sentence: Sentence) -> list[Where]:
        if not sentence.heading or sentence.heading is self._left:
            return []
        if sentence.heading is not self._heading_read:
            self._heading_read = sentence.heading
            spots = find_spots(sentence.heading)
            self._headings = [self.where(spot, NOWHERE) for spot in spots if spot.settled()]
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

    def look_again(self, parse: Parse) -> None:
        """Give the last rows the attenuation that a sentence adds ("It is hypodense.")."""
        looks = next((i.phrase.attenuation for i in parse.items if i.kinds & c.ATTENUATION), "")
        rows = self.last
        if rows and parse.words.words[0] in ("all", "both"):
            rows = [row for row in self.rows[-10:] if row.organ == rows[-1].organ]
        for row in rows:
            if row.attenuation == UNKNOWN and looks:
                row.attenuation = looks

    def insert(self, row: Row, beside: Row) -> None:
        """Put a row before the row of the group that it is one of, or behind a group's first sized row."""
        first = max(0, len(self.rows) - LOOK_BACK)
        position = next((at for at in range(first, len(self.rows)) if self.rows[at] is beside), len(self.rows))
        if beside.diameters:
            position += 1
            while position < len(self.rows) and self.rows[position].claimed:
                position += 1
        self.rows.insert(position, row)

    def carry(self, spots: list[Spot]) -> None:
        """Let the next sentence speak of the one organ of this one, or of none."""
        organs = {s.settled(): s for s in spots if not s.off}
        organs.pop("", None)
        if len(organs) == 1:
            organ, parts, side = self.where(next(iter(organs.values())), self.carried)
            self.carried, self.exactly = (organ, (), side), (organ, parts, side)
        elif organs:
            self.carried = self.exactly = NOWHERE

    def where(self, spot: Spot, context: Where) -> Where:
        """The place of a spot; its organ and its side from the context where it names none."""
        organ = spot.settled()
        if not organ and context[0] and (not spot.parts or context[0] in spot.parts):
            organ = context[0]
        if not organ and spot.parts and not spot.weak:
            organ = next(iter(spot.parts))
        parts = order(organ, spot.of(organ), self.phrases)
        if not parts and not spot.organ and organ == context[0]:
            parts = context[1]
        side = spot.side if organ in self.phrases.paired or not organ else ""
        if not side and organ == context[0] and (self._headed or not spot.organ):
            side = context[2]
        return organ, parts, side
