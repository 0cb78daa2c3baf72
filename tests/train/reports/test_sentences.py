# SPDX-License-Identifier: Apache-2.0
"""The embedded rules against report texts labelled by hand: one file to develop with, one that only measures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import pytest
import yaml

from rsuper_train.reports.rules import RulesExtractor
from rsuper_train.reports.schema import Place, Report, Tumour
from rsuper_train.reports.score import Counts, score
from rsuper_train.reports.vocabulary import load_vocabulary

SENTENCES, HARD, BLIND = "sentences.yaml", "more.yaml", "blind.yaml"
FILES = (SENTENCES, "third.yaml", "unseen.yaml", HARD, BLIND)
LEAST = 0.95


@lru_cache
def items(name: str) -> tuple[dict, ...]:
    return tuple(yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8")))


@lru_cache
def expected(name: str) -> tuple[Report, ...]:
    return tuple(
        Report(
            id=item["id"],
            tumours=[Tumour(**row) for row in item["tumours"]],
            negatives=[Place(**place) for place in item.get("negatives", [])],
        )
        for item in items(name)
    )


@lru_cache
def found(name: str) -> tuple[Report, ...]:
    extractor = RulesExtractor(load_vocabulary())
    return tuple(extractor.extract(item["id"], item["text"]) for item in items(name))


def rows(report: Report) -> list[str]:
    """The report's rows, as short as a person can compare them."""
    return [
        f"{row} {'x'.join(f'{mm:g}' for mm in row.diameters) or '-'} {row.attenuation}{' many' * (not row.count_known)}"
        for row in report.tumours
    ]


def failures(name: str, ids: Iterable[str]) -> str:
    """The failing items; of the file that only measures, no more than their ids."""
    ids = set(ids)
    if name == BLIND:
        return " ".join(sorted(ids))
    return "\n".join(
        f"{want.id} {item['about']}: {item['text']}\n  expected {rows(want)}\n  found    {rows(got)}"
        for item, want, got in zip(items(name), expected(name), found(name), strict=True)
        if want.id in ids
    )


def compare(want: Iterable[object], got: Iterable[object]) -> Counts:
    left, right = Counter(want), Counter(got)
    return Counts((left & right).total(), (right - left).total(), (left - right).total())


def f1_of(name: str, wants: Iterable[list], gots: Iterable[list]) -> tuple[float, str]:
    """F1 of `compare` summed over a file's items, and the failing ones."""
    counts = {report.id: compare(want, got) for report, want, got in zip(expected(name), wants, gots, strict=True)}
    total = Counts(*(sum(getattr(one, part) for one in counts.values()) for part in ("hits", "extra", "missed")))
    return total.f1, f"{total}\n{failures(name, [key for key, one in counts.items() if one.extra + one.missed])}"


@pytest.mark.parametrize("name", FILES)
def test_labels_are_in_the_vocabulary(name: str) -> None:
    organs = load_vocabulary().organs
    for report in expected(name):
        for place in (*report.tumours, *report.negatives):
            where = f"{report.id}: {place}"
            assert place.organ == "unknown" or place.organ in organs, where
            parts = list(organs[place.organ].subsegments) if place.organ in organs else []
            assert list(place.subsegments) == [part for part in parts if part in place.subsegments], where
            assert place.laterality is None or organs[place.organ].paired, where


@pytest.mark.parametrize(("name", "least"), [(SENTENCES, 260), (BLIND, 170)])
def test_files_are_large_and_varied(name: str, least: int) -> None:
    reports = expected(name)
    assert len(reports) >= least
    assert len({report.id for report in reports}) == len(reports)
    assert len({item["text"] for item in items(name)}) == len(reports)
    assert sum(not report.tumours for report in reports) >= len(reports) / 3
    assert {row.organ for report in reports for row in report.tumours} >= set(load_vocabulary().organs)


@pytest.mark.parametrize("name", FILES)
def test_rules_find_rows_and_attenuation(name: str) -> None:
    result = score(expected(name), found(name))
    worst = min(result.triples.f1, result.attenuation.f1)
    assert worst >= LEAST, f"rows {result.triples}, attenuation {result.attenuation}\n{failures(name, result.wrong)}"


@pytest.mark.parametrize("name", FILES)
def test_rules_find_uncounted_rows(name: str) -> None:
    def uncounted(reports: Iterable[Report]) -> list[list]:
        return [
            [(row.organ, row.laterality, row.subsegments) for row in report.tumours if not row.count_known]
            for report in reports
        ]

    f1, message = f1_of(name, uncounted(expected(name)), uncounted(found(name)))
    assert f1 >= LEAST, message


@pytest.mark.parametrize("name", FILES)
def test_rules_find_negatives(name: str) -> None:
    """Where an item judges them; "both adrenal glands" and "the adrenal glands" are the same place."""
    judged = {item["id"] for item in items(name) if "negatives" in item}

    def negatives(reports: Iterable[Report]) -> list[list]:
        return [
            [(place.organ, place.laterality if place.laterality != "bilateral" else None) for place in report.negatives]
            if report.id in judged
            else []
            for report in reports
        ]

    f1, message = f1_of(name, negatives(expected(name)), negatives(found(name)))
    assert f1 >= LEAST, message


@pytest.mark.parametrize("name", FILES)
def test_rules_find_certainty(name: str) -> None:
    """Of rows whose label states one, and whose place and size were found."""

    def key(row: Tumour) -> tuple:
        return row.organ, row.laterality, row.subsegments, row.diameters

    stated = [[row for row in report.tumours if row.certainty != "unknown"] for report in expected(name)]
    right = wrong = 0
    for wanted, report in zip(stated, found(name), strict=True):
        by_key = {key(row): row.certainty for row in report.tumours}
        for row in wanted:
            right += by_key.get(key(row)) == row.certainty
            wrong += by_key.get(key(row), row.certainty) != row.certainty
    # a file states 9 to 25 of them, so that one is more than five percent
    assert wrong <= max(1, (1 - LEAST) * (right + wrong)), f"{wrong} of {right + wrong} certainties are wrong"
