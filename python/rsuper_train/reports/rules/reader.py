# SPDX-License-Identifier: Apache-2.0
"""Reads the sentences of one report in order, with what each inherits from its heading and those before."""

from __future__ import annotations

import itertools

from rsuper_kernels.findings import LARGEST_DIAMETER
from rsuper_train.reports.rules import concepts as c
from rsuper_train.reports.rules.concepts import Phrases
from rsuper_train.reports.rules.context import mark
from rsuper_train.reports.rules.mentions import GENERIC, Mention, find_mentions
from rsuper_train.reports.rules.places import ANATOMY, ELSEWHERE, Spot, find_spots, order
from rsuper_train.reports.rules.rows import Row, complete, same_place, same_size, same_type
from rsuper_train.reports.rules.scan import Item, Words, scan
from rsuper_train.reports.rules.sentences import Sentence, split
from rsuper_train.reports.rules.sizes import find_sizes
from rsuper_train.reports.rules.tokens import Tokens

Where = tuple[str, tuple[str, ...], str]
NOWHERE: Where = ("", (), "")
UNKNOWN = "unknown"
# No report speaks of a lesion again after so many others; without a bound a text of nothing but lesions takes hours.
LOOK_BACK = 100


ABSENT = frozenset(("not", "none", "absent", "ruled", "cannot", "is", "was", "were"))
WHERE = c.ORGAN | c.PART
STATED = c.LESION | c.NORMAL
# Sentences whose parse is kept, and how long they may be; what a report says twice is short.
REMEMBERED = 4096
LONGEST_REMEMBERED = 300
Key = tuple[str, bool]


class Parse:
    """All of a sentence that depends on nothing but its words."""

    __slots__ = ("items", "kinds", "mentions", "spots", "words")

    def __init__(self, tokens: Tokens, phrases: Phrases, first: int, last: int, headed: bool) -> None:
        items = scan(tokens, phrases, first, last, find_sizes(tokens, first, last))
        kinds = 0
        for item in items:
            kinds |= item.kinds
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


class Reader:
    """State while one report is read; `rows` and `negatives` are what it has said so far."""

    def __init__(self, tokens: Tokens, phrases: Phrases, parses: dict[Key, Parse]) -> None:
        self.tokens = tokens
        self.phrases = phrases
        self._parses = parses
        self.rows: list[Row] = []
        self.negatives: list[Where] = []
        self.spoke_of_organ = False
        self.oversized = False
        self._carried: Where = NOWHERE
        self._paragraph = -1
        self._headed = False
        self._left: list[Item] | None = None
        self._group: list[Row] = []
        self._last: list[Row] = []

    def read(self) -> None:
        for number, sentence in enumerate(split(self.tokens, self.phrases)):
            if sentence.section != "past":
                self._read_sentence(number, sentence)

    def _read_sentence(self, number: int, sentence: Sentence) -> None:
        if sentence.paragraph != self._paragraph:
            self._carried, self._paragraph = NOWHERE, sentence.paragraph
            self._last = self._group = []
        headed = self._heading(sentence)
        parse = self._parse(sentence, bool(headed))
        kinds = parse.kinds
        if headed and sentence.first == sentence.body and self._leaves(sentence, parse, headed):
            headed = []
        if kinds & WHERE or sentence.heading:
            self.spoke_of_organ = True
        if kinds & c.FINDING and not kinds & (c.LESION | c.NEGATION):
            self._last = self._group = []
        if not kinds & STATED and not (kinds & c.SIZE and (self._last or kinds & c.ATTENUATION)):
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
        key = tokens.lowered[tokens.starts[first] : tokens.ends[last]], headed
        parse = self._parses.get(key)
        if parse is None:
            parse = Parse(tokens, self.phrases, first, last, headed)
            if len(self._parses) >= REMEMBERED:
                self._parses.clear()
            if len(key[0]) <= LONGEST_REMEMBERED:
                self._parses[key] = parse
        return parse

    def _heading(self, sentence: Sentence) -> list[Where]:
        if not sentence.heading or sentence.heading is self._left:
            return []
        spots = find_spots(sentence.heading)
        return [self.where(spot, NOWHERE) for spot in spots if spot.settled()]

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
        rows = self._last
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
            organ, _, side = self.where(next(iter(organs.values())), NOWHERE)
            self._carried = (organ, (), side)
        elif organs:
            self._carried = NOWHERE

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


class Statement:
    """One sentence that is about places, lesions or sizes."""

    def __init__(
        self,
        reader: Reader,
        number: int,
        sentence: Sentence,
        parse: Parse,
        headed: list[Where],
    ) -> None:
        self.reader = reader
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
        if self.headed:
            carried = self.reader._carried
            first = next((place for place in self.headed if place[0] == carried[0]), self.headed[0])
            if carried[0] == first[0] and not first[2]:
                return first[0], first[1], carried[2]
            return first
        return self.reader._carried

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
            if mention.spread and not mention.sizes and not _says_where(mention.spots):
                continue
            places = self._places(mention, position, places if before is not None else [])
            before = mention
            if any(place[0] == ELSEWHERE for place in places):
                self.reader._last, self.reader._group = [], []
                continue
            self._make_rows(mention, places)
        if not any(not mention.off for mention in self.mentions):
            self._go_on()
        if self.kinds & c.NORMAL:
            self._read_normal()
        self._carry()
        if self.made:
            self.reader._last = self.made

    def _is_advice(self, mention: Mention) -> bool:
        """ "nodules smaller than 6 mm need no follow-up"."""
        if not self.kinds & c.ADVICE or mention.sizes:
            return False
        if self.reader.rows and not any(spot.settled() for spot in mention.spots):
            return True
        return any(i.kinds & c.SIZE and i.off == "bound" for i in self.items[mention.first : mention.behind])

    # places

    def _places(self, mention: Mention, position: int, before: list[Where]) -> list[Where]:
        """Where the lesions of a mention are; several organs or sides for several lesions."""
        spots = mention.spots
        context = self._nearest(mention, before)
        if not _says_where(spots):
            spots = self._coordinated(position) or spots
        if not _says_where(spots) and not mention.child:
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
        near = [s for s in ahead if s.first >= mention.phrase]
        subject = [s for s in ahead if s.first < mention.phrase]
        places: list[Where] = []
        for spot in _agreeing(near, behind, subject):
            known = (places[0][0], (), places[0][2]) if places and places[0][0] else context
            place = self.reader.where(spot, known)
            if not place[0]:
                if spot.side and not places:
                    places.append(("", (), spot.side))
                continue
            places = _add(places, place, mention.plural)
        if not places:
            return [context if context[0] else (UNKNOWN, (), context[2])]
        if not places[0][0]:
            organ = context[0] or UNKNOWN
            side = places[0][2] if organ in self.reader.phrases.paired or organ == UNKNOWN else ""
            places[0] = (organ, context[1] if context[0] else (), side)
        return places

    def _nearest(self, mention: Mention, before: list[Where]) -> Where:
        """Organ for spots that name none: the type's, that of the mention before, the heading's, the one spoken of."""
        if mention.child and self.reader._group:
            row = self.reader._group[0]
            return (row.organ, row.parts, row.side) if row.organ != UNKNOWN else NOWHERE
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
                return self.reader.where(ahead[0], NOWHERE)
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
        for following in self.mentions[position + 1 :]:
            between = self.items[mention.last + 1 : following.at]
            if (
                following.other
                or following.child
                or any(i.kinds & (c.SIZE | c.SEMICOLON | c.VERB | c.PLACE) for i in between)
            ):
                return []
            if _says_where(following.spots):
                return [s for s in following.spots if s.first > following.at or not mention.spots]
        return []

    # rows

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
            spread = self._spread(places, missing) if missing > 0 and not rows else [places[0]] * max(missing, 0)
            rows += [self._row(mention, place, ()) for place in spread]
        elif (
            mention.many
            or not rows
            or len(rows) == 1
            or any(i.kinds & (c.UP_TO | c.LARGEST) for i in self.items[mention.first : mention.behind])
        ):
            for place in places:
                row = self._row(mention, place, ())
                row.count_known = False
                rows.append(row)
        if mention.subset and self.reader._group and self._claim(mention, rows):
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
            return [(self._diameters(sizes[0]), places[0])]
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

    def _one_lesion(self, mention: Mention) -> bool:
        """ "3.2 cm AP and 2.8 cm transverse" are diameters of one lesion."""
        if mention.count != 1 or len(mention.sizes) > 3:
            return False
        first, last = mention.sizes[0], mention.sizes[-1]
        inner = [i for i in self.items if first.end <= i.start <= last.end + 2]
        named = any(i.kinds & c.AXIS or (i.size is not None and i.size.axis) for i in inner)
        return named and not any(i.kinds & ANATOMY for i in inner)

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
            spots = [s for s in spots if s.first > size] + [s for s in reversed(spots) if s.first < size]
            place: Where | None = None
            for spot in spots:
                if place is not None and spot.first < size:
                    place = self._fill(place, spot)
                    continue
                found = self.reader.where(spot, (places[0][0], (), places[0][2] if not spot.side else ""))
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
        organ, parts, side = self.reader.where(spot, (place[0], (), ""))
        if organ != place[0] or (place[2] and side not in ("", place[2])):
            return place
        return organ, place[1] or parts, place[2] or side

    def _diameters(self, item: Item) -> tuple[float, ...]:
        """Of a size; () for an impossible one, which is flagged."""
        assert item.size is not None
        if max(item.size.diameters) <= LARGEST_DIAMETER:
            return item.size.diameters
        self.reader.oversized = True
        return ()

    def _row(self, mention: Mention, place: Where, diameters: tuple[float, ...]) -> Row:
        organ, parts, side = place
        return Row(
            organ=organ or UNKNOWN,
            parts=order(organ, parts, self.reader.phrases),
            side=side if organ in self.reader.phrases.paired or organ in ("", UNKNOWN) else "",
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
        group = self.reader._group
        if not group:
            return
        sized = self._sized(mention, places) or ([((), places[0])] if mention.spots else [])
        rows = []
        for diameters, place in sized:
            row = self._row(mention, place, diameters)
            rows.append(row)
        self._claim(mention, rows)

    def _claim(self, mention: Mention, rows: list[Row]) -> bool:
        """Let rows be members of the group mentioned last; False where they cannot be."""
        group = self.reader._group
        if rows and rows[0].organ not in (group[0].organ, UNKNOWN):
            return False
        for row in rows:
            if not row.diameters and row.count_known is False:
                continue
            if row.type in GENERIC[:4]:
                row.type, row.certainty = group[0].type, group[0].certainty
            if row.attenuation == UNKNOWN:
                row.attenuation = group[0].attenuation
            twin = next(
                (r for r in group if r.diameters and same_size(r.diameters, row.diameters) and not r.claimed), None
            )
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
                self.reader.insert(row, group[0])
                if len(group) < LOOK_BACK:
                    group.append(row)
                self.made.append(row)
        return True

    def _settle(self, mention: Mention, rows: list[Row]) -> None:
        """Add the rows, or see that an earlier sentence has them already."""
        added = [row for row in rows if not self._said_before(mention, row, rows)]
        self.reader.rows += added
        self.made += added
        if mention.plural or len(rows) > 1:
            self.reader._group = added or self.reader._group
        elif added:
            self.reader._group = added

    def _said_before(self, mention: Mention, row: Row, rows: list[Row]) -> bool:
        earlier = [
            r
            for r in self.reader.rows[-LOOK_BACK:]
            if r.sentence < self.number and same_place(r, row) and r not in self.made
        ]
        if not earlier:
            return False
        if row.diameters:
            twin = next((r for r in earlier if same_size(r.diameters, row.diameters) and same_type(r, row)), None)
            last = self.reader._last
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
                recent = self.reader._last if mention.definite and not row.impression else earlier
                twin = next(
                    (
                        r
                        for r in recent
                        if not r.diameters and r.count_known and same_place(r, row) and same_type(r, row)
                    ),
                    None,
                )
            if twin is None or mention.added:
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
                pool = [r for r in fit if r in self.reader._last] or fit
            if not pool:
                return False
            best = next((r for r in pool if r.type == row.type), pool[-1] if not row.impression else pool[0])
            complete(best, row)
            return True
        return False

    def _explains(self, mention: Mention) -> bool:
        """ "Findings are consistent with metastasis": no lesion of its own."""
        ahead = self.items[: mention.at]
        if (
            self.sentence.last - self.sentence.body < 4
            and self.reader._last
            and not mention.spots
            and not mention.plural
        ):
            return not mention.sizes and not mention.added
        return (
            any(item.kinds & c.PRONOUN for item in ahead[:3])
            and any(item.kinds & (c.HIGH | c.LOW | c.SAME) for item in ahead)
            and not mention.sizes
        )

    # sentences without a lesion of their own

    def _go_on(self) -> None:
        """ "It measures 2 cm.", "Hypodense.": more about the last lesions."""
        last = self.reader._last
        if not last or any(mention.other for mention in self.mentions):
            return
        kinds = 0
        for item in self.items[:4]:
            kinds |= item.kinds
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
                self.reader.insert(row, last[0])
        self.reader.look_again(self.parse)

    # negatives

    def _deny(self, mention: Mention) -> None:
        at = mention.at
        for before in range(at - 1, -1, -1):
            item = self.items[before]
            if item.kinds & c.PARTIAL and not (before and self.items[before - 1].kinds & c.OR):
                return
            if item.kinds & c.NEGATION:
                break
            if item.kinds & (c.DEFINITE | c.SIZE):
                return
        else:
            if any(item.kinds & (c.NEUTRAL | c.PRIOR) for item in self.items[mention.first : at]):
                return
            if not self._is_absent(mention):
                return
        spots = [s for s in mention.spots if s.settled() != ELSEWHERE or s.first > at]
        if not spots:
            spots = self._listed(mention) or [s for s in self.spots if s.first < at and not s.off]
        named = [self.reader.where(spot, self.context) for spot in spots]
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
            while first and self.items[first - 1].kinds & (
                ANATOMY
                | c.COMMA
                | c.AND
                | c.OR
                | c.SLASH
                | c.DEFINITE
                | c.PLACE
                | c.COLON
                | c.NEUTRAL
                | c.DASH
                | c.SAME
                | c.VERB
                | c.SIZE
                | c.MEASURE
            ):
                first -= 1
            last = position + 1
            while last < len(self.items) and self.items[last].kinds & (
                ANATOMY | c.COMMA | c.AND | c.OR | c.SLASH | c.DEFINITE | c.PLACE
            ):
                last += 1
            ahead = [s for s in self.spots if first <= s.first < position and not s.off]
            behind = [s for s in self.spots if position < s.first < last and not s.off]
            spots = ahead or behind
            named = any(not s.off for s in self.spots)
            places = [self.reader.where(spot, self.context) for spot in spots] if spots or named else self.headed
            self._add_negatives(places)

    def _add_negatives(self, places: list[Where]) -> None:
        for place in places:
            if place[0] not in ("", ELSEWHERE, UNKNOWN) and place not in self.reader.negatives:
                self.reader.negatives.append(place)

    def _carry(self) -> None:
        """What the next sentence speaks of, if it does not say."""
        if self.made:
            row = self.made[-1]
            organs = {r.organ for r in self.made}
            self.reader._carried = (row.organ if row.organ != UNKNOWN and len(organs) == 1 else "", (), row.side)
            return
        self.reader.carry(self.spots)


def _agreeing(*ranked: list[Spot]) -> list[Spot]:
    """The spots in order of rank, without the lower ones that name another organ than the higher ones."""
    chosen: list[Spot] = []
    named: set[str] = set()
    for spots in ranked:
        fit = [s for s in spots if not named or s.settled() in named or not s.settled()]
        chosen += fit
        named = named or {s.settled() for s in fit} - {""}
    return chosen


def _says_where(spots: list[Spot]) -> bool:
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
