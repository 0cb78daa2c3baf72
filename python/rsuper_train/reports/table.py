# SPDX-License-Identifier: Apache-2.0
"""The table of tumours: one row per tumour, one for a report without any; CSV or Parquet, read back exactly."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from rsuper_train.files import write_atomically
from rsuper_train.reports.places import join_names, join_places, parse_names, parse_places
from rsuper_train.reports.schema import Report, Tumour
from rsuper_train.reports.sheets import Row, Sheet, format_number, missing_columns, read_sheet

VERSION = 1

COLUMNS = {
    "table_version": f"version of this format: {VERSION}",
    "report_id": "the case; all rows of a report have the same",
    "tumour": "1, 2, ... in the order of the report; 0 for the one row of a report without tumours",
    "organ": 'the vocabulary\'s name of the organ; "unknown" where the report does not say',
    "laterality": '"left", "right" or "bilateral"; blank where the organ is not paired or the side is not said',
    "subsegments": 'parts of the organ, "segment 5; segment 6"; blank for the organ as a whole',
    "diameters_mm": 'one to three diameters in mm as reported, "24 x 19"; blank where the size is unknown',
    "volume_mm3": "volume where the report gives one; blank otherwise, diameters or not",
    "size_known": "False where there are no diameters",
    "count_known": 'False for a row that stands for an uncounted number of tumours ("multiple")',
    "attenuation": 'against the organ: "hypo", "iso", "hyper", "mixed" or "unknown"',
    "type": 'most specific name in the report ("cyst", "metastasis"); "lesion" where it has none',
    "certainty": '"certain", "high", "low" or "unknown"',
    "sentence": "the sentence that says so, as written",
    "start": "offset of the sentence in the report, in characters",
    "end": "offset behind the sentence",
    "negatives": 'places the report says are free of tumours, "spleen; left kidney; liver, segment 2 / segment 3"',
    "flags": 'why a person should look at the report, "very long; HTML"',
    "extractor": "what read the report",
    "text_hash": "first 16 hexadecimal digits of the SHA-256 of the report's text in UTF-8",
}
"""The columns in order, each with what it holds. Names in lists have a backslash before any of `\\ ; , /` in them."""

_TUMOUR = tuple(COLUMNS)[3:16]
_REPORT = tuple(COLUMNS)[16:]
_BATCH = 50_000
_DELIMITERS = {".csv": ",", ".tsv": "\t"}

# What spreadsheets take for a formula gets an apostrophe in front; so does what already has one, so that it comes back.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")

T = TypeVar("T")


def write_table(reports: Iterable[Report], path: Path) -> int:
    """Write the table, whole or not at all; the suffix chooses the format: .csv, .tsv or .parquet.

    In CSV and TSV, a cell that a spreadsheet would take for a formula has an apostrophe in front, which `read_table`
    removes.

    Returns:
        How many rows were written.

    Raises:
        ValueError: another suffix, or two reports with one id.
    """
    path = Path(path)
    check_suffix(path)
    suffix = path.suffix.lower()
    count = 0

    def write(part: Path) -> None:
        nonlocal count
        rows = _rows(reports)
        count = _write_parquet(rows, part) if suffix == ".parquet" else _write_text(rows, _DELIMITERS[suffix], part)

    write_atomically(path, write)
    return count


def check_suffix(path: Path) -> None:
    """Raise unless the suffix is that of a format that `write_table` knows."""
    if path.suffix.lower() not in (*_DELIMITERS, ".parquet"):
        raise ValueError(f"{path}: expected a name ending in .csv, .tsv or .parquet")


def read_table(path: Path) -> list[Report]:
    """Read what `write_table` wrote, also after a person edited it: rows in any order, tumours or reports removed,
    columns added.

    Raises:
        ValueError: missing columns, a cell that does not fit, rows of one report that contradict each other, a version
            newer than this program; the file, line and column are named.
    """
    return reports_of(read_sheet(Path(path), COLUMNS))


def reports_of(sheet: Sheet) -> list[Report]:
    """The reports of a table that has been read; see `read_table`."""
    missing_columns(sheet, COLUMNS, "a table of tumours")
    index = {name: sheet.columns.index(name) for name in COLUMNS}
    marked = sheet.unit == "line"
    by_id: dict[str, list[_Cells]] = {}
    for row in sheet.rows:
        cells = _Cells(sheet, row, index, marked)
        cells.check_version()
        by_id.setdefault(cells["report_id"], []).append(cells)
    return [_report(rows) for rows in by_id.values()]


def _rows(reports: Iterable[Report]) -> Iterator[dict[str, Any]]:
    seen = set()
    for report in reports:
        if report.id in seen:
            raise ValueError(f"report_id: {report.id!r} is there twice; the table needs an id of its own per report")
        seen.add(report.id)
        said = {
            "negatives": join_places(report.negatives),
            "flags": join_names(report.flags),
            "extractor": report.extractor,
            "text_hash": report.text_hash,
        }
        if not report.tumours:
            yield {"table_version": VERSION, "report_id": report.id, "tumour": 0, **dict.fromkeys(_TUMOUR), **said}
        for number, tumour in enumerate(report.tumours, start=1):
            yield {"table_version": VERSION, "report_id": report.id, "tumour": number, **_tumour_cells(tumour), **said}


def _tumour_cells(tumour: Tumour) -> dict[str, Any]:
    return {
        "organ": tumour.organ,
        "laterality": tumour.laterality,
        "subsegments": join_names(tumour.subsegments),
        "diameters_mm": " x ".join(map(format_number, tumour.diameters)),
        "volume_mm3": tumour.volume,
        "size_known": tumour.size_known,
        "count_known": tumour.count_known,
        "attenuation": tumour.attenuation,
        "type": tumour.type,
        "certainty": tumour.certainty,
        "sentence": tumour.sentence,
        "start": tumour.start,
        "end": tumour.end,
    }


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a text table for people and their spreadsheets, whole or not at all."""

    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([columns, *(map(as_cell, row) for row in rows)])

    write_atomically(path, write)


def _write_text(rows: Iterator[dict[str, Any]], delimiter: str, path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow(map(as_cell, row.values()))
            count += 1
    return count


def as_cell(value: Any) -> str:
    """A cell of a text table; nothing that a spreadsheet would compute."""
    if value is None:
        return ""
    if isinstance(value, float):
        return format_number(value)
    text = str(value)
    return f"'{text}" if _FORMULA.match(text) else text


def _write_parquet(rows: Iterator[dict[str, Any]], path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        **dict.fromkeys(("table_version", "tumour", "start", "end"), pa.int64()),
        **dict.fromkeys(("size_known", "count_known"), pa.bool_()),
        "volume_mm3": pa.float64(),
    }
    schema = pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        while batch := list(itertools.islice(rows, _BATCH)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


class _Cells:
    """One row by column, with messages that say where it is."""

    def __init__(self, sheet: Sheet, row: Row, index: dict[str, int], marked: bool) -> None:
        self._sheet, self._row, self._index, self._marked = sheet, row, index, marked

    def __getitem__(self, column: str) -> str:
        cell = self._row.cells[self._index[column]]
        return cell[1:] if self._marked and cell.startswith("'") and _FORMULA.match(cell) else cell

    def parse(self, column: str, expected: str, read: Callable[[str], T]) -> T:
        try:
            return read(self[column])
        except (ValueError, KeyError):
            raise self.error(column, expected) from None

    def error(self, column: str, expected: str) -> ValueError:
        value = self[column]
        shown = repr(value if len(value) <= 80 else f"{value[:77]}...")
        return ValueError(f"{self._sheet.where(self._row, column)}: expected {expected}, got {shown}")

    def check_version(self) -> None:
        version = self.parse("table_version", f"a number up to {VERSION}", _whole)
        if version > VERSION:
            raise ValueError(
                f"{self._sheet.where(self._row)}: the table has version {version}, and this program reads versions up "
                f"to {VERSION}; update rsuper-kernels"
            )
        if version < 1:
            raise self.error("table_version", f"a number from 1 to {VERSION}")

    @property
    def number(self) -> int:
        return self.parse("tumour", "a whole number, 0 for a report without tumours", _whole)

    @property
    def number_in_file(self) -> str:
        return f"{self._sheet.unit} {self._row.line}"


def _whole(cell: str) -> int:
    # spreadsheets and data frames make 3.0 of 3
    value = float(cell)
    if not value.is_integer() or value < 0:
        raise ValueError(cell)
    return int(value)


def _truth(cell: str) -> bool:
    return {"true": True, "false": False, "1": True, "0": False}[cell.strip().lower()]


def _diameters(cell: str) -> tuple[float, ...]:
    return tuple(float(part) for part in cell.split(" x ")) if cell.strip() else ()


def _optional_number(cell: str) -> float | None:
    return float(cell) if cell.strip() else None


def _report(rows: list[_Cells]) -> Report:
    """The report that these rows are of."""
    first = rows[0]
    if not first["report_id"]:
        raise first.error("report_id", "the id of a report")
    for other in rows[1:]:
        for column in _REPORT:
            if other[column] != first[column]:
                raise other.error(column, f"what {first.number_in_file} says of the same report, {first[column]!r}")
    numbered = sorted(rows, key=lambda cells: cells.number)
    for before, after in itertools.pairwise(numbered):
        if before.number == after.number or before.number == 0:
            what = "the only row of the report" if before.number == 0 else "each number once"
            raise after.error("tumour", f"{what} ({before.number_in_file} has {before.number})")
    tumours = () if numbered[0].number == 0 else tuple(map(_tumour, numbered))
    if not tumours:
        _check_blank(first)
    return _checked(
        first,
        lambda: Report(
            id=first["report_id"],
            tumours=tumours,
            negatives=first.parse("negatives", 'places such as "spleen; left kidney"', parse_places),
            flags=parse_names(first["flags"]),
            extractor=first["extractor"],
            text_hash=first["text_hash"],
        ),
    )


def _check_blank(cells: _Cells) -> None:
    for column in _TUMOUR:
        if cells[column].strip():
            raise cells.error(column, "a blank cell, since tumour 0 stands for a report without tumours")


def _tumour(cells: _Cells) -> Tumour:
    parse = cells.parse
    diameters = parse("diameters_mm", 'one to three diameters in mm such as "24 x 19", or a blank', _diameters)
    size_known = parse("size_known", "True or False", _truth)
    if size_known != bool(diameters):
        raise cells.error("size_known", f"{bool(diameters)}, since diameters_mm is {cells['diameters_mm']!r}")
    return _checked(
        cells,
        lambda: Tumour(
            organ=cells["organ"],
            subsegments=parse_names(cells["subsegments"]),
            laterality=cells["laterality"] or None,
            diameters=diameters,
            volume=parse("volume_mm3", "a volume in mm3, or a blank", _optional_number),
            attenuation=cells["attenuation"],
            type=cells["type"],
            certainty=cells["certainty"],
            count_known=parse("count_known", "True or False", _truth),
            sentence=cells["sentence"],
            start=parse("start", "an offset in characters", _whole),
            end=parse("end", "an offset in characters", _whole),
        ),
    )


_FIELDS = {"diameters": "diameters_mm", "volume": "volume_mm3", "id": "report_id"}


def _checked(cells: _Cells, make: Callable[[], T]) -> T:
    """What `make` makes; where the schema refuses it, the cell is named."""
    try:
        return make()
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else "end"
        reason = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        raise cells.error(_FIELDS.get(field, field), reason) from None
