# SPDX-License-Identifier: Apache-2.0
"""The lesions that a sentence mentions, each with what belongs to it: sizes, places, number, looks, certainty."""

from __future__ import annotations

import itertools

from rsuper_train.reports.rules import concepts as c
from rsuper_train.reports.rules.context import MONTHS
from rsuper_train.reports.rules.heads import MODIFIER, Mention, find_heads, find_unnamed
from rsuper_train.reports.rules.places import ANATOMY, Spot
from rsuper_train.reports.rules.scan import Item, Words

OPENER = c.ONE | c.DEFINITE | c.MANY | c.NUMBER | c.ANOTHER | c.NEGATION | c.EXAMPLE | c.LARGEST
BEFORE_OPENER = c.OPEN | OPENER | c.HIGH | c.LOW | c.NEGATION
IN_PHRASE = MODIFIER | c.COMMA | c.CHANGE | c.FINDING | c.PLACE
SUBJECT = ANATOMY | c.DEFINITE | c.ONE | c.PLACE
SAID = c.ATTENUATION | c.HIGH | c.LOW
AFTER = c.EXAMPLE | c.LARGEST | c.UP_TO | c.EACH | c.RESPECTIVELY
STATES = c.VERB | c.COLON | c.WITH
LOOKS = c.ATTENUATION | c.SIZE
COMPLETE = c.END | c.SEMICOLON | c.NORMAL
OPENING = c.COMMA | c.VERB | c.COLON | c.WITH
BREAKS = c.AND | c.COMMA | c.SEMICOLON | c.END | c.CLOSE
MEMBERS = c.LARGEST | c.EXAMPLE | c.BOUND
EXAMPLES = c.EXAMPLE | c.LARGEST | c.UP_TO


def find_mentions(items: list[Item], spots: list[Spot], tokens: Words, headed: bool = False) -> list[Mention]:
    """All mentions of a sentence in order, those that do not count (`off`) and other measured things among them."""
    mentions = find_heads(items, tokens) or find_unnamed(items)
    if not mentions:
        return mentions
    last = -1
    for position, mention in enumerate(mentions):
        mention.phrase = _begin(items, last, mention.at)
        mention.first = _with_subject(items, last, mention.phrase) if position else _first(items, mention.phrase)
        if position:
            mentions[position - 1].behind = mention.first
        last = mention.last
    for mention in mentions:
        mention.behind = _end(items, mention.last, mention.behind)
        _read_number(mention, items, tokens)
        _read_looks(mention, items)
        if (
            mention.at == mention.last
            and items[mention.at].start
            and tokens.words[items[mention.at].start - 1] == "metastatic"
        ):
            mention.spread, mention.implied = True, ""
    _share_sizes(mentions, items, headed)
    _share_spots(mentions, spots, items)
    return mentions


def _begin(items: list[Item], last: int, at: int) -> int:
    """First item that belongs to the mention at `at` and not to the one before it, which ends with item `last`."""
    begin = at
    opened = bool(items[at].kinds & (OPENER & ~c.ONE))  # "a calcified one"
    while begin - 1 > last:
        kinds = items[begin - 1].kinds
        if kinds & c.COMMA and not opened:
            back = items[max(last + 1, begin - 5) : begin - 1]
            looks = back and back[-1].kinds & LOOKS
            if not (looks and any(item.kinds & (OPENER | c.AND) for item in back)):
                break
        elif not kinds & MODIFIER or (opened and not kinds & BEFORE_OPENER):
            break
        if kinds & OPENER:
            opened = True
        begin -= 1
    return begin


def _end(items: list[Item], last: int, behind: int) -> int:
    """Where its words end: before a statement of its own ("...; the right kidney is normal")."""
    if items[0].kinds & c.END:
        return behind
    for position in range(last + 1, behind):
        if items[position].kinds & c.NORMAL and not items[position].kinds & c.NEUTRAL:
            while position > last + 1 and not items[position].kinds & BREAKS:
                position -= 1
            return position
    return behind


def _first(items: list[Item], begin: int) -> int:
    """Where the first mention's words begin: behind a statement that is complete ("unremarkable except for")."""
    for position in range(begin - 1, -1, -1):
        if items[position].kinds & COMPLETE and not items[position].kinds & c.NEUTRAL:
            return position + 1
    return 0


def _with_subject(items: list[Item], last: int, begin: int) -> int:
    """Add the place that opens the clause: "and in the left kidney (there is) a mass"."""
    position = begin
    while position - 1 > last and items[position - 1].kinds & OPENING:
        position -= 1
    anatomy = position
    while anatomy - 1 > last and items[anatomy - 1].kinds & SUBJECT:
        anatomy -= 1
    if anatomy == position or anatomy - 1 <= last:
        return begin
    if position == begin and not items[anatomy].kinds & c.PLACE:
        return begin
    if not items[anatomy].kinds & c.PLACE and not any(i.kinds & STATES for i in items[position:begin]):
        return begin
    before = items[anatomy - 1].kinds
    if before & BREAKS:
        return anatomy
    return begin


def _read_number(mention: Mention, items: list[Item], tokens: Words) -> None:
    """Count, and how the mention stands to those before it."""
    at = mention.at
    for item in reversed(items[mention.first : at]):
        kinds = item.kinds
        if not kinds & IN_PHRASE:
            break
        if kinds & c.PLACE and tokens.words[item.start] != "of":
            break
        if (
            kinds & c.NUMBER
            and items[at].start - item.end <= 8
            and mention.count is None
            and tokens.words[item.end] not in MONTHS
        ):
            mention.count = item.number
        if kinds & c.MANY:
            mention.many = True
        if kinds & c.DEFINITE:
            mention.definite = True
        if kinds & MEMBERS:
            mention.subset = True
        if kinds & c.ANOTHER:
            mention.added = True
    if mention.count is None and not mention.plural and not mention.many:
        mention.count = 1
    if mention.count is not None and mention.count > 1:
        mention.plural = True
    if mention.many:
        mention.count = None
        mention.plural = True
    for position in range(mention.last + 1, mention.behind):
        item = items[position]
        if not item.kinds & AFTER:
            continue
        if item.kinds & EXAMPLES and not item.kinds & c.AXIS:
            mention.cut = min(mention.cut, position)
        if item.kinds & c.EACH:
            mention.each = True
            if mention.count is None and tokens.words[item.start] == "both":
                mention.count = 2
        if item.kinds & c.RESPECTIVELY:
            mention.respectively = True


def _read_looks(mention: Mention, items: list[Item]) -> None:
    """Attenuation and certainty."""
    found = ""
    for position in range(mention.first, mention.behind):
        item = items[position]
        kinds = item.kinds
        if not kinds & SAID:
            continue
        if kinds & c.ATTENUATION and not item.off and not _denied(items, position):
            kind = item.phrase.attenuation
            if _is_of_whole(items, position):
                continue
            if (
                position + 1 < len(items)
                and items[position + 1].kinds & c.FINDING
                and items[position + 1].start == item.end
            ):
                continue
            if not found or (
                found == "mixed" and kind != "mixed" and items[position - 1].phrase.attenuation == "mixed"
            ):
                found = kind
        if kinds & c.LOW and not (kinds & c.PRIOR and _between_sizes(items, position)):
            mention.certainty = "low"
        elif kinds & c.HIGH and mention.certainty == "certain":
            mention.certainty = "high"
    mention.attenuation = found or mention.attenuation


def _is_of_whole(items: list[Item], position: int) -> bool:
    """ "within the hypodense liver": the look of the organ, not of a lesion in it."""
    if not position or not items[position - 1].kinds & (c.DEFINITE | c.PLACE) or items[position].kinds & c.LESION:
        return False
    behind = position + 1
    while behind < len(items) and items[behind].kinds & (c.ORGAN | c.SIDE):
        behind += 1
    if behind == position + 1 or not items[behind - 1].kinds & c.ORGAN:
        return False
    return behind == len(items) or bool(items[behind].kinds & (c.VERB | c.COMMA | c.ONE | c.DEFINITE | c.END))


def _denied(items: list[Item], position: int) -> bool:
    return position > 0 and bool(items[position - 1].kinds & c.NEGATION) and not items[position].kinds & c.LESION


def _between_sizes(items: list[Item], position: int) -> bool:
    return position + 1 < len(items) and bool(items[position + 1].kinds & c.SIZE)


def _share_sizes(mentions: list[Mention], items: list[Item], headed: bool) -> None:
    for mention in mentions:
        for position in range(mention.first, mention.behind):
            item = items[position]
            if item.kinds & c.SIZE and not item.off:
                mention.sizes.append(item)
            elif item.kinds & c.SEMICOLON and mention.sizes and mention.count == 1 and position > mention.last:
                break
        if (
            mention.sizes
            and mention.sizes[0].start < items[mention.phrase].start
            and items[mention.phrase].kinds & OPENER
        ):
            mention.sizes = [
                s for s in mention.sizes if not _is_of_organ(items, items.index(s), mention.phrase, headed)
            ]
        if mention.count == 1 and len(mention.sizes) > 1:
            now = [i.start for i in items[mention.first : mention.behind] if i.kinds & c.NOW]
            if now and mention.sizes[0].start < now[-1] < mention.sizes[-1].start:
                mention.sizes = [item for item in mention.sizes if item.start > now[-1]]


def _is_of_organ(items: list[Item], position: int, phrase: int, headed: bool) -> bool:
    """ "the right kidney, 11.4 cm, with a 13 mm cyst": a size that is said before a new noun phrase opens."""
    if not headed and not any(item.kinds & c.ORGAN for item in items[:position]):
        return False
    return position < phrase and any(item.kinds & (c.COMMA | c.WITH | c.VERB) for item in items[position + 1 : phrase])


def _share_spots(mentions: list[Mention], spots: list[Spot], items: list[Item]) -> None:
    for mention in mentions:
        mention.spots = [s for s in spots if mention.first <= s.first < mention.behind and not s.off]
    for mention, following in itertools.pairwise(mentions):
        if not mention.spots and following.other and not following.sizes:
            mention.spots = [s for s in following.spots if s.first > following.at]
