# SPDX-License-Identifier: Apache-2.0
"""Tables of published extractions: one row per tumour or one row per CT, with their spellings and blank cells."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from rsuper_kernels.findings import LARGEST_DIAMETER
from rsuper_train.reports.markup import clean
from rsuper_train.reports.public_words import Words
from rsuper_train.reports.schema import DUPLICATE, DUPLICATE_ID, OVERSIZED, Place, Report, Tumour, hash_text
from rsuper_train.reports.sheets import Row, Sheet, read_sheet, shortened
from rsuper_train.reports.table import COLUMNS, reports_of
from rsuper_train.reports.vocabulary import Vocabulary, load_vocabulary

PER_TUMOUR = "public table per tumour"
PER_CT = "public table per CT"

ZERO_SIZE = "size of 0 mm"
MANY_DIAMETERS = "more than three diameters"
ODD_SIZE = "size not understood"
ODD_LOCATION = "location not understood"
ODD_ORGAN = "organ not in the vocabulary"
CONTRADICTION = "no lesion, and a lesion"
UNCOUNTED = "more lesions than rows"
BLANK = "blank row"

MOST_ROWS = 50
"""Rows for the lesions of one organ of a CT; a larger number becomes an uncounted row."""

IDS = ("bdmap id", "pants id", "id", "report id", "encrypted accession number", "accession number")
_NEEDED = ("Standardized Organ", "Standardized Location", "Tumor Size (mm)", "no lesion")
_COUNT = re.compile(r"number of (.+) lesion instances")
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)(mm|cm)?"
_SIZES = re.compile(rf"{_NUMBER}(?:[x×*]{_NUMBER})*")
_NO_SIZE = frozenset(["", "u", "unknown", "nan", "none", "n/a", "na", "multiple", "tiny", "massive"])


def read_any_table(path: Path, vocabulary: Vocabulary | None = None) -> list[Report]:
    """Read a table of tumours: this package's, the public one per tumour, or the public one per CT; the columns tell.

    Raises:
        ValueError: a table of another kind, missing columns, a cell that does not fit; the file and line are named.
    """
    sheet = read_sheet(Path(path), [*COLUMNS, *_NEEDED])
    names = set(map(_plain, sheet.columns))
    if "table_version" in sheet.columns or len(COLUMNS.keys() & set(sheet.columns)) > len(COLUMNS) // 2:
        return reports_of(sheet)
    if names & {"standardized organ", "tumor size (mm)"}:
        return _per_tumour(sheet, vocabulary)
    if any(map(_COUNT.fullmatch, names)):
        return _per_ct(sheet, vocabulary)
    raise ValueError(
        f"{path}: no table of tumours is known with these columns: {shortened(sheet.columns)}. Expected those of this "
        f"package ({shortened(COLUMNS, 4)}), those of the public table per tumour (BDMAP_ID, {', '.join(_NEEDED)}), or "
        "those of the public table per CT (BDMAP ID, number of liver lesion instances, ...)"
    )


def read_per_tumour(path: Path, vocabulary: Vocabulary | None = None) -> list[Report]:
    """Read the public table with one row per lesion; a row "no lesion" says that all organs are free of tumours.

    A size of 0 mm, above 500 mm or without a number is unknown. "Unknow Tumor Size" is not read: it is derived from the
    sizes, and misses a capital U. The raw column "Tumor Attenuation", where it is there, is preferred to the
    standardized one, which lost most of the low and all of the heterogeneous.

    Raises:
        ValueError: missing columns, a cell of "no lesion" that is neither yes nor no.
    """
    return _per_tumour(read_sheet(Path(path), _NEEDED), vocabulary)


def read_per_ct(path: Path, vocabulary: Vocabulary | None = None) -> list[Report]:
    """Read the public table with one row per CT: counts, and the largest diameter in cm, of the lesions of each organ.

    The other lesions of an organ have an unknown size. An organ with the count 0, or with a blank beside other counts,
    is free of tumours; so are all organs where "no lesion" is 1.

    Raises:
        ValueError: missing columns, a cell that is no number.
    """
    return _per_ct(read_sheet(Path(path)), vocabulary)


class _Columns:
    """The cells of a sheet by the names of columns, in any case, with a space or an underscore."""

    def __init__(self, sheet: Sheet) -> None:
        self.sheet = sheet
        self.index: dict[str, int] = {}
        for index, name in enumerate(sheet.columns):
            self.index.setdefault(_plain(name), index)
        self.id = next((name for name in IDS if name in self.index), "")

    def require(self, needed: Iterable[str], what: str) -> None:
        missing = [name for name in needed if _plain(name) not in self.index]
        missing = ([] if self.id else ["BDMAP_ID"]) + missing
        if missing:
            raise ValueError(
                f"{self.sheet.path}: {what} needs the columns {', '.join(missing)}; the columns are "
                f"{shortened(self.sheet.columns)}"
            )

    def get(self, row: Row, name: str) -> str:
        index = self.index.get(name)
        return "" if index is None else row.cells[index].strip()

    def id_of(self, row: Row) -> str:
        return self.get(row, self.id) or f"{self.sheet.unit} {row.line}"

    def parse(self, row: Row, name: str, expected: str, read: Callable[[str], float | bool]) -> float | bool:
        cell = self.get(row, name)
        try:
            return read(cell.lower())
        except (ValueError, KeyError):
            column = self.sheet.columns[self.index[name]]
            raise ValueError(f"{self.sheet.where(row, column)}: expected {expected}, got {cell[:80]!r}") from None

    def says_healthy(self, row: Row) -> bool:
        if "no lesion" not in self.index:
            return False
        return bool(self.parse(row, "no lesion", "yes or no", _truth))


class _Size(NamedTuple):
    diameters: tuple[float, ...] = ()
    flag: str = ""


def _per_tumour(sheet: Sheet, vocabulary: Vocabulary | None) -> list[Report]:
    columns = _Columns(sheet)
    columns.require(_NEEDED, f"the {PER_TUMOUR}")
    words = Words(vocabulary or load_vocabulary())
    by_id: dict[str, list[Row]] = {}
    for row in sheet.rows:
        by_id.setdefault(columns.id_of(row), []).append(row)
    return [_tumours_of(id, rows, columns, words) for id, rows in by_id.items()]


def _tumours_of(id: str, rows: list[Row], columns: _Columns, words: Words) -> Report:
    distinct = list({tuple(row.cells): row for row in rows}.values())
    flags = [DUPLICATE] * (len(distinct) < len(rows)) + [flag for row in distinct for flag in row.flags]
    lesions = []
    for row in distinct:
        if columns.says_healthy(row) or columns.get(row, "tumor id").lower() == "no lesion":
            continue
        tumour, noticed = _tumour(row, columns, words)
        lesions.append(tumour)
        flags += noticed
    healthy = len(lesions) < len(distinct)
    if healthy and lesions:
        flags.append(CONTRADICTION)
    texts = [columns.get(row, "report") for row in distinct]
    return Report(
        id=id,
        tumours=tuple(lesions),
        negatives=words.all_organs() if not lesions else (),
        flags=tuple(flags),
        extractor=PER_TUMOUR,
        text_hash=hash_text(clean(texts[0])) if any(texts) else "",
    )


def _tumour(row: Row, columns: _Columns, words: Words) -> tuple[Tumour, list[str]]:
    organ = words.organ(columns.get(row, "standardized organ"))
    place, understood = words.place(organ, columns.get(row, "standardized location"))
    cell = columns.get(row, "tumor size (mm)")
    size = _size(cell)
    tumour = Tumour(
        **dict(place),
        diameters=size.diameters,
        attenuation=words.attenuation(
            columns.get(row, "tumor attenuation"), columns.get(row, "standardized attenuation")
        ),
        type=words.type(columns.get(row, "tumor type")),
        certainty=words.certainty(columns.get(row, "type certainty")),
        count_known=cell.lower() != "multiple",
    )
    noticed = {size.flag: bool(size.flag), ODD_LOCATION: not understood, ODD_ORGAN: not words.knows(organ)}
    return tumour, [flag for flag, holds in noticed.items() if holds]


def _size(cell: str) -> _Size:
    """Diameters in mm of "26.0 x 25.0", also with units."""
    if cell.lower() in _NO_SIZE:
        return _Size()
    written = "".join(cell.lower().split())
    if not _SIZES.fullmatch(written):
        return _Size(flag=ODD_SIZE)
    numbers = re.findall(_NUMBER, written)
    # "2.6 x 2.5 cm": a unit counts for the numbers before it
    units = [next((unit for _, unit in numbers[index:] if unit), "mm") for index in range(len(numbers))]
    lengths = [float(number) * (10 if unit == "cm" else 1) for (number, _), unit in zip(numbers, units, strict=True)]
    return _checked(lengths)


def _checked(lengths: list[float]) -> _Size:
    if min(lengths) <= 0:
        return _Size(flag=ZERO_SIZE)
    if max(lengths) > LARGEST_DIAMETER:
        return _Size(flag=OVERSIZED)
    if len(lengths) > 3:
        return _Size(tuple(sorted(lengths, reverse=True)[:3]), MANY_DIAMETERS)
    return _Size(tuple(lengths))


def _per_ct(sheet: Sheet, vocabulary: Vocabulary | None) -> list[Report]:
    columns = _Columns(sheet)
    counts = {name: match[1] for name in columns.index if (match := _COUNT.fullmatch(name))}
    columns.require([] if counts else ["number of <organ> lesion instances"], f"the {PER_CT}")
    words = Words(vocabulary or load_vocabulary())
    reports: dict[str, Report] = {}
    known: dict[str, list[list[str]]] = {}
    for row in sheet.rows:
        report = _ct(row, columns, counts, words)
        same_id = known.setdefault(report.id, [])
        if same_id:
            repeated = row.cells == same_id[0]
            reports[report.id] = _with_flag(reports[report.id], DUPLICATE if repeated else DUPLICATE_ID)
            if repeated:
                continue
            renamed = report.model_copy(update={"id": f"{report.id}#{len(same_id) + 1}"})
            reports[renamed.id] = _with_flag(renamed, DUPLICATE_ID)
        else:
            reports[report.id] = report
        same_id.append(row.cells)
    return list(reports.values())


def _with_flag(report: Report, flag: str) -> Report:
    return report if flag in report.flags else report.model_copy(update={"flags": (*report.flags, flag)})


def _ct(row: Row, columns: _Columns, counts: dict[str, str], words: Words) -> Report:
    healthy = columns.says_healthy(row)
    blank = not any(columns.get(row, name) for name in counts)
    tumours: list[Tumour] = []
    free: list[Place] = []
    flags = list(row.flags)
    for name, public in counts.items():
        organ = words.organ(public)
        count = columns.parse(row, name, "a whole number of lesions, or a blank", _count)
        size, place = _largest(row, columns, public, organ, words)
        if size.flag and count:
            flags.append(size.flag)
        if not count and size.diameters:
            flags.append(CONTRADICTION)
            count = 1
        if count:
            tumours += _lesions(place, int(count), size)
            flags += [UNCOUNTED] * (count > MOST_ROWS)
        elif not blank:
            free.append(Place(organ=organ))
    if healthy and tumours:
        flags.append(CONTRADICTION)
    if healthy and not tumours:
        free = list(words.all_organs())
    elif blank and not tumours:
        flags.append(BLANK)
    return Report(
        id=columns.id_of(row), tumours=tuple(tumours), negatives=tuple(free), flags=tuple(flags), extractor=PER_CT
    )


def _largest(row: Row, columns: _Columns, public: str, organ: str, words: Words) -> tuple[_Size, Place]:
    """Size and place of the largest lesion of an organ."""
    name = f"largest {public} lesion diameter (cm)"
    length = columns.parse(row, name, "a diameter in cm, or a blank", _number) if name in columns.index else 0.0
    located = next((c for c in columns.index if c.startswith(f"largest {public} lesion location")), "")
    place, _ = words.place(organ, columns.get(row, located))
    # a blank is written as 0.0 in places
    return _checked([round(10 * length, 6)]) if length else _Size(), place


def _lesions(place: Place, count: int, size: _Size) -> list[Tumour]:
    """The largest lesion with its place and size, the others of the organ without."""
    other = Tumour(organ=place.organ)
    first = Tumour(**dict(place), diameters=size.diameters)
    if count > MOST_ROWS:
        return [first, other.model_copy(update={"count_known": False})]
    return [first, *[other] * (count - 1)]


def _plain(name: str) -> str:
    """A column's name, however it is written."""
    return " ".join(name.replace("_", " ").lower().split())


def _truth(cell: str) -> bool:
    words = {"true": True, "yes": True, "y": True, "1": True, "1.0": True}
    return (words | dict.fromkeys(("false", "no", "n", "0", "0.0", "", "u", "nan"), False))[cell]


def _number(cell: str) -> float:
    value = float(cell) if cell not in ("", "u", "nan") else 0.0
    if not 0 <= value < float("inf"):
        raise ValueError(cell)
    return value


def _count(cell: str) -> float:
    value = _number(cell)
    if not value.is_integer():
        raise ValueError(cell)
    return value
