# SPDX-License-Identifier: Apache-2.0
"""Two readings of one report held against each other: what they agree on, and what a person should look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rsuper_train.reports.schema import NO_ANSWER, Place, Report, Tumour

Kind = Literal["no answer", "only first", "only second", "place", "size", "attenuation", "negative"]

ABSOLUTE = 1.0
RELATIVE = 0.1


class Disagreement(BaseModel):
    """One thing that two extractors read differently.

    Args:
        report_id: the case.
        kind: "only first", "only second" (a lesion), "place", "size", "attenuation" (of what may be one lesion),
            "negative" (a lesion here, free of lesions there), "no answer" (one of them has not read the report).
        first: what the first extractor read, in words; empty where nothing.
        second: what the second one read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    report_id: str
    kind: Kind
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.first or 'nothing'} / {self.second or 'nothing'}"


class Consensus(BaseModel):
    """The joint report, flagged where its extractors disagree, and their disagreements."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    report: Report
    disagreements: tuple[Disagreement, ...]


def consensus(first: Report, second: Report) -> Consensus:
    """Join two extractors' readings of the same report.

    Two rows are one lesion when organ and counting agree, side and parts agree as far as both say them, and the
    diameters are equal within 1 mm or 10 %. Of such a pair the row that says more is kept; where they state different
    attenuations, as unknown. Of two rows that differ in place or size alone, which may be one lesion, the first
    extractor's is kept, and so is every row of one extractor alone: nothing is dropped, every difference is flagged.
    A negative is kept where both have it. One that only one of them has is left out: with a flag where the other has a
    lesion there, else without, since not knowing is safe.

    Raises:
        ValueError: the reports are of different cases or texts.
    """
    if (first.id, first.text_hash) != (second.id, second.text_hash):
        raise ValueError(
            f"consensus: expected two readings of one report, got {first.id!r} (text {first.text_hash})"
            f" and {second.id!r} (text {second.text_hash})"
        )
    if bool(_unread(first)) != bool(_unread(second)):
        return _one_sided(first, second)
    found: list[Disagreement] = []

    def differ(kind: Kind, one: str, other: str) -> None:
        found.append(Disagreement(report_id=first.id, kind=kind, first=one, second=other))

    rows: list[Tumour] = []
    pairs, rest, other_rest = _pair(first.tumours, second.tumours, _same_lesion)
    for one, other in pairs:
        if _stated_differently(one, other):
            differ("attenuation", _words(one), _words(other))
        rows.append(_richer(one, other))
    pairs, rest, other_rest = _pair(rest, other_rest, _perhaps_same_lesion)
    for one, other in pairs:
        differ("place" if _same_size(one, other) else "size", _words(one), _words(other))
        rows.append(one)
    for one in rest:
        differ("only first", _words(one), "")
    for other in other_rest:
        differ("only second", "", _words(other))
    rows += [*rest, *other_rest]
    for place in _contradicted(first.negatives, second.tumours):
        differ("negative", f"{place}: no lesion", _lesions_in(place, second))
    for place in _contradicted(second.negatives, first.tumours):
        differ("negative", _lesions_in(place, first), f"{place}: no lesion")
    return _join(first, second, rows, found)


def _unread(report: Report) -> str:
    """Why the report has no rows, where its extractor got no answer; empty otherwise."""
    return next((flag for flag in report.flags if flag.startswith(NO_ANSWER)), "")


def _one_sided(first: Report, second: Report) -> Consensus:
    """The reading that there is; the report has been read, so it loses the flag which says that it has not."""
    unread, other_unread = _unread(first), _unread(second)
    found = Disagreement(report_id=first.id, kind="no answer", first=unread, second=other_unread)
    joint = _join(first, second, (second if unread else first).tumours, [found])
    negatives = (second if unread else first).negatives
    flags = tuple(flag for flag in joint.report.flags if flag not in (unread, other_unread))
    return Consensus(
        report=joint.report.model_copy(update={"negatives": negatives, "flags": flags}),
        disagreements=joint.disagreements,
    )


def _join(first: Report, second: Report, rows: Sequence[Tumour], found: list[Disagreement]) -> Consensus:
    report = Report(
        id=first.id,
        tumours=tuple(sorted(rows, key=lambda row: row.start)),
        negatives=tuple(_common_negatives(first, second)),
        flags=(*first.flags, *second.flags, *(f"extractors disagree: {each}" for each in found)),
        extractor=f"consensus of {first.extractor} and {second.extractor}",
        text_hash=first.text_hash,
    )
    return Consensus(report=report, disagreements=tuple(found))


def _pair(
    first: Sequence[Tumour], second: Sequence[Tumour], alike: Callable[[Tumour, Tumour], bool]
) -> tuple[list[tuple[Tumour, Tumour]], list[Tumour], list[Tumour]]:
    """Pairs of alike rows, closest first, each row once; and the rows of each side that are left."""
    candidates = sorted(
        (_distance(one, other), i, j)
        for i, one in enumerate(first)
        for j, other in enumerate(second)
        if alike(one, other)
    )
    matches: dict[int, int] = {}
    taken: set[int] = set()
    for _, i, j in candidates:
        if i not in matches and j not in taken:
            matches[i] = j
            taken.add(j)
    pairs = [(first[i], second[matches[i]]) for i in sorted(matches)]
    rest = [row for i, row in enumerate(first) if i not in matches]
    return pairs, rest, [row for j, row in enumerate(second) if j not in taken]


def _distance(one: Tumour, other: Tumour) -> tuple[int, float, int]:
    """Closer rows first: in place, in size, in attenuation, and read in the same sentence."""
    place = (one.laterality != other.laterality) + (one.subsegments != other.subsegments)
    size = sum(abs(a - b) for a, b in zip(_sizes(one), _sizes(other), strict=False))
    overlap = one.start < other.end and other.start < one.end
    return place, size, (one.attenuation != other.attenuation) + (not overlap)


def _same_lesion(one: Tumour, other: Tumour) -> bool:
    return one.may_touch(other) and one.count_known == other.count_known and _same_size(one, other)


def _perhaps_same_lesion(one: Tumour, other: Tumour) -> bool:
    """One difference, of place or of size, in rows of one organ."""
    same_organ = one.organ == other.organ and one.count_known == other.count_known
    return same_organ and (one.may_touch(other) or _same_size(one, other))


def _sizes(row: Tumour) -> list[float]:
    return sorted(row.diameters, reverse=True)


def _same_size(one: Tumour, other: Tumour) -> bool:
    if len(one.diameters) != len(other.diameters):
        return False
    pairs = zip(_sizes(one), _sizes(other), strict=True)
    return all(abs(a - b) <= max(ABSOLUTE, RELATIVE * max(a, b)) for a, b in pairs)


def _stated_differently(one: Tumour, other: Tumour) -> bool:
    return one.attenuation != other.attenuation and "unknown" not in (one.attenuation, other.attenuation)


def _richer(one: Tumour, other: Tumour) -> Tumour:
    """The row that says more; the first of equals."""
    if _stated_differently(one, other):
        unknown = {"attenuation": "unknown"}
        one, other = one.model_copy(update=unknown), other.model_copy(update=unknown)
    return max((one, other), key=_richness)


def _richness(row: Tumour) -> int:
    said = (row.laterality, row.subsegments, row.volume, row.sentence)
    stated = (row.attenuation != "unknown", row.type != "lesion", row.certainty != "unknown")
    return sum(bool(value) for value in said) + sum(stated)


def _contradicted(negatives: Sequence[Place], tumours: Sequence[Tumour]) -> list[Place]:
    return [place for place in negatives if any(place.may_touch(tumour) for tumour in tumours)]


def _lesions_in(place: Place, report: Report) -> str:
    return "; ".join(_words(row) for row in report.tumours if place.may_touch(row))


def _common_negatives(first: Report, second: Report) -> list[Place]:
    """Negatives of both; where one says it of the organ and the other of a part, of the part."""
    common: dict[Place, None] = {}
    for one in first.negatives:
        for other in second.negatives:
            narrower = one if other.covers(one) else other if one.covers(other) else None
            if narrower is not None:
                common[narrower] = None
    rows = (*first.tumours, *second.tumours)
    return [place for place in common if not any(place.may_touch(row) for row in rows)]


def _words(row: Tumour) -> str:
    """A row without its sentence, which may stay in the table of reports."""
    size = " x ".join(f"{value:g}" for value in row.diameters) + " mm" if row.diameters else "size unknown"
    place = Place(organ=row.organ, subsegments=row.subsegments, laterality=row.laterality)
    count = "" if row.count_known else ", uncounted"
    return f"{place}, {size}, {row.attenuation} attenuation{count}"
