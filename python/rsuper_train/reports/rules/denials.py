# SPDX-License-Identifier: Apache-2.0
"""The places that a sentence says to be free of tumours."""

from __future__ import annotations

from rsuper_train.reports.rules import concepts as c
from rsuper_train.reports.rules.heads import Mention
from rsuper_train.reports.rules.places import ANATOMY, ELSEWHERE, UNKNOWN, Spot, Where
from rsuper_train.reports.rules.scan import item_before
from rsuper_train.reports.rules.whereabouts import Whereabouts

# What may stand between a place and its "normal", before and behind it.
BEHIND = ANATOMY | c.COMMA | c.AND | c.OR | c.SLASH | c.DEFINITE | c.PLACE
AHEAD = BEHIND | c.COLON | c.NEUTRAL | c.DASH | c.SAME | c.VERB | c.SIZE | c.MEASURE
STATED = c.SIZE | c.MEASURE
ABSENT = frozenset(("not", "none", "absent", "ruled", "excluded", "cannot", "is", "was", "were"))


class Denials(Whereabouts):
    """Adds the negatives of a sentence to its report."""

    def _deny(self, mention: Mention) -> None:
        at = mention.at
        stated = False  # "neither the spleen nor the liver contains": the place stands before the verb
        for before in range(at - 1, -1, -1):
            item = self.items[before]
            if item.kinds & c.PARTIAL and not (before and self.items[before - 1].kinds & c.OR):
                return
            if item.kinds & c.NEGATION:
                break
            stated = stated or bool(item.kinds & c.VERB)
            if item.kinds & c.SIZE or (item.kinds & c.DEFINITE and not stated):
                return
        else:
            if any(item.kinds & (c.NEUTRAL | c.PRIOR) for item in self.items[mention.first : at]):
                return
            if not self._is_absent(mention):
                return
        spots = [s for s in mention.spots if s.settled() != ELSEWHERE or s.first > at]
        if not spots:
            spots = self._listed(mention) or [s for s in self.spots if s.first < at and not s.off]
        named = [self.memory.where(spot, self.context) for spot in spots]
        places = [place for place in named if place[0]]
        if any(place[0] == ELSEWHERE for place in places) and len(places) == 1:
            return
        if not places:
            implied = mention.implied
            places = [(implied, (), "")] if implied else self.headed or ([self.context] if self.context[0] else [])
        self._add_negatives(places)

    def _is_absent(self, mention: Mention) -> bool:
        """ "is not seen" and "none", not "has resolved"."""
        words = self.parse.words.words
        denial = next((i for i in self.items[mention.last + 1 :] if i.kinds & c.NEGATION_AFTER), None)
        return denial is not None and words[denial.start] in ABSENT

    def _listed(self, mention: Mention) -> list[Spot]:
        """Places behind the last of "no nodules, masses or cysts of the spleen or pancreas"."""
        for following in self.mentions[self.mentions.index(mention) + 1 :]:
            if following.off != "negated":
                return []
            if following.spots:
                return following.spots
        return []

    def _read_normal(self) -> None:
        """ "The spleen and pancreas are unremarkable"."""
        for position, item in enumerate(self.items):
            if not item.kinds & c.NORMAL or item.kinds & c.NEUTRAL:
                continue
            if position and self.items[position - 1].kinds & c.NEGATION and self.items[position - 1].end == item.start:
                continue
            first = position
            named = 0
            while first and (self.items[first - 1].kinds & AHEAD or self._is_listed(first - 1)):
                first -= 1
                kinds = self.items[first].kinds
                if kinds & STATED and named & c.AND:
                    # "the left gland measures 12 mm, and the right gland is normal"
                    break
                named |= kinds if named or kinds & ANATOMY else 0
            last = position + 1
            opening = self.parse.words.words[item.start]
            if opening == "no" and last < len(self.items) and self.items[last].kinds & c.VERB:
                # "no abnormality is seen in the spleen"
                last += 1
            while last < len(self.items) and self.items[last].kinds & BEHIND:
                last += 1
            ahead = [s for s in self.spots if first <= s.first < position and not s.off]
            subjects = [s for s in ahead if not self._is_frame(s)]
            behind = [s for s in self.spots if position < s.first < last and not s.off]
            spots = subjects or ahead or behind
            if opening == "otherwise" and not spots:
                spots = [s for s in self.spots if s.first < position and not s.off][:1]
            known = any(not s.off for s in self.spots)
            places = [self.memory.where(spot, self.context) for spot in spots] if spots or known else self.headed
            self._add_negatives(places)

    def _is_frame(self, spot: Spot) -> bool:
        """ "In the pelvis, the bladder is normal"."""
        at = item_before(self.items, spot.first, c.DEFINITE)
        behind = self.items[spot.last + 1 : spot.last + 2]
        return at == 0 and bool(self.items[0].kinds & c.PLACE and behind and behind[0].kinds & c.COMMA)

    def _is_listed(self, position: int) -> bool:
        """ "the gallbladder and the bile ducts are normal"."""
        before = item_before(self.items, position, c.DEFINITE)
        return bool(self.items[position].kinds & c.FINDING) and before > 0 and bool(self.items[before].kinds & c.AND)

    def _add_negatives(self, places: list[Where]) -> None:
        for place in places:
            if place[0] not in ("", ELSEWHERE, UNKNOWN) and place not in self.memory.negatives:
                self.memory.negatives.append(place)
