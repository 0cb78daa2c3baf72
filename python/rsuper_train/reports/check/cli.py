# SPDX-License-Identifier: Apache-2.0
"""`rsuper reports check`: the check with a progress bar, a summary for the terminal, and a page."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:  # slow imports, not needed for --help
    from rsuper_train.reports.check.problems import Problem
    from rsuper_train.reports.schema import Report, Tumour

WORKERS = min(8, os.cpu_count() or 1)
TableArgument = Annotated[
    Path, typer.Argument(help="Table of reports, as `rsuper reports extract` writes it, or a public one.")
]
DataOption = Annotated[
    Path | None, typer.Option(help="Folder of cases: <case>/ct.nii.gz with segmentations/*.nii.gz or labels.nii.gz.")
]
LabelSetOption = Annotated[
    str, typer.Option(help="What the masks are named after: totalsegmentator, abdomenatlas, or a file of your own.")
]
OutOption = Annotated[Path | None, typer.Option(help="The page; by default it lies beside the table.")]
VocabularyOption = Annotated[list[Path] | None, typer.Option(help="A vocabulary of your own; may be repeated.")]
ReportsOption = Annotated[Path | None, typer.Option(help="The reports, to hold the table's sentences against.")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Processes that read masks.")]


def check(
    table: TableArgument,
    data: DataOption = None,
    label_set: LabelSetOption = "totalsegmentator",
    out: OutOption = None,
    vocabulary: VocabularyOption = None,
    reports: ReportsOption = None,
    workers: WorkersOption = WORKERS,
) -> None:
    """Check a table of reports before training: sizes, places, contradictions, and whether the data fit it.

    Exits with 1 if there are errors; warnings alone do not count.
    """
    from rsuper_train.reports.check.page import write_lists, write_page
    from rsuper_train.reports.check.run import run_check
    from rsuper_train.reports.inputs import read_reports
    from rsuper_train.reports.masks import load_label_set
    from rsuper_train.reports.public_tables import read_any_table
    from rsuper_train.reports.vocabulary import load_vocabulary

    page = out or table.with_name(f"{table.stem}.check.html")
    if page.is_dir() or page.resolve() == table.resolve():
        raise ValueError(f"--out: expected a file for the page, such as {table.stem}.check.html, got {page}")
    console, words = Console(), load_vocabulary(vocabulary or ())
    labels = load_label_set(label_set)
    rows = read_any_table(table, words)
    texts = {document.id: document.text for document in read_reports(reports)} if reports else None
    columns = (TextColumn("reading masks"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=data is None, transient=True) as bar:
        task = bar.add_task("masks", total=None)
        problems = run_check(
            rows,
            words,
            data=data,
            label_set=labels,
            texts=texts,
            workers=workers,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    write_page(page, table.name, rows, problems, words)
    lists = write_lists(page, problems)
    print_summary(console, rows, problems)
    console.print(f"Written: {escape(', '.join(map(str, (page, *lists))))}", soft_wrap=True, highlight=False)
    if any(problem.severity == "error" for problem in problems):
        raise typer.Exit(1)


def print_summary(console: Console, reports: Sequence[Report], problems: Sequence[Problem]) -> None:
    """Tumours by organ and problems by kind."""
    tumours = [tumour for report in reports for tumour in report.tumours]
    if tumours:
        console.print(_organs_table(tumours, len(reports)))
    if problems:
        console.print(_problems_table(problems))
    counts = Counter(problem.severity for problem in problems)
    colour = "red" if counts["error"] else "yellow" if counts["warning"] else "green"
    found = f"{_count(counts['error'], 'error')}, {_count(counts['warning'], 'warning')}"
    verdict = found if problems else "No problems found"
    console.print(f"[bold {colour}]{verdict}[/] in {_count(len(reports), 'report')}.", highlight=False)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _organs_table(tumours: Sequence[Tumour], reports: int) -> Table:
    table = Table(title=f"{_count(len(tumours), 'tumour')} in {_count(reports, 'report')}", title_justify="left")
    table.add_column("organ")
    for name in ("tumours", "with size", "without", "median mm", "largest mm"):
        table.add_column(name, justify="right")
    for organ, count in Counter(tumour.organ for tumour in tumours).most_common():
        sizes = [max(tumour.diameters) for tumour in tumours if tumour.organ == organ and tumour.diameters]
        measured = (f"{median(sizes):.3g}", f"{max(sizes):.3g}") if sizes else ("", "")
        table.add_row(escape(organ), str(count), str(len(sizes)), str(count - len(sizes)), *measured)
    return table


def _problems_table(problems: Iterable[Problem]) -> Table:
    table = Table(title="Problems", title_justify="left")
    table.add_column("kind", no_wrap=True)
    for name in ("errors", "warnings"):
        table.add_column(name, justify="right")
    table.add_column("for example")
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    for kind, some in sorted(kinds.items(), key=lambda item: -len(item[1])):
        worst = min(some, key=lambda problem: problem.severity)
        errors = sum(problem.severity == "error" for problem in some)
        counts = [str(n) if n else "" for n in (errors, len(some) - errors)]
        table.add_row(f"[{'red' if errors else 'yellow'}]{kind}[/]", *counts, escape(f"{worst.case}: {worst.message}"))
    return table
