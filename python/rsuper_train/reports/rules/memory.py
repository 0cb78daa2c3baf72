# SPDX-License-Identifier: Apache-2.0
"""What a report has said so far: its rows, and what the next sentence takes over."""

from __future__ import annotations

from rsuper_train.reports.rules import concepts as c
from rsuper_train.reports.rules.concepts import Phrases
from rsuper_train.reports.rules.parse import Parse
from rsuper_train.reports.rules.places import NOWHERE, UNKNOWN, Spot, Where, order
from rsuper_train.reports.rules.rows import Row
from rsuper_train.reports.rules.sizes import Size

# No report speaks of a lesion again after so many others; without a bound a text of nothing but lesions takes hours.
LOOK_BACK = 100


class Memory:
    """State while one report is read.

    Attributes:
        rows, negatives: what was read so far.
        spoke_of_organ, oversized: for the flags.
        carried: the organ that a sentence without one speaks of; `exactly`: with its parts.
        headed: the sentence stands under a heading that names a place.
        sizes: those of the sentence.
        last: rows of the last sentence with any; `group`: rows of the group that is spoken of.
    """

    def __init__(self, phrases: Phrases) -> None:
        self.phrases = phrases
        self.rows: list[Row] = []
        self.negatives: list[Where] = []
        self.spoke_of_organ = False
        self.oversized = False
        self.carried: Where = NOWHERE
        self.exactly: Where = NOWHERE
        self.headed = False
        self.sizes: list[Size] = []
        self.last: list[Row] = []
        self.group: list[Row] = []

    def start_paragraph(self) -> None:
        self.carried = self.exactly = NOWHERE
        self.forget_rows()

    def forget_rows(self) -> None:
        """The next sentence speaks of other things than of the lesions before."""
        self.last = self.group = []

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
        if not side and organ == context[0] and (self.headed or not spot.organ):
            side = context[2]
        return organ, parts, side
