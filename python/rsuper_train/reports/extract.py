# SPDX-License-Identifier: Apache-2.0
"""Extraction of many reports: by rules in several processes, by a language model, or by both; none is lost."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rsuper_train.reports.inputs import Document
from rsuper_train.reports.schema import NO_ANSWER, NO_TEXT, Report, hash_text
from rsuper_train.reports.table import write_csv
from rsuper_train.reports.vocabulary import load_vocabulary

if TYPE_CHECKING:
    from rsuper_train.reports.consensus import Disagreement
    from rsuper_train.reports.llm import LlmExtractor, LlmSettings

FAILED = "not extracted"
UNREAD = (FAILED, NO_TEXT, NO_ANSWER)
"""Flags, up to a colon, of reports that an extractor has not read."""

CHUNK = 100
FEW = 4000
"""Reports that one process reads before others have started."""


class Extractor(Protocol):
    """What reads one report."""

    name: str

    def extract(self, id: str, text: str) -> Report: ...


MakeExtractor = Callable[[], Extractor]
OnDone = Callable[[Report], object]


def rules_extractor(vocabulary: Sequence[Path] = ()) -> Extractor:
    """The embedded extractor, with the user's vocabularies."""
    from rsuper_train.reports.rules import RulesExtractor

    extractor: Extractor = RulesExtractor(load_vocabulary(vocabulary))
    return extractor


def llm_extractor(settings: LlmSettings, vocabulary: Sequence[Path] = ()) -> LlmExtractor:
    """The extractor that asks a language model."""
    from rsuper_train.reports.llm import LlmExtractor

    return LlmExtractor(settings, load_vocabulary(vocabulary))


def extract_locally(
    documents: Sequence[Document], make: MakeExtractor, workers: int | None = None, on_done: OnDone | None = None
) -> list[Report]:
    """Read reports on this machine, in their order; one that the extractor fails on is flagged "not extracted".

    Args:
        documents: see `read_reports`; their flags go before the extractor's.
        make: makes the extractor, once a process.
        workers: processes; None: one per core, a single one for a few reports.
        on_done: called with each report.

    Raises:
        ChildProcessError: a process was killed.
    """
    if workers is None:
        workers = (os.cpu_count() or 1) if len(documents) > FEW else 1
    done = _serially(documents, make) if workers == 1 else _in_processes(documents, make, workers)
    return _collect(done, on_done)


def extract_by_llm(
    documents: Sequence[Document], extractor: LlmExtractor, journal: Path, on_done: OnDone | None = None
) -> list[Report]:
    """Read reports with a language model, in their order; a run that was cut off goes on from its journal."""
    pairs = [(document.id, document.text) for document in documents]
    reports = asyncio.run(extractor.extract_all(pairs, journal, on_done))
    return [_with_flags(report, document) for report, document in zip(reports, documents, strict=True)]


def join(first: Iterable[Report], second: Iterable[Report]) -> tuple[list[Report], list[Disagreement]]:
    """What two extractors agree on, report by report, and where they do not."""
    from rsuper_train.reports.consensus import consensus

    joined = [consensus(one, other) for one, other in zip(first, second, strict=True)]
    return [item.report for item in joined], [found for item in joined for found in item.disagreements]


def write_review(found: Sequence[Disagreement], path: Path) -> None:
    """The disagreements as CSV, for a person to go through: report_id, kind, first, second."""
    rows = ((item.report_id, item.kind, item.first, item.second) for item in found)
    write_csv(path, ("report_id", "kind", "first", "second"), rows)


def summary(reports: Sequence[Report], rows: int) -> str:
    """One line: how many reports were read, extracted and flagged, by flag, and how many rows were written."""
    kinds = Counter(kind for report in reports for kind in {_kind(flag) for flag in report.flags})
    flagged = sum(bool(report.flags) for report in reports)
    unread = sum(any(_kind(flag) in UNREAD for flag in report.flags) for report in reports)
    listed = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    return (
        f"{len(reports):,} reports read, {len(reports) - unread:,} extracted, {flagged:,} flagged"
        f"{f' ({listed})' if listed else ''}; {rows:,} rows written"
    )


def _kind(flag: str) -> str:
    return flag.partition(":")[0]


def _collect(done: Iterable[Report], on_done: OnDone | None) -> list[Report]:
    reports = []
    for report in done:
        reports.append(report)
        if on_done is not None:
            on_done(report)
    return reports


def _serially(documents: Sequence[Document], make: MakeExtractor) -> Iterator[Report]:
    extractor = make()
    return (_extract(extractor, document) for document in documents)


def _in_processes(documents: Sequence[Document], make: MakeExtractor, workers: int) -> Iterator[Report]:
    # forking a process that has threads, as torch and a progress bar do, may hang
    context = multiprocessing.get_context("spawn")
    chunks = [documents[start : start + CHUNK] for start in range(0, len(documents), CHUNK)]
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(make,))
    try:
        for reports in pool.map(_extract_chunk, chunks):
            yield from reports
    except BrokenProcessPool:
        raise ChildProcessError(
            "a process that extracts reports was killed, most often for want of memory; use fewer --workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_extractor: Extractor | None = None


def _start(make: MakeExtractor) -> None:
    global _extractor
    _extractor = make()


def _extract_chunk(documents: Sequence[Document]) -> list[Report]:
    assert _extractor is not None
    return list(map(partial(_extract, _extractor), documents))


def _extract(extractor: Extractor, document: Document) -> Report:
    try:
        report = extractor.extract(document.id, document.text)
    except Exception as error:  # one report must not cost the others
        report = Report(
            id=document.id,
            flags=(f"{FAILED}: {type(error).__name__}",),
            extractor=extractor.name,
            text_hash=hash_text(document.text),
        )
    return _with_flags(report, document)


def _with_flags(report: Report, document: Document) -> Report:
    flags = tuple(dict.fromkeys((*document.flags, *report.flags)))
    return report if flags == report.flags else report.model_copy(update={"flags": flags})
