# SPDX-License-Identifier: Apache-2.0
"""Reports as files hold them: one document a row, with flags for what a person should know about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rsuper_train.reports.markup import clean, clean_and_flag
from rsuper_train.reports.schema import DUPLICATE, DUPLICATE_ID, NO_TEXT
from rsuper_train.reports.sheets import Sheet, read_sheet, shortened

__all__ = ["Document", "clean", "read_reports"]

ID_COLUMNS = (
    "id",
    "report_id",
    "BDMAP_ID",
    "BDMAP ID",
    "Anon Acc #",
    "Acc #",
    "Encrypted Accession Number",
    "Accession Number",
    "accessionnumber",
)
TEXT_COLUMNS = ("report", "Report Text", "Anon Report Text", "Findings", "answer", "text")

NO_ID = "no id"
VERY_LONG = "very long"

LONG_TEXT = 200_000
"""Characters; no radiology report is as long."""


@dataclass(frozen=True)
class Document:
    """One report to read.

    Args:
        id: unique within its file.
        text: the report with markup and control characters blanked; as long as it was, so offsets count in both.
        flags: "no id" (the line's number stands in), "no text", "very long", "duplicate" (the same report again, left
            out), "duplicate id" (another report under the same id; both are there, the later as "id#2"), "HTML", "RTF",
            "control characters", "decoded as cp1252".
    """

    id: str
    text: str
    flags: tuple[str, ...] = ()


def read_reports(path: Path, id_column: str | None = None, text_column: str | None = None) -> list[Document]:
    """The reports of a CSV, TSV or Parquet file, in its order; none is left out but exact repetitions.

    Args:
        path: comma, semicolon or tab between cells; UTF-8, UTF-16 with a byte order mark, else cp1252.
        id_column: default: "id", or a name that public tables give it, in any case.
        text_column: default: "report", or a name that public tables give it, in any case.

    Raises:
        ValueError: not a table, a column that is missing, broken quoting; the file and the line are named.
    """
    path = Path(path)
    ids = ID_COLUMNS if id_column is None else (id_column,)
    texts = TEXT_COLUMNS if text_column is None else (text_column,)
    sheet = read_sheet(path, (*ids, *texts))
    id_index = _find(sheet, ids, "--id-column")
    text_index = _find(sheet, texts, "--text-column")
    read = (
        _document(row.cells[id_index], row.cells[text_index], f"{sheet.unit} {row.line}", row.flags)
        for row in sheet.rows
    )
    return _distinct(read)


def _find(sheet: Sheet, names: tuple[str, ...], option: str) -> int:
    """Index of the first of the names that is a column."""
    columns = [name.casefold() for name in sheet.columns]
    for name in names:
        if name in sheet.columns:
            return sheet.columns.index(name)
        if name.casefold() in columns:
            return columns.index(name.casefold())
    expected = f"{names[0]!r}" if len(names) == 1 else f"{names[0]!r} (nor {', '.join(names[1:])})"
    raise ValueError(
        f"{sheet.path}: there is no column {expected}; the columns are {shortened(sheet.columns)}; "
        f"name the right one with {option}"
    )


def _document(id: str, raw: str, line: str, flags: tuple[str, ...]) -> Document:
    text, marks = clean_and_flag(raw)
    id = id.strip()
    reasons = {
        NO_ID: not id,
        NO_TEXT: not text.strip(),
        VERY_LONG: len(text) > LONG_TEXT,
    }
    # a line that is plain ASCII reads the same either way; a row may hold others that are not
    kept = () if raw.isascii() else flags
    return Document(id or line, text, (*(flag for flag, holds in reasons.items() if holds), *marks, *kept))


def _distinct(documents: Iterable[Document]) -> list[Document]:
    """Each report once, under an id of its own."""
    kept: list[Document] = []
    by_id: dict[str, dict[str, int]] = {}
    for document in documents:
        known = by_id.setdefault(document.id, {})
        if document.text in known:
            _flag(kept, known[document.text], DUPLICATE)
            continue
        if known:
            _flag(kept, next(iter(known.values())), DUPLICATE_ID)
            document = replace(document, flags=(*document.flags, DUPLICATE_ID))
        known[document.text] = len(kept)
        kept.append(document)
    return list(_renamed(kept))


def _flag(documents: list[Document], index: int, flag: str) -> None:
    document = documents[index]
    if flag not in document.flags:
        documents[index] = replace(document, flags=(*document.flags, flag))


def _renamed(documents: list[Document]) -> Iterator[Document]:
    """The later of two documents with one id gets another: "id#2"."""
    taken = {document.id for document in documents}
    counts: dict[str, int] = {}
    for document in documents:
        count = counts[document.id] = counts.get(document.id, 0) + 1
        name = document.id
        while count > 1 and name in taken:
            name = f"{document.id}#{count}"
            count += 1
        counts[document.id] = max(counts[document.id], count - 1)
        taken.add(name)
        yield document if name == document.id else replace(document, id=name)
