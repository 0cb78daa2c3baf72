# SPDX-License-Identifier: Apache-2.0
"""Where the lesions of one sentence are: its own places, those it takes over, and which size is where."""

from __future__ import annotations

import itertools

from rsuper_train.reports.rules import concepts as c
from rsuper_train.reports.rules.heads import Mention
from rsuper_train.reports.rules.memory import Memory
from rsuper_train.reports.rules.parse import Parse
from rsuper_train.reports.rules.places import ELSEWHERE, NOWHERE, UNKNOWN, Spot, Where
from rsuper_train.reports.rules.rows import Row
from rsuper_train.reports.rules.sentences import Sentence


class Whereabouts:
    """One sentence in its report: what it says, under which heading, after what."""

    def __init__(
        self,
        memory: Memory,
        number: int,
        sentence: Sentence,
        parse: Parse,
        headed: list[Where],
    ) -> None:
        self.memory = memory
        self.number = number
        self.sentence = sentence
        self.parse = parse
        self.items = parse.items
        self.spots = parse.spots
        self.kinds = parse.kinds
        self.mentions = parse.mentions
        self.headed = headed
        self.context = self._context()
        self.made: list[Row] = []

    def _context(self) -> Where:
        """The place to speak of where none is named."""
        if self.kinds & c.THERE and self.memory.exactly[0]:
            return self.memory.exactly
        if self.headed:
            carried = self.memory.carried
            first = next((place for place in self.headed if place[0] == carried[0]), self.headed[0])
            if carried[0] == first[0] and not first[2]:
                return first[0], first[1], carried[2]
            return first
        return self.memory.carried

    def _places(self, mention: Mention, position: int, before: list[Where]) -> list[Where]:
        """Where the lesions of a mention are; several organs or sides for several lesions."""
        spots = mention.spots
        if (
            len(spots) == 1
            and (organ := spots[0].settled())
            and (spots[0].side or organ not in self.memory.phrases.paired)
        ):
            return [self.memory.where(spots[0], NOWHERE)]
        context = self._nearest(mention, before)
        if not says_where(spots):
            spots = self._coordinated(position) or spots
        if not says_where(spots) and not mention.child:
            inherited = self._inherited(mention, before)
            if inherited and not spots:
                return inherited
            if not spots and not self.headed and not mention.implied:
                spots = self._ahead(mention)
        ahead = [s for s in reversed(spots) if s.first < mention.at]
        behind = [s for s in spots if s.first > mention.at]
        general = [s for s in behind if s.first < mention.cut]
        if mention.plural and any(spot.settled() for spot in ahead + general):
            behind = general
        phrase = self._coordinated_phrase(mention)
        near = [s for s in ahead if s.first >= phrase]
        subject = [s for s in ahead if s.first < phrase]
        places: list[Where] = []
        for spot in _agreeing(near, behind, subject):
            known = (places[0][0], (), places[0][2]) if places and places[0][0] else context
            place = self.memory.where(spot, known)
            if not place[0]:
                if spot.side and not places:
                    places.append(("", (), spot.side))
                continue
            places = _add(places, place, mention.plural)
        if not places:
            return [context if context[0] else (UNKNOWN, (), context[2])]
        if not any(side for _, _, side in places) and (frame := self._frame()):
            places = [(organ, parts, frame) for organ, parts, _ in places]
        if not places[0][0]:
            organ = context[0] or UNKNOWN
            side = places[0][2] if organ in self.memory.phrases.paired or organ == UNKNOWN else ""
            places[0] = (organ, context[1] if context[0] else (), side)
        return places

    def _coordinated_phrase(self, mention: Mention) -> int:
        """ "hepatic and splenic lesions": where the noun phrase begins with all its organs."""
        phrase = mention.phrase
        if not mention.plural:
            return phrase
        for spot in reversed(mention.spots):
            between = self.items[spot.last + 1 : phrase]
            if spot.first < phrase and len(between) == 1 and between[0].kinds & (c.AND | c.SLASH):
                phrase = spot.first
        return phrase

    def _frame(self) -> str:
        """ "On the right there are ...": the side that opens the sentence."""
        opening = self.spots[0] if self.spots else None
        if opening is None or opening.first > 2 or opening.off or opening.organ or opening.parts:
            return ""
        stands = opening.first and self.items[0].kinds & c.PLACE
        return opening.side if stands and opening.side != "bilateral" else ""

    def _nearest(self, mention: Mention, before: list[Where]) -> Where:
        """Organ for spots that name none: the type's, that of the mention before, the heading's, the one spoken of."""
        if mention.child and self.memory.group:
            group = self.memory.group
            row = next((row for row in group if not row.claimed), group[0])
            if row.organ == UNKNOWN:
                return NOWHERE
            return row.organ, () if row.claimed else row.parts, row.side
        if mention.implied:
            organ = mention.implied
            if before and before[0][0] == organ:
                return before[0]
            return self.context if self.context[0] == organ else (organ, (), "")
        if before:
            return before[0][0], (), before[0][2]
        if not self.headed or not self._may_be(mention, self.headed[0][0]):
            ahead = self._ahead(mention)
            if ahead:
                return self.memory.where(ahead[0], NOWHERE)
        return self.context

    def _may_be(self, mention: Mention, organ: str) -> bool:
        return all(not spot.parts or organ in spot.parts for spot in mention.spots)

    def _inherited(self, mention: Mention, before: list[Where]) -> list[Where]:
        """Place of the mention before in this sentence, where this one names none."""
        if not before or (mention.implied and before[0][0] != mention.implied):
            return []
        subject = self.mentions[0]
        in_front = [s for s in subject.spots if s.first < subject.at]
        if in_front:
            return before
        return [(organ, (), side) for organ, _, side in before]

    def _ahead(self, mention: Mention) -> list[Spot]:
        """The place last spoken of in this sentence: "thickening of the sigmoid colon with a mass"."""
        settled = [s for s in self.spots if s.first < mention.at and not s.off and s.settled() not in ("", ELSEWHERE)]
        return settled[-1:]

    def _coordinated(self, position: int) -> list[Spot]:
        """Spots behind the next mention, for "cysts and hemangiomas in the liver"."""
        mention = self.mentions[position]
        for following in self.mentions[position + 1 : position + 4]:
            between = self.items[mention.last + 1 : following.at]
            if (
                following.other
                or following.child
                or any(i.kinds & (c.SIZE | c.SEMICOLON | c.VERB | c.PLACE) for i in between)
            ):
                return []
            if says_where(following.spots):
                return [s for s in following.spots if s.first > following.at or not mention.spots]
        return []

    def _own_places(self, mention: Mention, places: list[Where]) -> list[Where | None]:
        """For each of several sizes, the place that is said with it ("1.5 cm on the right and 1.2 cm on the left")."""
        sizes = mention.sizes
        at = [self.items.index(item) for item in sizes]
        edges = [mention.last if mention.last < at[0] else mention.first]
        for one, other in itertools.pairwise(at):
            joints = [p for p in range(one + 1, other) if self.items[p].kinds & (c.AND | c.SEMICOLON)]
            joints = joints or [p for p in range(one + 1, other) if self.items[p].kinds & c.COMMA] or [one]
            edges.append(joints[-1])
        edges.append(mention.behind)
        own: list[Where | None] = []
        for low, high, size in zip(edges, edges[1:], at, strict=False):
            spots = [s for s in self.spots if low <= s.first < high and not s.off]
            if any(s.side in ("left", "right") for s in spots):
                # "left 11 mm, both of low density"
                spots = [s for s in spots if s.side != "bilateral" or s.organ or s.parts]
            spots = [s for s in spots if s.first > size] + [s for s in reversed(spots) if s.first < size]
            place: Where | None = None
            for spot in spots:
                if place is not None and spot.first < size:
                    place = self._fill(place, spot)
                    continue
                found = self.memory.where(spot, (places[0][0], (), places[0][2] if not spot.side else ""))
                if len(places) == 1 and found[0] == places[0][0] and not found[2] and places[0][2] != "bilateral":
                    found = (*found[:2], places[0][2])
                if found[0] and found[0] != ELSEWHERE:
                    place = found if place is None else _add([place], found, False)[0]
                elif spot.side and places[0][0]:
                    place = (places[0][0], (), spot.side)
            own.append(place)
        if sum(place is not None for place in own) == 1 and len(own) > 1 and own[0] is not None:
            return [None] * len(own)
        return own

    def _fill(self, place: Where, spot: Spot) -> Where:
        """A place said behind a size, with what a place before the size adds."""
        organ, parts, side = self.memory.where(spot, (place[0], (), ""))
        if organ != place[0] or (place[2] and side not in ("", place[2])):
            return place
        return organ, place[1] or parts, place[2] or side


def _agreeing(*ranked: list[Spot]) -> list[Spot]:
    """The spots in order of rank, without the lower ones that name another organ than the higher ones."""
    chosen: list[Spot] = []
    named: set[str] = set()
    for spots in ranked:
        fit = [s for s in spots if not named or s.settled() in named or not s.settled()]
        chosen += fit
        named = named or {s.settled() for s in fit} - {""}
    return chosen


def says_where(spots: list[Spot]) -> bool:
    return any(spot.organ or spot.parts for spot in spots)


def _add(places: list[Where], place: Where, plural: bool) -> list[Where]:
    """Join a place with those known: the same organ and side gains parts; another is kept for several lesions only."""
    organ, parts, side = place
    if places and not places[0][0]:
        places = [(organ, (), places[0][2])]
    for index, (known, its_parts, its_side) in enumerate(places):
        if known == organ and (not side or not its_side or side == its_side):
            places[index] = (organ, its_parts + tuple(p for p in parts if p not in its_parts), its_side or side)
            return places
    if not places or plural:
        places.append(place)
    return places
