# SPDX-License-Identifier: Apache-2.0
"""Writes radiology reports that say exactly the given tumours, with varied wording and with what else reports hold.

The wording (`phrases`) is drawn; the content is not. So a report comes with its own ground truth, for the synthetic
cohort and for tests of extractors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, TypeVar

import numpy as np

from rsuper_train.reports import phrases
from rsuper_train.reports.schema import Place, Report, Tumour, hash_text
from rsuper_train.reports.vocabulary import ROMAN

Style = Literal["findings", "sections"]
Group = list[Tumour]
"""Alike tumours: they differ in size alone."""
T = TypeVar("T")

PLACES = (
    Place(organ="liver"),
    Place(organ="spleen"),
    Place(organ="kidney", laterality="right"),
    Place(organ="kidney", laterality="left"),
)
SEGMENTS = {f"segment {number}" for number in range(1, 9)}
ONE_SENTENCE = 0.6
"""Chance that alike lesions share a sentence."""
HEADING_ABOVE = "heading above"
"""In place of a heading that an earlier sentence of the paragraph bears."""


@dataclass(frozen=True)
class Written:
    """A report and what it says.

    Args:
        text: the report.
        report: the tumours in the order of the text, each with the sentence that first says it, sizes as written (to
            0.1 mm); the places said to be free of tumours.
    """

    text: str
    report: Report


def write_report(
    tumours: Sequence[Tumour],
    rng: np.random.Generator,
    places: Sequence[Place] = PLACES,
    style: Style = "findings",
    clutter: float = 0.3,
    case_id: str = "synthetic",
) -> Written:
    """Write a report about `tumours`; `rng` alone decides the wording.

    Each of `places` without a tumour is said to be free of lesions; other places without one are not mentioned as
    places of lesions. A tumour of unknown certainty is stated plainly, which reads as "certain".

    Args:
        tumours: what to say; none is fine. A row of an uncounted number of lesions (`count_known` False) has no size.
        rng: decides the wording.
        places: organs, or sides of organs, to be mentioned.
        style: "findings" for the bare findings; "sections" for history, technique, comparison, findings, impression.
        clutter: chance, for each thing mentioned, of an aside that is no lesion: stones, ducts, organ sizes, priors.
        case_id: name of the case in the report.

    Raises:
        ValueError: a row or a place that no sentence can say.
    """
    _check(tumours, places)
    said = [_as_written(tumour) for tumour in tumours]
    free = [place for place in places if not any(place.may_touch(tumour) for tumour in said)]
    page = _Page()
    writer = _Writer(rng, clutter, headed=bool(rng.random() < 0.4), capitals=bool(rng.random() < 0.5))
    if style == "sections":
        writer.write_preamble(page)
        page.add("FINDINGS:", before="\n")
    writer.write_findings(page, said, free)
    if style == "sections":
        writer.write_impression(page, said)
    text = "".join(page.parts)
    report = Report(
        id=case_id,
        tumours=tuple(page.tumours),
        negatives=tuple(free),
        extractor="generator",
        text_hash=hash_text(text),
    )
    return Written(text, report)


def _check(tumours: Sequence[Tumour], places: Sequence[Place]) -> None:
    for tumour in tumours:
        if not tumour.count_known and tumour.diameters:
            raise ValueError(
                f"{tumour}: an uncounted number of lesions has no size; give the sized one a row of its own"
            )
        if tumour.laterality == "bilateral" and tumour.count_known:
            raise ValueError(f"{tumour}: lesions on both sides are uncounted; give counted ones a row and a side each")
        if tumour.organ == "liver" and (odd := set(tumour.subsegments) - SEGMENTS):
            raise ValueError(f"{tumour}: expected a row with liver segments 1 to 8, got {', '.join(sorted(odd))}")
    for place in places:
        if place.subsegments or place.laterality == "bilateral":
            raise ValueError(f"places: expected organs or their sides, got {place}")


def _as_written(tumour: Tumour) -> Tumour:
    """The tumour as a reader of the text can know it."""
    return tumour.model_copy(
        update={
            "diameters": tuple(max(round(d, 1), 0.1) for d in tumour.diameters),
            "volume": None,
            "certainty": "certain" if tumour.certainty == "unknown" else tumour.certainty,
        }
    )


@dataclass
class _Page:
    """The growing text, and the tumours said so far with their sentences."""

    parts: list[str] = field(default_factory=list)
    tumours: Group = field(default_factory=list)
    length: int = 0

    def add(self, sentence: str, tumours: Sequence[Tumour] = (), before: str = " ") -> None:
        """Append `before`, unless the page is empty, and a sentence that says `tumours`."""
        before = before if self.parts else ""
        start = self.length + len(before)
        self.length = start + len(sentence)
        where = {"sentence": sentence, "start": start, "end": self.length}
        self.tumours += [tumour.model_copy(update=where) for tumour in tumours]
        self.parts += [before, sentence]


@dataclass
class _Writer:
    """Draws the wording.

    Args:
        headed: each organ has a line and a heading, and sentences below it need not name it.
        capitals: headings are in capitals.
    """

    rng: np.random.Generator
    clutter: float
    headed: bool
    capitals: bool

    def write_preamble(self, page: _Page) -> None:
        """History, technique and comparison, in which no lesion counts."""
        for heading, options in (
            ("HISTORY:", phrases.HISTORY),
            ("TECHNIQUE:", phrases.TECHNIQUE),
            ("COMPARISON:", phrases.COMPARISON),
        ):
            if self._chance(0.8):
                page.add(f"{heading} {self._aside(self._pick(options))}", before="\n")

    def write_findings(self, page: _Page, tumours: Sequence[Tumour], free: Sequence[Place]) -> None:
        """Lesions of unknown place, then a paragraph for each organ or side in random order."""
        for group in _groups([tumour for tumour in tumours if tumour.organ == "unknown"]):
            self._write_group(page, group)
        if not self.headed:
            free = self._write_list(page, free)
        topics = list(dict.fromkeys([*map(_topic, free), *(_topic(t) for t in tumours if t.organ != "unknown")]))
        for index in self.rng.permutation(len(topics)):
            self._write_topic(page, topics[index], [t for t in tumours if _topic(t) == topics[index]])
        if self._chance(self.clutter):
            page.add(self._aside(self._pick(phrases.ASIDES_ANYWHERE)), before="\n" if self.headed else " ")

    def write_impression(self, page: _Page, tumours: Sequence[Tumour]) -> None:
        """The findings once more, with fewer details."""
        page.add(self._pick(phrases.IMPRESSION_HEADINGS), before="\n\n")
        lines = [self._summary(group) for group in _groups(tumours)] or [phrases.sentence(self._pick(phrases.CALM))]
        for number, line in enumerate(lines, start=1):
            page.add(f"{number}. {line}", before="\n")

    def _write_topic(self, page: _Page, place: Place, tumours: Sequence[Tumour]) -> None:
        """All about one organ or side: its lesions or that there are none, then asides."""
        name = _name(place)
        heading = f"{name.upper() if self.capitals else name.capitalize()}: " if self.headed else ""
        if not tumours:
            negative = self._pick(phrases.NEGATIVE_HEADED if self.headed else phrases.NEGATIVE)
            page.add(heading + phrases.sentence(negative, place=name), before="\n" if self.headed else " ")
        for group in _groups(tumours):
            self._write_group(page, group, heading)
            heading = heading and HEADING_ABOVE
        for options, chance in ((phrases.ASIDES.get(place.organ, ()), self.clutter), (phrases.GONE, self.clutter / 4)):
            if options and place.laterality != "bilateral" and self._chance(chance):
                page.add(self._aside(self._pick(options), name))

    def _write_list(self, page: _Page, free: Sequence[Place]) -> Sequence[Place]:
        """Sometimes several organs are called free of lesions in one sentence; returns the places that are left."""
        whole = [place for place in free if place.laterality is None]
        if len(whole) < 2 or not self._chance(0.3):
            return free
        names = phrases.listed([place.organ for place in whole])
        page.add(phrases.sentence(self._pick(phrases.NEGATIVE_LISTED), places=names))
        return [place for place in free if place not in whole]

    def _write_group(self, page: _Page, group: Group, heading: str = "") -> None:
        """Alike lesions, in one sentence or several."""
        for part in self._split(group):
            said = self._statement(part, named=not heading)
            opens = heading not in ("", HEADING_ABOVE)
            page.add((heading if opens else "") + said, part, before="\n" if opens else " ")
            heading = heading and HEADING_ABOVE

    def _split(self, group: Group) -> list[Group]:
        """Which of the alike lesions share a sentence: those that a reader would else take for one lesion always do."""
        sized = [tumour for tumour in group if tumour.diameters]
        counted = [tumour for tumour in group if not tumour.diameters and tumour.count_known]
        uncounted = [tumour for tumour in group if not tumour.count_known]
        if len(sized) == 1 and bool(counted) + len(uncounted) == 1 and self._chance(ONE_SENTENCE):
            return [group]
        if _look_the_same(sized) or self._chance(ONE_SENTENCE):
            return [part for part in (sized, counted, *([t] for t in uncounted)) if part]
        return [*([t] for t in sized), *([counted] if counted else []), *([t] for t in uncounted)]

    def _statement(self, group: Group, named: bool) -> str:
        """A sentence about alike lesions; `named` False leaves the organ to the heading."""
        first, plural = group[0], len(group) > 1 or not group[0].count_known
        words = self._finding(first, plural, named)
        sizes = [self._size(tumour.diameters) for tumour in group if tumour.diameters]
        if not plural:
            template = self._single_template(first, named)
        elif not sizes:
            template = self._pick(phrases.SEVERAL_UNSIZED)
        elif len(sizes) < len(group):
            template = self._pick(phrases.SEVERAL_LARGEST)
        elif len({tumour.diameters for tumour in group}) == 1:
            template = self._pick(phrases.SEVERAL_EQUAL)
        else:
            template = self._pick(phrases.SEVERAL)
        text = phrases.sentence(
            template.removesuffix("."),
            number=self._number(group),
            size=sizes[0] if sizes else "",
            sizes=phrases.listed(sizes),
            each="both" if len(group) == 2 else "each",
            prior=self._prior(first),
            **words,
        )
        if self._chance(self.clutter / 2):
            text += " " + self._fill(self._pick(phrases.IMAGES))
        return f"{text}{words['behind']}."

    def _single_template(self, tumour: Tumour, named: bool) -> str:
        if not tumour.diameters:
            return self._pick(phrases.ONE_UNSIZED)
        if len(tumour.diameters) == 1 and self._chance(self.clutter / 2):
            return self._pick(phrases.ONE_CHANGED)
        place = phrases.ONE_IN_PLACE if named and tumour.organ != "unknown" else ()
        return self._pick((*phrases.ONE, *place))

    def _finding(self, tumour: Tumour, plural: bool, named: bool) -> dict[str, str]:
        """The words for a lesion: hedge, lesion, place, the two together, and what follows the sentence."""
        noun, hedge, behind = tumour.type, self._pick(phrases.HEDGES.get(tumour.certainty, ("",))), ""
        if hedge and noun != "lesion" and self._chance(0.5):
            diagnosis = phrases.plural(noun) if plural else f"a~ {noun}"
            behind = phrases.articles(f", {self._pick(phrases.HEDGES_BEHIND[tumour.certainty])} {diagnosis}")
            noun, hedge = "lesion", ""
        noun = phrases.plural(noun) if plural else noun
        colour, after = self._pick(phrases.ATTENUATION[tumour.attenuation]), ""
        if tumour.attenuation in phrases.ATTENUATION_BEHIND and self._chance(0.15):
            colour, after = "", self._pick(phrases.ATTENUATION_BEHIND[tumour.attenuation])
            after = after.replace("that is", "that are") if plural else after
        lesion, place = f"{colour} {noun} {after}", self._place(tumour, named)
        adjective = phrases.ORGAN_ADJECTIVES.get(tumour.organ)
        if named and adjective and not tumour.subsegments and self._chance(0.3):
            found = f"{colour} {tumour.laterality or ''} {adjective} {noun} {after}"
        else:
            found = f"{lesion} in {place}" if place else lesion
        return {"hedge": hedge, "lesion": lesion, "place": place, "found": found, "behind": behind}

    def _place(self, place: Place, named: bool) -> str:
        """Where it is, with the article: "the upper pole of the left kidney", "segment VI"; empty for unknown."""
        if place.organ == "unknown":
            return ""
        whole = f"both {_name(place)}" if place.laterality == "bilateral" else f"the {_name(place)}"
        needs_name = named or place.laterality is not None
        if not place.subsegments:
            return whole if needs_name else ""
        part = self._segments(place.subsegments) if place.organ == "liver" else self._parts(place)
        return f"{part} of {whole}" if needs_name and place.organ not in phrases.OWN_NAMES else part

    def _segments(self, names: Sequence[str]) -> str:
        """Liver segments in Arabic or Roman numbers, or as a lobe or section where they are one."""
        numbers = tuple(sorted(int(name.rpartition(" ")[2]) for name in names))
        if numbers in phrases.LIVER_GROUPS and self._chance(0.6):
            return self._pick(phrases.LIVER_GROUPS[numbers])
        roman = self._chance(0.5)
        written = [ROMAN[n - 1] if roman else str(n) for n in numbers]
        if numbers == (4,) and self._chance(0.4):
            return f"segment {written[0]}{self._pick('ab')}"
        if len(numbers) == 1:
            return f"segment {written[0]}"
        if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1 and self._chance(0.5):
            return f"segments {written[0]}-{written[-1]}"
        return f"segments {'/'.join(written) if self._chance(0.4) else phrases.listed(written)}"

    def _parts(self, place: Place) -> str:
        names = [self._pick(phrases.PART_NAMES.get((place.organ, part), (part,))) for part in place.subsegments]
        return "the " + ("/".join(names) if self._chance(0.2) else phrases.listed(names))

    def _summary(self, group: Group) -> str:
        """One line of the impression: alike lesions by the largest of their sizes."""
        first, plural = group[0], len(group) > 1 or not group[0].count_known
        words = self._finding(first, plural, named=True)
        sizes = [tumour.diameters for tumour in group if tumour.diameters]
        if not sizes:
            template = "{number} {hedge} {found}" if plural else "{hedge} {found}"
        else:
            template = "{number} {hedge} {found}, the largest {size}" if plural else "{hedge} {size} {found}"
        size = self._size(max(sizes, key=max)) if sizes else ""
        return phrases.sentence(template, number=self._number(group), size=size, **words) + f"{words['behind']}."

    def _number(self, group: Group) -> str:
        """How many lesions: a count, or a word for many where a row is uncounted."""
        if all(tumour.count_known for tumour in group):
            return phrases.NUMBERS[len(group)] if len(group) < len(phrases.NUMBERS) else str(len(group))
        return self._pick(phrases.MANY)

    def _size(self, diameters: tuple[float, ...]) -> str:
        """Diameters (mm) as radiologists write them: "18 mm", "2.4 x 1.9 cm", "24 mm by 19 mm", "2,4 cm"."""
        if self._chance(0.5):
            numbers, unit = [phrases.decimals(d / 10, 1) for d in diameters], "cm"
        else:
            numbers, unit = [phrases.decimals(d, 0) for d in diameters], "mm"
        if self._chance(0.07):
            numbers = [number.replace(".", ",") for number in numbers]
        cross = self._pick((" x ", " x ", " × ", " by ", "x"))
        space = "" if self._chance(0.15) else " "
        if self._chance(0.15) and cross != "x":
            return cross.join(f"{number}{space}{unit}" for number in numbers)
        return f"{cross.join(numbers)}{space}{unit}"

    def _prior(self, tumour: Tumour) -> str:
        """An earlier size, clearly smaller."""
        return (
            self._size((max(round(tumour.diameters[0] * self.rng.uniform(0.5, 0.8)), 1),)) if tumour.diameters else ""
        )

    def _aside(self, template: str, place: str = "") -> str:
        text = self._fill(template, place)
        return text[:1].upper() + text[1:]

    def _fill(self, template: str, place: str = "") -> str:
        draw = self.rng.integers
        return phrases.fill(
            template,
            place=place,
            small=str(draw(3, 10)),
            large=str(draw(18, 29)),
            length=f"{draw(90, 160) / 10:.1f}",
            series=str(draw(2, 9)),
            image=str(draw(10, 250)),
            age=str(draw(30, 85)),
            slice=str(self._pick((1, 3, 5))),
            contrast=str(10 * draw(8, 13)),
            month=str(draw(1, 13)),
            day=str(draw(1, 29)),
            year=str(draw(2012, 2025)),
        )

    def _chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def _pick(self, options: Sequence[T]) -> T:
        return options[int(self.rng.integers(len(options)))]


def _groups(tumours: Sequence[Tumour]) -> list[Group]:
    """Alike tumours together, in the order of their first ones."""
    groups: dict[tuple[object, ...], Group] = {}
    for t in tumours:
        groups.setdefault((t.organ, t.subsegments, t.laterality, t.attenuation, t.type, t.certainty), []).append(t)
    return list(groups.values())


def _look_the_same(sized: Group) -> bool:
    """Whether two of the lesions have sizes within a millimetre, as the same lesion measured twice."""
    sizes = sorted(tumour.diameters for tumour in sized)
    return any(np.allclose(a, b, atol=1.0) for a, b in pairwise(sizes) if len(a) == len(b))


def _topic(place: Place) -> Place:
    """The organ or side that a paragraph about `place` is about."""
    return Place(organ=place.organ, laterality=place.laterality)


def _name(place: Place) -> str:
    """ "liver", "left kidney", "kidneys" for both."""
    if place.laterality == "bilateral":
        return f"{place.organ}s"
    return f"{place.laterality} {place.organ}" if place.laterality else place.organ
