# SPDX-License-Identifier: Apache-2.0
"""The places that a sentence names: organs, parts and sides, joined from words like "upper pole of the left kidney"."""

from __future__ import annotations

from rsuper_train.reports.rules import concepts as c
from rsuper_train.reports.rules.concepts import Phrases
from rsuper_train.reports.rules.scan import MARK, Item, item_before

ANATOMY = c.ORGAN | c.PART | c.SIDE | c.ELSEWHERE
NAMES = ANATOMY | c.FINDING
JOINTS = c.COMMA | c.AND | c.OR | c.SLASH | c.OPEN | c.CLOSE | c.DASH | c.COLON
GLUE = JOINTS | c.PLACE | c.DEFINITE | c.ONE | c.NEUTRAL | c.ATTENUATION
# Longer stretches of other words do not join a part and its organ.
REACH = 5
ELSEWHERE = "elsewhere"
UNKNOWN = "unknown"
# (organ, parts, side), "" for what is not said
Where = tuple[str, tuple[str, ...], str]
NOWHERE: Where = ("", (), "")
WHOLE = c.ORGAN | c.ELSEWHERE
BEFORE_NOUN = c.DEFINITE | c.ONE | c.SIDE
OUTSIDE = c.ELSEWHERE | c.FINDING
LISTS = c.COMMA | c.AND | c.OR | c.SLASH
NAMED = c.ORGAN | c.PART
ARTICLES = c.DEFINITE | c.SIDE


class Spot:
    """One place: `organ` is "" where only a part or a side is named, "elsewhere" for anatomy outside the table.

    `parts` are by organ; `exact` are the numbered segments, which win over lobes. first..last are positions of items.
    """

    __slots__ = ("end", "exact", "first", "last", "off", "organ", "parts", "side", "sides", "start", "weak")

    def __init__(self, position: int, item: Item) -> None:
        self.organ = ""
        self.parts: dict[str, tuple[str, ...]] = {}
        self.exact: tuple[str, ...] = ()
        self.side = ""
        self.sides: list[str] = []
        self.first = self.last = position
        self.start, self.end = item.start, item.end
        self.off = item.off
        self.weak = False

    def of(self, organ: str) -> tuple[str, ...]:
        """Its parts within the organ."""
        if organ == "liver" and self.exact:
            return self.exact
        return self.parts.get(organ, ())

    def settled(self) -> str:
        """Its organ: the named one, or that of parts that only one organ has; "" where it needs a context."""
        if self.organ or self.weak or not self.parts:
            return self.organ
        return next(iter(self.parts)) if len(self.parts) == 1 else ""

    def take(self, item: Item, position: int) -> None:
        phrase = item.phrase
        if item.kinds & WHOLE and not self.exact and item.phrase.organ not in self.parts:
            self.parts = {}
        if item.kinds & c.ORGAN:
            self.organ = phrase.organ
        elif item.kinds & c.ELSEWHERE or item.kinds & c.FINDING:
            self.organ = ELSEWHERE
        if item.parts:
            if phrase is MARK:
                self.exact = tuple(dict.fromkeys(self.exact + item.parts["liver"]))
            old = self.parts
            common = [organ for organ in item.parts if organ in old] if old else list(item.parts)
            self.weak = phrase.weak and (self.weak or not old)
            self.parts = {organ: tuple(dict.fromkeys(old.get(organ, ()) + item.parts[organ])) for organ in common}
        side = side_of(item.kinds)
        if side:
            self.sides.append(side)
            self.side = side if self.side in ("", side) else "bilateral"
        self.last, self.end = position, item.end


def side_of(kinds: int) -> str:
    if not kinds & c.SIDE:
        return ""
    return "left" if kinds & c.LEFT else "right" if kinds & c.RIGHT else "bilateral"


def find_spots(items: list[Item]) -> list[Spot]:
    """All places of a sentence in order, landmarks (`off`) among them."""
    spots: list[Spot] = []
    current: Spot | None = None
    joints = 0
    for position, item in enumerate(items):
        kinds = item.kinds
        if kinds & c.LESION:
            current = None
        elif kinds & NAMES and (kinds & ANATOMY or _is_location(items, position)):
            if current is not None and _joins(current, item, position, items, joints):
                current.take(item, position)
            else:
                current = Spot(position, item)
                current.take(item, position)
                spots.append(current)
            joints = 0
        elif kinds & GLUE:
            joints |= kinds
        else:
            current = None
    return spots


def _is_location(items: list[Item], position: int) -> bool:
    """ "in the bile duct"."""
    before = item_before(items, position, BEFORE_NOUN)
    return before >= 0 and bool(items[before].kinds & c.PLACE)


def _joins(spot: Spot, item: Item, position: int, items: list[Item], joints: int) -> bool:
    if item.start - spot.end > REACH or item.off != spot.off or spot.organ == ELSEWHERE:
        return False
    owns = _owns(items, position)
    if item.kinds & OUTSIDE and not item.kinds & c.ORGAN:
        return owns and not spot.organ and not spot.exact
    listed = joints & LISTS
    if item.kinds & c.ORGAN:
        organ = item.phrase.organ
        if spot.organ:
            return spot.organ == organ and not listed
        return (not spot.parts or organ in spot.parts or (owns and not spot.exact)) and not (
            spot.side and not spot.parts and joints & c.COMMA
        )
    if item.parts:
        if listed and spot.organ + spot.side and _names_more(items, position):
            return False
        if spot.organ:
            return spot.organ in item.parts
        if spot.parts:
            return any(organ in spot.parts for organ in item.parts)
        return not listed or not spot.side
    following = items[position + 1].kinds if position + 1 < len(items) else 0
    if (spot.organ or spot.parts) and (listed or spot.side) and following & NAMED:
        return False
    if not spot.side:
        return True
    return not spot.organ and not spot.parts and bool(listed)


def _owns(items: list[Item], position: int) -> bool:
    """ "left lobe of the prostate": the part is that of this anatomy, whatever it would be of otherwise."""
    before = item_before(items, position, ARTICLES)
    return before >= 0 and bool(items[before].kinds & c.OF)


def _names_more(items: list[Item], position: int) -> bool:
    """The part is followed by its own side or organ: "and lower pole of the left kidney"."""
    for item in items[position + 1 : position + 4]:
        if item.kinds & (c.ORGAN | c.SIDE):
            return True
        if not item.kinds & (c.PLACE | c.DEFINITE):
            return False
    return False


def order(organ: str, parts: tuple[str, ...], phrases: Phrases) -> tuple[str, ...]:
    """Parts in the vocabulary's order."""
    if len(parts) < 2:
        return parts
    positions = phrases.order.get(organ, {})
    return tuple(sorted(dict.fromkeys(parts), key=lambda part: positions.get(part, 0)))
