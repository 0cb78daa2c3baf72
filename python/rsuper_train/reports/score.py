# SPDX-License-Identifier: Apache-2.0
"""How well an extractor reads: precision, recall and F1 of (place, diameters) rows and of attenuation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rsuper_train.reports.schema import Report, Tumour

Triple = tuple[str, str, frozenset[str], tuple[float, ...]]


@dataclass(slots=True)
class Counts:
    """Found and expected (`hits`), found only (`extra`), expected only (`missed`)."""

    hits: int = 0
    extra: int = 0
    missed: int = 0

    @property
    def precision(self) -> float:
        return self.hits / (self.hits + self.extra) if self.hits + self.extra else 1.0

    @property
    def recall(self) -> float:
        return self.hits / (self.hits + self.missed) if self.hits + self.missed else 1.0

    @property
    def f1(self) -> float:
        total = 2 * self.hits + self.extra + self.missed
        return 2 * self.hits / total if total else 1.0

    def __str__(self) -> str:
        rates = f"precision {self.precision:.3f}, recall {self.recall:.3f}"
        return f"F1 {self.f1:.3f} ({rates}; {self.hits} of {self.hits + self.missed})"


@dataclass(slots=True)
class Score:
    """Of many reports: `triples` over rows that stand for one lesion, `attenuation` over the matched ones.

    `wrong` are the ids of reports with a row extra, missed, or of another attenuation.
    """

    triples: Counts = field(default_factory=Counts)
    attenuation: Counts = field(default_factory=Counts)
    wrong: list[str] = field(default_factory=list)


def score(expected: Sequence[Report], found: Sequence[Report]) -> Score:
    """Compare reports in pairs.

    Rows are matched as multisets of (organ, side, set of sub-segments, sorted diameters); rows for an uncounted number
    of lesions are left out. Attenuation counts for matched rows where either side states one.

    Raises:
        ValueError: the ids differ, or their order.
    """
    result = Score()
    for want, got in zip(expected, found, strict=True):
        if want.id != got.id:
            raise ValueError(f"score: reports must come in the same order; expected {want.id!r}, got {got.id!r}")
        _score_one(want, got, result)
    return result


def _score_one(want: Report, got: Report, result: Score) -> None:
    before = (result.triples.extra, result.triples.missed, result.attenuation.extra, result.attenuation.missed)
    left = _by_triple(got.tumours)
    for triple, rows in _by_triple(want.tumours).items():
        others = left.pop(triple, [])
        hits = min(len(rows), len(others))
        result.triples.hits += hits
        result.triples.missed += len(rows) - hits
        result.triples.extra += len(others) - hits
        _score_attenuation(rows, others, result.attenuation)
    result.triples.extra += sum(map(len, left.values()))
    after = (result.triples.extra, result.triples.missed, result.attenuation.extra, result.attenuation.missed)
    if before != after:
        result.wrong.append(want.id)


def _score_attenuation(rows: list[Tumour], others: list[Tumour], counts: Counts) -> None:
    """Of rows with the same triple; equal attenuations are paired first."""
    wanted = [row.attenuation for row in rows]
    given = []
    for other in others:
        if other.attenuation in wanted:
            wanted.remove(other.attenuation)
            counts.hits += other.attenuation != "unknown"
        else:
            given.append(other.attenuation)
    for want, got in zip(wanted, given, strict=False):
        counts.missed += want != "unknown"
        counts.extra += got != "unknown"


def _by_triple(tumours: Iterable[Tumour]) -> dict[Triple, list[Tumour]]:
    rows: dict[Triple, list[Tumour]] = {}
    for tumour in tumours:
        if tumour.count_known:
            rows.setdefault(_triple(tumour), []).append(tumour)
    return rows


def _triple(tumour: Tumour) -> Triple:
    diameters = tuple(sorted(round(diameter, 1) for diameter in tumour.diameters))
    return tumour.organ, tumour.laterality or "", frozenset(tumour.subsegments), diameters
