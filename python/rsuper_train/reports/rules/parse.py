# SPDX-License-Identifier: Apache-2.0
"""All of a sentence that depends on nothing but its words."""

from __future__ import annotations

from rsuper_train.reports.rules import concepts as c
from rsuper_train.reports.rules.concepts import Phrases
from rsuper_train.reports.rules.context import mark
from rsuper_train.reports.rules.heads import Mention
from rsuper_train.reports.rules.mentions import find_mentions
from rsuper_train.reports.rules.places import ANATOMY, Spot, find_spots
from rsuper_train.reports.rules.scan import Words, scan
from rsuper_train.reports.rules.sizes import Size
from rsuper_train.reports.rules.tokens import Tokens

# Sizes by their first word, with the word behind.
Sizes = dict[int, tuple[Size, int]]
# The words of a sentence with its sizes by kind, and whether it stands under a heading.
Key = tuple[str, bool]


class Parse:
    """Concepts, places and mentions of one sentence; `kinds` is all that its concepts are."""

    __slots__ = ("items", "kinds", "mentions", "spots", "words")

    def __init__(self, tokens: Tokens, phrases: Phrases, first: int, last: int, headed: bool, sizes: Sizes) -> None:
        items = scan(tokens, phrases, first, last, sizes)
        order = {start: number for number, start in enumerate(sizes)}
        kinds = 0
        for item in items:
            kinds |= item.kinds
            if item.kinds & c.SIZE:
                item.number = order[item.start]
            item.start -= first
            item.end -= first
        self.items = items
        self.kinds = kinds
        self.words = Words(tokens.words[first : last + 1], tokens.gaps[first : last + 1])
        self.spots: list[Spot] = []
        self.mentions: list[Mention] = []
        if kinds & (c.LESION | c.SIZE):
            mark(items, self.words)
        if kinds & (ANATOMY | c.FINDING):
            self.spots = find_spots(items)
        if kinds & (c.LESION | c.ATTENUATION) or (kinds & c.SIZE and kinds & (c.LARGEST | c.ANOTHER | c.ONE)):
            self.mentions = find_mentions(items, self.spots, self.words, headed)
