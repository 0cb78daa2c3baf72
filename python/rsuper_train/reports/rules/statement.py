# SPDX-License-Identifier: Apache-2.0
"""One sentence that is about places, lesions or sizes: its rows, and what it adds to those before."""

from __future__ import annotations

from rsuper_kernels.findings import LARGEST_DIAMETER
from rsuper_train.reports.rules import concepts as c
from rsuper_train.reports.rules.denials import Denials
from rsuper_train.reports.rules.heads import GENERIC, Mention
from rsuper_train.reports.rules.memory import LOOK_BACK
from rsuper_train.reports.rules.places import ANATOMY, ELSEWHERE, UNKNOWN, Where, order
from rsuper_train.reports.rules.rows import TOLERANCE, Row, complete, same_place, same_size, same_type
from rsuper_train.reports.rules.scan import Item, kinds_of
from rsuper_train.reports.rules.whereabouts import says_where


class Statement(Denials):
    """Reads one sentence into its report."""

    def read(self) -> None:
        before: Mention | None = None
        places: list[Where] = []
        for position, mention in enumerate(self.mentions):
            if mention.other:
                continue
            if mention.off:
                if mention.off == "negated":
                    self._deny(mention)
                continue
            if self._is_advice(mention):
                continue
            if mention.spread and not mention.sizes and not says_where(mention.spots):
                continue
            if (
                self.made
                and mention.definite
                and not (mention.sizes or mention.spots or mention.plural or mention.added)
            ):
                # "... and this lesion is heterogeneous"
                complete(self.made[-1], self._row(mention, (self.made[-1].organ, (), ""), ()))
                continue
            places = self._places(mention, position, places if before is not None else [])
            before = mention
            if any(place[0] == ELSEWHERE for place in places):
                self.memory.last, self.memory.group = [], []
                continue
            self._make_rows(mention, places)
        if not any(not mention.off for mention in self.mentions):
            self._go_on()
        if self.kinds & c.NORMAL:
            self._read_normal()
        self._carry()
        if self.made:
            self.memory.last = self.made

    def _is_advice(self, mention: Mention) -> bool:
        """ "nodules smaller than 6 mm need no follow-up"."""
        if not self.kinds & c.ADVICE or mention.sizes:
            return False
        if self.memory.rows and not any(spot.settled() for spot in mention.spots):
            return True
        return any(i.kinds & c.SIZE and i.off == "bound" for i in self.items[mention.first : mention.behind])

    def _make_rows(self, mention: Mention, places: list[Where]) -> None:
        if mention.child:
            self._make_child(mention, places)
            return
        sized = self._sized(mention, places)
        rows = [self._row(mention, place, diameters) for diameters, place in sized]
        if mention.each and len(rows) == 1 and (mention.count or 0) > 1:
            rows += [rows[0].copy() for _ in range((mention.count or 1) - 1)]
        if mention.count is not None:
            missing = mention.count - len(rows)
            organ, parts, side = places[0]
            if mention.subset and all(spot.first > mention.at for spot in mention.spots if spot.parts):
                # "the larger of the two cysts lies in segment 8"
                parts = ()
            spread = self._spread(places, missing) if missing > 0 and not rows else [(organ, parts, side)] * missing
            rows += [self._row(mention, place, ()) for place in spread]
        elif (
            mention.many
            or not rows
            or len(rows) == 1
            or any(i.kinds & (c.UP_TO | c.LARGEST) for i in self.items[mention.first : mention.behind])
        ):
            for place in places[:1] if sized and self._is_one_side(mention, places) else places:
                row = self._row(mention, place, ())
                row.count_known = False
                rows.append(row)
        if self.memory.group and (mention.subset or self._is_member(mention, rows)) and self._claim(mention, rows):
            return
        self._settle(mention, rows)

    def _spread(self, places: list[Where], count: int) -> list[Where]:
        """One place for each of several lesions."""
        if len(places) == count:
            return places
        return [places[min(index, len(places) - 1)] for index in range(count)]

    def _sized(self, mention: Mention, places: list[Where]) -> list[tuple[tuple[float, ...], Where]]:
        """(diameters, place) of each size of a mention."""
        sizes = mention.sizes
        if not sizes:
            return []
        if len(sizes) == 1:
            place = places[0]
            if mention.plural and (
                any(spot.first > mention.cut for spot in mention.spots) or self._is_one_side(mention, places)
            ):
                place = self._own_places(mention, places)[0] or place
            return [(self._diameters(sizes[0]), place)]
        if self._one_lesion(mention):
            joined = tuple(diameter for item in sizes for diameter in self._diameters(item))[:3]
            return [(joined, places[0])]
        own = [None] * len(sizes) if mention.respectively else self._own_places(mention, places)
        if mention.count == 1 and not any(place is not None for place in own):
            return [(self._diameters(sizes[0]), places[0])]
        shared = places
        if not any(place is not None for place in own) and len(places) == 1:
            organ, parts, side = places[0]
            if len(parts) == len(sizes) and (mention.respectively or mention.count == len(sizes)):
                shared = [(organ, (part,), side) for part in parts]
            if side == "bilateral" and mention.respectively:
                sides = next((spot.sides for spot in mention.spots if len(spot.sides) == len(sizes)), [])
                shared = [(organ, parts, one) for one in sides] or shared
        result = []
        for index, item in enumerate(sizes):
            place = own[index] or (shared[index] if len(shared) == len(sizes) else shared[0])
            result.append((self._diameters(item), place))
        return result

    def _is_one_side(self, mention: Mention, places: list[Where]) -> bool:
        """ "bilateral cysts, 3 cm on the left": the size is that of one side."""
        if places[0][2] != "bilateral" or len(mention.sizes) != 1:
            return False
        at = self.items.index(mention.sizes[0])
        return any(spot.first > at and spot.side in ("left", "right") for spot in mention.spots)

    def _one_lesion(self, mention: Mention) -> bool:
        """ "3.2 cm AP and 2.8 cm transverse" are diameters of one lesion."""
        if mention.count != 1 or len(mention.sizes) > 3:
            return False
        first, last = mention.sizes[0], mention.sizes[-1]
        inner = [i for i in self.items if first.end <= i.start <= last.end + 2]
        named = any(i.kinds & c.AXIS or (i.size is not None and i.size.axis) for i in inner)
        return named and not any(i.kinds & ANATOMY for i in inner)

    def _diameters(self, item: Item) -> tuple[float, ...]:
        """Of a size; () for an impossible one, which is flagged."""
        size = self.memory.sizes[item.number]
        diameters = size.upper if item.changed else size.diameters
        if max(diameters) <= LARGEST_DIAMETER:
            return diameters
        self.memory.oversized = True
        return ()

    def _row(self, mention: Mention, place: Where, diameters: tuple[float, ...]) -> Row:
        organ, parts, side = place
        return Row(
            organ=organ or UNKNOWN,
            parts=order(organ, parts, self.memory.phrases),
            side=side if organ in self.memory.phrases.paired or organ in ("", UNKNOWN) else "",
            diameters=diameters,
            attenuation=mention.attenuation or UNKNOWN,
            type=mention.type or "lesion",
            certainty=mention.certainty,
            count_known=True,
            sentence=self.number,
            start=self.sentence.first,
            end=self.sentence.last,
            impression=self.sentence.section == "impression",
        )

    def _make_child(self, mention: Mention, places: list[Where]) -> None:
        """ "the largest 2 cm", "another in segment 4": one of the group mentioned last."""
        group = self.memory.group
        if not group:
            self._make_remainder(mention, places)
            return
        sized = self._sized(mention, places) or ([((), places[0])] if mention.spots else [])
        self._claim(mention, [self._row(mention, place, diameters) for diameters, place in sized])

    def _make_remainder(self, mention: Mention, places: list[Where]) -> None:
        """ "no nodule apart from one of 4 mm": what is left of lesions that are not there."""
        gone = [m for m in self.mentions[: self.mentions.index(mention)] if m.off == "negated" and not m.other]
        if not gone or not mention.sizes:
            return
        mention.type = gone[-1].type
        mention.attenuation = mention.attenuation or gone[-1].attenuation
        self._settle(mention, [self._row(mention, place, size) for size, place in self._sized(mention, places)])

    def _claim(self, mention: Mention, rows: list[Row]) -> bool:
        """Let rows be members of the group mentioned last; False where they cannot be."""
        group = self.memory.group
        if rows and rows[0].organ not in (group[0].organ, UNKNOWN):
            return False
        for row in rows:
            if not row.diameters and row.count_known is False:
                continue
            if row.type in GENERIC[:4]:
                row.type, row.certainty = group[0].type, group[0].certainty
            if row.attenuation == UNKNOWN:
                row.attenuation = group[0].attenuation
            twin = next((r for r in group if not r.claimed and self._is_twin(r, row)), None)
            free = twin or next((r for r in group if r.count_known and not r.diameters and not r.claimed), None)
            if free is not None:
                free.diameters = free.diameters or row.diameters
                free.parts = row.parts or free.parts
                free.side = row.side or free.side
                if row.attenuation != UNKNOWN:
                    free.attenuation = row.attenuation
                free.claimed = True
                self.made.append(free)
            elif not (mention.child and group[0].diameters and len(group) == 1 and not row.diameters):
                row.claimed = True
                self.memory.insert(row, group[0])
                if len(group) < LOOK_BACK:
                    group.append(row)
                self.made.append(row)
        return True

    def _is_twin(self, one: Row, row: Row) -> bool:
        """ "the larger, 3.1 cm" of a group with a lesion of 31 mm; in one sentence 9 and 10 mm are two."""
        tolerance = TOLERANCE if one.sentence < self.number else 0.0
        return same_place(one, row) and same_size(one.diameters, row.diameters, tolerance)

    def _is_member(self, mention: Mention, rows: list[Row]) -> bool:
        """ "Three metastases. A segment 2 metastasis measures 9 mm": one of those counted before."""
        if mention.count != 1 or mention.added or len(rows) != 1 or not rows[0].diameters:
            return False
        [row] = rows
        return any(
            r.organ == row.organ and r.type == row.type and same_place(r, row)
            for r in self.memory.group
            if r.count_known and not r.diameters and not r.claimed and (mention.definite or r.sentence < self.number)
        )

    def _settle(self, mention: Mention, rows: list[Row]) -> None:
        """Add the rows, or see that an earlier sentence has them already."""
        added = [row for row in rows if not self._said_before(mention, row, rows)]
        self.memory.rows += added
        self.made += added
        if mention.plural or len(rows) > 1:
            self.memory.group = added or self.memory.group
        elif added:
            self.memory.group = added

    def _said_before(self, mention: Mention, row: Row, rows: list[Row]) -> bool:
        earlier = [
            r
            for r in self.memory.rows[-LOOK_BACK:]
            if r.sentence < self.number and same_place(r, row) and r not in self.made
        ]
        if not earlier:
            return False
        if row.diameters:
            # two lesions of 8 and 9 mm are findings of their own; a summary rounds
            tolerance = TOLERANCE if row.impression or mention.definite else 0.0
            twin = next(
                (r for r in earlier if same_size(r.diameters, row.diameters, tolerance) and same_type(r, row)), None
            )
            last = self.memory.last
            if (
                twin is None
                and last
                and last[-1].organ == UNKNOWN
                and not last[-1].diameters
                and same_type(last[-1], row)
            ):
                twin = last[-1]
                twin.side, twin.parts = row.side, row.parts
            if twin is None and (mention.definite or row.impression) and not mention.added:
                recent = self.memory.last if mention.definite and not row.impression else earlier
                twin = next(
                    (
                        r
                        for r in recent
                        if not r.diameters and r.count_known and same_place(r, row) and same_type(r, row)
                    ),
                    None,
                )
            if twin is None or (mention.added and not row.impression):
                return False
            complete(twin, row)
            self.made.append(twin)
            return True
        if mention.added and not row.impression:
            return False
        if row.impression or mention.definite or self._explains(mention):
            fit = [
                r
                for r in earlier
                if same_type(r, row)
                and (row.impression or r.type == row.type or mention.definite or self._explains(mention))
            ]
            if row.organ == UNKNOWN or not row.count_known or row.impression:
                pool = fit
            else:
                pool = [r for r in fit if r in self.memory.last] or fit
            if not pool:
                return False
            best = next((r for r in pool if r.type == row.type), pool[-1] if not row.impression else pool[0])
            everyone = best in self.memory.last and self.parse.words.words[0] in ("all", "both")
            for known in self.memory.last if everyone else [best]:
                complete(known, row)
            return True
        return False

    def _explains(self, mention: Mention) -> bool:
        """ "Findings are consistent with metastasis": no lesion of its own."""
        ahead = self.items[: mention.at]
        if (
            self.sentence.last - self.sentence.body < 4
            and self.memory.last
            and not mention.spots
            and not mention.plural
        ):
            return not mention.sizes and not mention.added
        return (
            any(item.kinds & c.PRONOUN for item in ahead[:3])
            and any(item.kinds & (c.HIGH | c.LOW | c.SAME) for item in ahead)
            and not mention.sizes
        )

    def _go_on(self) -> None:
        """ "It measures 2 cm.", "Hypodense.": more about the last lesions."""
        last = self.memory.last
        if not last or any(mention.other for mention in self.mentions):
            return
        kinds = kinds_of(self.items[:4])
        starts = self.items and self.items[0].kinds & (c.MEASURE | c.SIZE | c.PRONOUN | c.EACH | c.PRIOR | c.NOW)
        if not (kinds & c.PRONOUN or starts) or any(
            s.settled() not in ("", last[0].organ) for s in self.spots if not s.off
        ):
            return
        if any(item.kinds & (c.FINDING | c.LESION) for item in self.items):
            return
        sizes = [item for item in self.items if item.kinds & c.SIZE and not item.off]
        open_rows = [row for row in last if not row.diameters and row.count_known]
        each = any(item.kinds & c.EACH for item in self.items)
        for index, row in enumerate(open_rows):
            if index < len(sizes) or (each and sizes):
                row.diameters = self._diameters(sizes[min(index, len(sizes) - 1)])
        if sizes and not open_rows and not last[0].diameters and not last[0].count_known:
            sized = [last[0].copy(diameters=self._diameters(size), count_known=True) for size in sizes]
            for row in sized:
                self.memory.insert(row, last[0])
        self.memory.look_again(self.parse)

    def _carry(self) -> None:
        """What the next sentence speaks of, if it does not say."""
        if self.made:
            row = self.made[-1]
            organs = {r.organ for r in self.made}
            organ = row.organ if row.organ != UNKNOWN and len(organs) == 1 else ""
            self.memory.carried, self.memory.exactly = (organ, (), row.side), (organ, row.parts, row.side)
            return
        self.memory.carry(self.spots)
