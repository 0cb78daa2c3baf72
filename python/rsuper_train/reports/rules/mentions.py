# SPDX-License-Identifier: Apache-2.0
"""The lesions that a sentence mentions, each with what belongs to it: sizes, places, number, looks, certainty."""

from __future__ import annotations

import itertools

from rsuper_train.reports.rules import concepts as c
from rsuper_train.reports.rules.places import ANATOMY, Spot
from rsuper_train.reports.rules.scan import Item, Words

GENERIC = ("lesion", "mass", "nodule", "tumour", "cyst", "metastasis")
MODIFIER = (
    c.SIZE | c.ATTENUATION | ANATOMY | c.NUMBER | c.MANY | c.ANOTHER | c.ONE | c.DEFINITE | c.HIGH | c.LOW | c.LARGEST
    | c.NEUTRAL | c.PARTIAL | c.AXIS | c.NEGATION | c.BOUND | c.EXAMPLE | c.REFERENCE | c.UP_TO | c.FEATURE
)  # fmt: skip
HEADS = c.LESION | c.FINDING | c.FEATURE | c.LARGEST | c.ANOTHER | c.ONE
OPENER = c.ONE | c.DEFINITE | c.MANY | c.NUMBER | c.ANOTHER | c.NEGATION | c.EXAMPLE | c.LARGEST
LINK = c.HIGH | c.LOW | c.SAME | c.OR | c.OPEN | c.SLASH | c.COLON | c.DASH
# As adjectives ("and possible cysts") these begin a lesion of its own.
ADJECTIVES = frozenset(
    [
        "possible",
        "probable",
        "likely",
        "suspected",
        "questionable",
        "presumed",
        "suspicious",
        "apparent",
        "potential",
        "vague",
        "equivocal",
    ]
)
NEVER_ALONE = frozenset(("target", "index", "reference", "representative"))
ELLIPSES = frozenset(("another", "second", "third", "fourth", "other", "one"))
BEFORE_OPENER = c.OPEN | OPENER | c.HIGH | c.LOW | c.NEGATION
IN_PHRASE = MODIFIER | c.COMMA | c.CHANGE | c.FINDING | c.PLACE
SUBJECT = ANATOMY | c.DEFINITE | c.ONE | c.PLACE
SAID = c.ATTENUATION | c.HIGH | c.LOW
AFTER = c.EXAMPLE | c.LARGEST | c.UP_TO | c.EACH | c.RESPECTIVELY
OTHERS = c.LARGEST | c.ANOTHER | c.ONE
LOOKS = c.ATTENUATION | c.SIZE
COMPLETE = c.END | c.SEMICOLON | c.NORMAL
OPENING = c.COMMA | c.VERB | c.COLON | c.WITH
BREAKS = c.AND | c.COMMA | c.SEMICOLON | c.END | c.CLOSE
MEMBERS = c.LARGEST | c.EXAMPLE | c.BOUND
EXAMPLES = c.EXAMPLE | c.LARGEST | c.UP_TO
BEFORE_NOUN = c.DEFINITE | c.ONE | c.SIDE | c.ORGAN | c.ATTENUATION


class Mention:
    """One mention of lesions: items at..last name it, items first..behind (exclusive) belong to it.

    `phrase` is the first item of its noun phrase.

    Args:
        type: of lesion; the most specific that it is called.
        other: it is no lesion but what is measured in its stead (a stone, a duct).
        child: it names one of a group mentioned before ("the largest", "another").
        count: number of lesions; None for "multiple" and for plain plurals.
        many: "multiple", "several".
        spread: "metastatic carcinoma": a disease, and a lesion only where a size or a place is said with it.
    """

    __slots__ = (
        "added",
        "at",
        "attenuation",
        "behind",
        "certainty",
        "child",
        "count",
        "cut",
        "definite",
        "each",
        "first",
        "implied",
        "last",
        "many",
        "off",
        "other",
        "phrase",
        "plural",
        "respectively",
        "sizes",
        "spots",
        "spread",
        "subset",
        "type",
    )  # fmt: skip

    def __init__(self, at: int, items: list[Item], other: bool = False, child: bool = False) -> None:
        phrase = items[at].phrase
        self.at = self.last = self.first = self.phrase = at
        self.behind = len(items)
        self.type = phrase.lesion
        self.off = items[at].off
        self.implied = phrase.organ if phrase.lesion else ""
        self.spread = False
        self.plural = phrase.plural
        self.other = other
        self.child = child
        self.attenuation = phrase.attenuation
        self.certainty = "certain"
        self.count: int | None = None
        self.many = self.definite = self.each = self.respectively = self.subset = self.added = False
        self.cut = len(items)
        self.sizes: list[Item] = []
        self.spots: list[Spot] = []


def find_mentions(items: list[Item], spots: list[Spot], tokens: Words, headed: bool = False) -> list[Mention]:
    """All mentions of a sentence in order, those that do not count (`off`) and other measured things among them."""
    mentions = _heads(items, tokens) or _unnamed(items)
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


def _heads(items: list[Item], tokens: Words) -> list[Mention]:
    mentions: list[Mention] = []
    for position, item in enumerate(items):
        kinds = item.kinds
        if not kinds & HEADS or kinds & c.NEUTRAL:
            continue
        if kinds & c.LESION and item.off == "origin":
            continue
        if kinds & c.LESION and not (kinds & c.FEATURE and mentions):
            last = mentions[-1] if mentions else None
            if last is not None and not last.other and _is_same(items, last, position, tokens.words):
                last.last = position
                _specify(last, item)
            else:
                mentions.append(Mention(position, items))
        elif kinds & c.FINDING:
            if mentions and not mentions[-1].off and _is_that(items, mentions[-1].last, position):
                mentions[-1].off = "finding"
            if not item.off and not _in_place(items, position) and not _modifies(items, position):
                mentions.append(Mention(position, items, other=True))
        elif kinds & c.FEATURE:
            if position and items[position - 1].kinds & c.SIZE and items[position - 1].end >= item.start - 2:
                mentions.append(Mention(position, items, other=True))
        elif kinds & OTHERS and _stands_alone(items, position, tokens):
            mentions.append(Mention(position, items, other=bool(mentions) and mentions[-1].other, child=True))
    return mentions


def _unnamed(items: list[Item]) -> list[Mention]:
    """ "Segment 2: 22 x 18 mm, hypodense": a look and a size, and no noun."""
    if not any(item.kinds & c.SIZE and not item.off for item in items):
        return []
    looks = [position for position, item in enumerate(items) if item.kinds & c.ATTENUATION and not item.off]
    if not looks or any(item.kinds & (c.PRONOUN | c.FINDING | c.NORMAL | c.NEGATION) for item in items):
        return []
    mention = Mention(looks[0], items)
    mention.type = "lesion"
    return [mention]


def _specify(mention: Mention, item: Item) -> None:
    """The same lesion under another name."""
    kind = item.phrase.lesion
    if mention.type in GENERIC and (kind not in GENERIC or GENERIC.index(kind) > GENERIC.index(mention.type)):
        mention.type = kind
        mention.implied = item.phrase.organ or mention.implied
    mention.attenuation = mention.attenuation or item.phrase.attenuation


def _is_same(items: list[Item], last: Mention, position: int, words: list[str]) -> bool:
    """Whether the lesion at `position` is the one before under another name ("lesion, likely a cyst")."""
    item, before = items[position], items[last.last]
    if item.off != before.off:
        return False
    between = items[last.last + 1 : position]
    if not between:
        return item.start - before.end <= 1
    if between[-1].kinds & c.COMMA and _is_bare(items, position):
        return not item.phrase.plural and not any(i.kinds & (c.AND | c.VERB | c.SEMICOLON) for i in between)
    link = next((offset for offset in range(len(between) - 1, -1, -1) if between[offset].kinds & LINK), None)
    if link is None:
        return False
    allowed = (
        c.ONE | c.DEFINITE | c.HIGH | c.LOW | c.SAME | c.ATTENUATION | c.NEUTRAL | c.ORGAN | c.PART | c.SIDE | c.OR
    )
    allowed |= c.PARTIAL
    for inner in between[link + 1 :]:
        if inner.kinds & (c.NUMBER | c.MANY | c.SIZE | c.AND) or not inner.kinds & (allowed | c.PLACE):
            return False
        if inner.kinds & c.PLACE and not between[link].kinds & (c.HIGH | c.LOW):
            return False
    if any(inner.kinds & (c.SEMICOLON | c.END | c.VERB) for inner in between[link:]):
        return False
    if between[link].kinds & c.OR:
        return not before.phrase.plural or item.phrase.plural
    if link and between[link - 1].kinds & c.AND and _is_adjective(between[link], words):
        return False
    if between[link].kinds & (c.COLON | c.DASH) and (before.phrase.plural or not _is_bare(items, position)):
        return False
    return not (
        between[link].kinds & (c.HIGH | c.LOW)
        and link
        and between[link - 1].kinds & (c.ONE | c.ANOTHER | c.MANY | c.NUMBER)
    )


def _is_that(items: list[Item], last: int, position: int) -> bool:
    """ "hypodensity consistent with an infarct": the lesion is no tumour."""
    between = items[last + 1 : position]
    if not between or items[position].off or items[position].kinds & c.PARTIAL:
        return False
    link = next(
        (offset for offset in range(len(between) - 1, -1, -1) if between[offset].kinds & (c.HIGH | c.SAME)), None
    )
    if link is None:
        return False
    allowed = c.ONE | c.DEFINITE | c.ATTENUATION | c.ORGAN | c.SIDE | c.NEUTRAL
    return all(item.kinds & allowed for item in between[link + 1 :])


def _is_adjective(item: Item, words: list[str]) -> bool:
    return item.end - item.start == 1 and words[item.start] in ADJECTIVES


def _is_bare(items: list[Item], position: int) -> bool:
    """Nothing is said of the lesion but its name ("..., LR-5.")."""
    if position + 1 == len(items) or items[position + 1].kinds & c.LOW:
        return True
    if not items[position + 1].kinds & (c.COMMA | c.SEMICOLON | c.CLOSE):
        return False
    return position + 2 == len(items) or not items[position + 2].kinds & (c.AND | c.LESION | c.OR)


def _in_place(items: list[Item], position: int) -> bool:
    before = position - 1
    while before >= 0 and items[before].kinds & BEFORE_NOUN:
        before -= 1
    return before >= 0 and bool(items[before].kinds & c.PLACE)


def _modifies(items: list[Item], position: int) -> bool:
    """ "vascular lesion", "ductal mass": a lesion directly behind."""
    return (
        position + 1 < len(items)
        and bool(items[position + 1].kinds & c.LESION)
        and (items[position + 1].start == items[position].end)
    )


def _stands_alone(items: list[Item], position: int, tokens: Words) -> bool:
    """ "the largest measures 2 cm", "another in segment 4": no lesion is named behind."""
    item = items[position]
    if item.kinds & c.LARGEST and tokens.words[item.start] in NEVER_ALONE:
        return False
    if not item.kinds & c.LARGEST and tokens.words[item.start] not in ELLIPSES:
        return False
    if item.kinds & (c.AXIS | c.MEASURE):
        return False
    measured = False
    following = items[position + 1].start if position + 1 < len(items) else item.end + 9
    if following - item.end > (1 if item.kinds & c.LARGEST else 0):
        return False
    for behind in items[position + 1 :]:
        kinds = behind.kinds
        if kinds & (c.LESION | c.FINDING):
            return measured
        if kinds & (c.SIZE | c.MEASURE | c.PLACE) or kinds & c.PART:
            if kinds & c.SIZE and behind.off:
                continue
            if kinds & (c.MEASURE | c.PLACE) and not kinds & c.PART:
                measured = True
                continue
            return not (not measured and _lesion_follows(items, position + 1))
        if kinds & (c.LARGEST | c.ANOTHER) and not kinds & c.NEUTRAL:
            return False
        if kinds & (c.SEMICOLON | c.AND | c.COMMA) and not measured:
            continue
    return measured


def _lesion_follows(items: list[Item], position: int) -> bool:
    """Modifiers alone stand before the next lesion."""
    for item in items[position:]:
        if item.kinds & (c.LESION | c.FINDING):
            return True
        if not item.kinds & MODIFIER:
            return False
    return False


def _begin(items: list[Item], last: int, at: int) -> int:
    """First item that belongs to the mention at `at` and not to the one before it, which ends with item `last`."""
    begin = at
    opened = bool(items[at].kinds & OPENER)
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
        if kinds & c.NUMBER and items[at].start - item.end <= 8 and mention.count is None:
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
