# SPDX-License-Identifier: Apache-2.0
"""The page of a check, for a browser or a printer, in one file; and the list of problems for a program."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from rsuper_train import pages
from rsuper_train.files import write_text
from rsuper_train.reports.check import charts
from rsuper_train.reports.check.measures import Piece, highlight
from rsuper_train.reports.check.problems import KINDS, Problem
from rsuper_train.reports.schema import Report, Tumour
from rsuper_train.reports.table import write_csv
from rsuper_train.reports.vocabulary import Vocabulary

SHOWN = 200
"""Problems of a kind that the page shows; the list beside it has all."""
LONGEST_SENTENCE = 600
"""Characters of a sentence that the page shows; a longer one is a report without full stops."""
COLUMNS = ("case", "tumour", "kind", "severity", "message")


@dataclass(frozen=True)
class Row:
    """One problem with the tumour it is about."""

    problem: Problem
    tumour: Tumour | None
    pieces: list[Piece]

    @property
    def size(self) -> str:
        """Diameters as a reader expects them; "not given" for a tumour without any."""
        if self.tumour is None:
            return ""
        return " x ".join(f"{d:.4g}" for d in self.tumour.diameters) + " mm" if self.tumour.diameters else "not given"


@dataclass(frozen=True)
class Section:
    """All problems of one kind; `rows` are the first SHOWN."""

    kind: str
    about: str
    errors: int
    warnings: int
    rows: list[Row]

    @property
    def of_tumours(self) -> bool:
        return any(row.tumour for row in self.rows)

    @property
    def hidden(self) -> int:
        return self.errors + self.warnings - len(self.rows)


def write_page(
    path: Path, name: str, reports: Sequence[Report], problems: Sequence[Problem], vocabulary: Vocabulary
) -> None:
    """Write the page about the table called `name`; it needs nothing but itself."""
    tumours = [tumour for report in reports for tumour in report.tumours]
    pages.write(
        path,
        "reports/check/page.html.j2",
        name=name,
        facts=_facts(reports, tumours),
        errors=sum(problem.severity == "error" for problem in problems),
        warnings=sum(problem.severity == "warning" for problem in problems),
        sections=_sections(reports, problems, vocabulary),
        shown=SHOWN,
        list_name=list_path(path, "csv").name,
        organs_chart=Markup(charts.organs_chart(tumours)),
        diameters_chart=Markup(charts.diameters_chart(tumours)),
        attenuation_chart=Markup(charts.attenuation_chart(tumours)),
    )


def list_path(page: Path, suffix: str) -> Path:
    """Where the list of problems lies; never the name of a table that the page may be named after."""
    return page.with_name(f"{page.stem}.problems.{suffix}")


def write_lists(page: Path, problems: Sequence[Problem]) -> tuple[Path, Path]:
    """Write all problems beside the page, as JSON and as CSV; returns the two paths."""
    rows = [{name: getattr(problem, name) for name in COLUMNS} for problem in problems]
    as_json, as_csv = list_path(page, "json"), list_path(page, "csv")
    text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    write_text(as_json, text)
    write_csv(as_csv, COLUMNS, (row.values() for row in rows))
    return as_json, as_csv


def _facts(reports: Sequence[Report], tumours: Sequence[Tumour]) -> list[tuple[str, str]]:
    """What the page counts, with its label."""
    sized = sum(tumour.size_known for tumour in tumours)
    share = f" ({sized / len(tumours):.0%})" if tumours else ""
    return [
        (f"{len(reports):,}", "reports"),
        (f"{sum(not report.tumours for report in reports):,}", "of them without a tumour"),
        (f"{len(tumours):,}", "tumours"),
        (f"{sized:,}{share}", "with a size"),
        (f"{sum(tumour.attenuation != 'unknown' for tumour in tumours):,}", "with an attenuation"),
        (f"{sum(len(report.negatives) for report in reports):,}", "places said to be free of tumours"),
    ]


def _sections(reports: Sequence[Report], problems: Sequence[Problem], vocabulary: Vocabulary) -> list[Section]:
    """The problems by kind, kinds with errors first."""
    counts = Counter(report.id for report in reports)
    tumours = {report.id: report.tumours for report in reports if counts[report.id] == 1}
    kinds: dict[str, list[Problem]] = {}
    for problem in sorted(problems, key=lambda problem: problem.severity):
        kinds.setdefault(problem.kind, []).append(problem)
    sections = []
    for kind, some in kinds.items():
        errors = sum(problem.severity == "error" for problem in some)
        rows = [_row(problem, tumours.get(problem.case, ()), vocabulary) for problem in some[:SHOWN]]
        sections.append(Section(kind, KINDS[kind], errors, len(some) - errors, rows))
    return sorted(sections, key=lambda section: (not section.errors, -section.errors - section.warnings))


def _row(problem: Problem, tumours: Sequence[Tumour], vocabulary: Vocabulary) -> Row:
    if problem.tumour is None or problem.tumour >= len(tumours):
        return Row(problem, None, [])
    tumour = tumours[problem.tumour]
    words = (tumour.type, "lesion", *vocabulary.lesions.get(tumour.type, ()))
    sentence = tumour.sentence
    if len(sentence) > LONGEST_SENTENCE:
        sentence = f"{sentence[:LONGEST_SENTENCE]} …"
    return Row(problem, tumour, highlight(sentence, words, tumour.diameters))
