# SPDX-License-Identifier: Apache-2.0
"""A progress line for many reports: how many, how fast, how many flagged, how long to go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rsuper_train.reports.schema import Report


@contextmanager
def report_progress(
    total: int | None, console: Console | None = None, name: str = "reports"
) -> Iterator[Callable[[Report], None]]:
    """Shows a line while the block runs; the function that it gives is to be called with each finished report.

    Args:
        total: number of reports; None where it is not known.
        console: the terminal; by default the standard error stream, so that output can be piped.
        name: of what is done.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} reports/s"),
        TextColumn("{task.fields[flagged]} flagged"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    started = time.monotonic()
    done = flagged = 0
    with Progress(*columns, console=console or Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=total, rate=0.0, flagged=0)

        def advance(report: Report) -> None:
            nonlocal done, flagged
            done += 1
            flagged += bool(report.flags)
            rate = done / max(time.monotonic() - started, 1e-6)
            bar.update(task, advance=1, rate=rate, flagged=flagged)

        yield advance
