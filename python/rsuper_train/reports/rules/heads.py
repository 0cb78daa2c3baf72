# SPDX-License-Identifier: Apache-2.0
"""What a sentence speaks of: lesions, things measured in their stead, and members of a group mentioned before."""

from __future__ import annotations

from itertools import pairwise

from rsuper_train.reports.rules import concepts as c
from rsuper_train.reports.rules.places import ANATOMY, Spot
from rsuper_train.reports.rules.scan import Item, Words, item_before

GENERIC = ("lesion", "mass", "nodule", "tumour", "cyst", "metastasis")
MODIFIER = (
    c.SIZE | c.ATTENUATION | ANATOMY | c.NUMBER | c.MANY | c.ANOTHER | c.ONE | c.DEFINITE | c.HIGH | c.LOW | c.LARGEST
    | c.NEUTRAL | c.PARTIAL | c.AXIS | c.NEGATION | c.BOUND | c.EXAMPLE | c.REFERENCE | c.UP_TO | c.FEATURE
)  # fmt: skip
BREAKS = c.AND | c.VERB | c.SEMICOLON
DOUBTS = c.HIGH | c.LOW
HEADS = c.LESION | c.FINDING | c.FEATURE | c.LARGEST | c.ANOTHER | c.ONE
LINK = c.HIGH | c.LOW | c.SAME | c.OR | c.OPEN | c.SLASH | c.COLON | c.DASH
# As adjectives ("and possible cysts") these begin a lesion of its own.
ADJECTIVES = frozenset((
    "possible", "probable", "likely", "suspected", "questionable", "presumed", "suspicious", "apparent", "potential",
    "vague", "equivocal",
))  # fmt: skip
NEVER_ALONE = frozenset(("target", "index", "reference", "representative"))
ELLIPSES = frozenset(("another", "second", "third", "fourth", "other", "one"))
OTHERS = c.LARGEST | c.ANOTHER | c.ONE
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


def find_heads(items: list[Item], tokens: Words) -> list[Mention]:
    mentions: list[Mention] = []
    for position, item in enumerate(items):
        kinds = item.kinds
        if not kinds & HEADS or kinds & c.NEUTRAL:
            continue
        if kinds & c.LESION and item.off == "origin":
            continue
        if kinds & c.LESION and not (kinds & c.FEATURE and mentions):
            last = mentions[-1] if mentions else None
            if last is not None and last.other and _is_doubted(items, position):
                last = next((mention for mention in reversed(mentions) if not mention.other), last)
            if last is not None and not last.other and _is_same(items, last, position, tokens.words):
                last.last = position
                if items[position - 1].kinds & DOUBTS:
                    last.certainty = "low" if items[position - 1].kinds & c.LOW else "high"
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


def find_unnamed(items: list[Item]) -> list[Mention]:
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
        # "with washout and capsule, LR-5": the "and" joins features
        parted = (i.kinds & BREAKS and not (i.kinds & c.AND and j.kinds & c.FEATURE) for i, j in pairwise(between))
        return not item.phrase.plural and not any(parted)
    link = next((offset for offset in range(len(between) - 1, -1, -1) if between[offset].kinds & LINK), None)
    if link is None:
        return False
    allowed = (
        c.ONE | c.DEFINITE | c.HIGH | c.LOW | c.SAME | c.ATTENUATION | c.NEUTRAL | c.ORGAN | c.PART | c.SIDE | c.OR
    )
    allowed |= c.PARTIAL
    if between[link].kinds & c.SAME and not any(i.kinds & c.SIZE for i in items[max(0, last.at - 4) : last.last]):
        # "the lesion of segment 4 is a 9 mm cyst"
        allowed |= c.SIZE
    for inner in between[link + 1 :]:
        if inner.kinds & (c.NUMBER | c.MANY | c.AND) or not inner.kinds & (allowed | c.PLACE):
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


def _is_doubted(items: list[Item], position: int) -> bool:
    """ "suspicious for ovarian carcinoma"."""
    before = item_before(items, position, BEFORE_NOUN)
    return before >= 0 and bool(items[before].kinds & DOUBTS)


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
    before = item_before(items, position, BEFORE_NOUN)
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
        if kinds & c.OF and behind is items[position + 1] and item.kinds & c.LARGEST:
            # "the larger of the two cysts"
            continue
        if kinds & (c.SIZE | c.MEASURE | c.PLACE) or kinds & c.PART:
            if kinds & c.SIZE and behind.off:
                continue
            if kinds & (c.MEASURE | c.PLACE) and not kinds & c.PART:
                measured = True
                continue
            return not (not measured and _lesion_follows(items, position + 1))
        if kinds & (c.LARGEST | c.ANOTHER) and not kinds & c.NEUTRAL:
            return False
        if kinds & c.ONE and not measured and tokens.words[behind.start] == "one":
            # "another hypodense one"
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
