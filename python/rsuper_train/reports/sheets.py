# SPDX-License-Identifier: Apache-2.0
"""Tables in files: CSV, TSV and Parquet as text cells with the line each row came from, whatever the encoding."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

CP1252 = "decoded as cp1252"
SUBSTITUTE = "\x1a"
"""Stands for a NUL character, which the csv module of Python 3.10 does not take."""

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_FORMATS = {
    b"PK\x03\x04": "an Excel workbook or a zip file",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x1f\x8b": "a gzip file",
    b"ARROW1": "a Feather file",
    b"%PDF": "a PDF",
}
_LARGEST_FIELD = 2**31 - 1
_HEAD = 4096


@dataclass(frozen=True)
class Row:
    """One row: its cells as text, its first line in the file (in Parquet: its number), and why to look at it."""

    line: int
    cells: list[str]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sheet:
    """A table as read: column names, rows of as many cells, and what a row's number counts ("line" or "row")."""

    path: Path
    columns: list[str]
    rows: list[Row]
    unit: str = "line"

    def where(self, row: Row, column: str | None = None) -> str:
        """Start of a message about a row, or one of its cells."""
        place = f"{self.path}, {self.unit} {row.line}"
        return place if column is None else f"{place}, column {column}"


def read_sheet(path: Path, known: Iterable[str] = ()) -> Sheet:
    """Read a table; the contents decide about the format, the header about the delimiter (comma, semicolon or tab).

    Text is UTF-8, or UTF-16 with a byte order mark; a line that is no UTF-8 is read as cp1252, and its row flagged.

    Args:
        path: CSV, TSV or Parquet.
        known: names of columns, in any case, that settle what the delimiter is.

    Raises:
        ValueError: not a table, broken quoting, a row with more or fewer cells than the header; the line is named.
    """
    head = _head(path)
    if not head:
        raise ValueError(f"{path}: the file is empty")
    if head.startswith(b"PAR1"):
        return _read_parquet(path)
    lines, decoded = _lines(path, head)
    rows = _parse(path, lines, _delimiter(lines, {name.casefold() for name in known}), decoded)
    header = next(rows, None)
    if header is None:
        raise ValueError(f"{path}: the file is empty")
    columns = [name.strip() for name in header.cells]
    return Sheet(path, columns, [_fit(path, row, len(columns)) for row in rows])


@contextmanager
def large_fields() -> Iterator[None]:
    """Let the csv module take cells of any size."""
    limit = csv.field_size_limit(_LARGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _lines(path: Path, head: bytes) -> tuple[list[str], set[int]]:
    """The file's lines with their ends, and the numbers of those decoded as cp1252."""
    for magic, name in _FORMATS.items():
        if head.startswith(magic):
            raise ValueError(f"{path}: this is {name}; save the table as CSV in UTF-8, or as Parquet")
    wide = head.startswith(_UTF16)
    if not wide and head.count(0) > len(head) // 10:
        raise ValueError(f"{path}: this is a binary file; expected CSV in UTF-8 (or UTF-16 with a byte order mark)")
    data = path.read_bytes()
    try:
        text = data.decode("utf-16", "replace") if wide else data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return _line_by_line(data.removeprefix(codecs.BOM_UTF8))
    # str.splitlines would also break at form feeds and the like
    return io.StringIO(text.replace("\0", SUBSTITUTE), newline="").readlines(), set()


def _line_by_line(data: bytes) -> tuple[list[str], set[int]]:
    lines, decoded = [], set()
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            text = line.decode("cp1252", "replace")
            decoded.add(number)
        lines.append(text.replace("\0", SUBSTITUTE))
    return lines, decoded


def _delimiter(lines: list[str], known: set[str]) -> str:
    """The delimiter that splits the header into most known columns, then into most columns."""

    def score(delimiter: str) -> tuple[int, int]:
        try:
            with large_fields():
                header = next(csv.reader(lines, delimiter=delimiter), [])
        except csv.Error:
            return 0, 0
        return sum(name.strip().casefold() in known for name in header), len(header)

    return max(",;\t", key=score)


def _parse(path: Path, lines: list[str], delimiter: str, decoded: set[int]) -> Iterator[Row]:
    """Rows that are not blank. Quoting is strict: a stray quote would swallow the rows behind it."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    first = 1
    while True:
        try:
            with large_fields():
                cells = next(reader, None)
        except csv.Error as error:
            last = max(first, reader.line_num)
            raise ValueError(
                f"{path}, line {last}: broken quoting in the row that starts at line {first} ({error}); "
                'a cell with quotes, line breaks or delimiters needs quotes around it, and "" for each quote inside'
            ) from None
        if cells is None:
            return
        last = reader.line_num
        if any(cell.strip() for cell in cells):
            flagged = decoded and not decoded.isdisjoint(range(first, last + 1))
            yield Row(first, cells, (CP1252,) if flagged else ())
        first = last + 1


def _fit(path: Path, row: Row, count: int) -> Row:
    """The row, less empty cells beyond the header's."""
    cells = row.cells
    if len(cells) > count and not any(cell.strip() for cell in cells[count:]):
        cells = cells[:count]
    if len(cells) != count:
        hint = "an unquoted delimiter in a cell?" if len(cells) > count else "is the row cut off?"
        raise ValueError(f"{path}, line {row.line}: expected {count} cells as in the header, got {len(cells)}; {hint}")
    return Row(row.line, cells, row.flags)


def _read_parquet(path: Path) -> Sheet:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: this Parquet file cannot be read: {error}") from None
    columns = [[_as_text(value) for value in column.to_pylist()] for column in table.columns]
    rows = [Row(number, list(cells)) for number, cells in enumerate(zip(*columns, strict=True), start=1)]
    return Sheet(path, list(table.column_names), rows, unit="row")


def _as_text(value: Any) -> str:
    if value is None or value != value:  # NaN is a blank cell
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return format_number(value) if isinstance(value, float) else str(value)


def format_number(value: float) -> str:
    """Shortest text that `float` reads back exactly: "24" for 24.0."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def missing_columns(sheet: Sheet, needed: Iterable[str], what: str) -> None:
    """Raise unless all needed columns are there; the message names those that are not."""
    missing = [name for name in needed if name not in sheet.columns]
    if missing:
        raise ValueError(
            f"{sheet.path}: {what} needs the columns {', '.join(missing)}; the columns are {shortened(sheet.columns)}"
        )


def shortened(names: Iterable[str], most: int = 20) -> str:
    """The names for a message, the rest of a long list as a number."""
    listed = list(names)
    shown = [name if len(name) <= 60 else f"{name[:57]}..." for name in listed[:most]]
    return ", ".join(chain(shown, [f"and {len(listed) - most} more"] if len(listed) > most else []))
