# SPDX-License-Identifier: Apache-2.0
"""The table of tumours: an exact round trip in each format, readable cells, and wrong tables refused where they are."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rsuper_train.reports.places import format_place, join_names, parse_names, parse_place, parse_places
from rsuper_train.reports.schema import Place, Report, Tumour
from rsuper_train.reports.table import COLUMNS, read_table, write_table

SUFFIXES = (".csv", ".tsv", ".parquet")

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12) | st.sampled_from(
    [
        "left",
        "left liver",
        "bilateral ",
        " ",
        "a; b",
        "a, b / c",
        "\\",
        "=1+1",
        "'=1",
        "''- x",
        "-2",
        '"',
        "\r\n",
        "a\rb",
    ]
)
NAME = TEXT.filter(bool)
SIDE = st.sampled_from(["left", "right", "bilateral", None])
SIZE = st.floats(0.001, 500)
PLACES = st.builds(Place, organ=NAME, subsegments=st.lists(TEXT, max_size=3).map(tuple), laterality=SIDE)
TUMOURS = st.builds(
    Tumour,
    organ=NAME,
    subsegments=st.lists(TEXT, max_size=3).map(tuple),
    laterality=SIDE,
    diameters=st.lists(SIZE, max_size=3).map(tuple),
    volume=st.none() | st.floats(1e-3, 1e9),
    attenuation=st.sampled_from(["hypo", "iso", "hyper", "mixed", "unknown"]),
    type=NAME,
    certainty=st.sampled_from(["certain", "high", "low", "unknown"]),
    count_known=st.booleans(),
    sentence=TEXT,
    start=st.integers(0, 10),
    end=st.integers(10, 10**6),
)
REPORTS = st.lists(
    st.builds(
        Report,
        id=NAME,
        tumours=st.lists(TUMOURS, max_size=3).map(tuple),
        negatives=st.lists(PLACES, max_size=3).map(tuple),
        flags=st.lists(TEXT, max_size=3).map(tuple),
        extractor=TEXT,
        text_hash=TEXT,
    ),
    max_size=4,
    unique_by=lambda report: report.id,
)

EXAMPLE = [
    Report(
        id="A1",
        tumours=(
            Tumour(
                organ="liver",
                subsegments=("segment 5", "segment 6"),
                diameters=(24, 19.5),
                attenuation="hypo",
                type="metastasis",
                sentence="- 24 x 19.5 mm, in V/VI",
                end=23,
            ),
            Tumour(organ="kidney", laterality="left", count_known=False, volume=905.0),
        ),
        negatives=(Place(organ="spleen"), Place(organ="liver", subsegments=("segment 2", "segment 3"))),
        flags=("very long", "HTML"),
        extractor="rules",
        text_hash="0123456789abcdef",
    ),
    Report(id="B2", negatives=(Place(organ="kidney", laterality="right"),)),
]


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reports=REPORTS)
def test_round_trip(tmp_path: Path, suffix: str, reports: list[Report]) -> None:
    path = tmp_path / f"table{suffix}"
    rows = write_table(reports, path)
    assert read_table(path) == reports
    assert rows == sum(max(1, len(report.tumours)) for report in reports)


@given(place=PLACES)
def test_place_round_trip(place: Place) -> None:
    assert parse_place(format_place(place)) == place


@given(names=st.lists(TEXT, max_size=4).map(tuple))
def test_names_round_trip(names: tuple[str, ...]) -> None:
    assert parse_names(join_names(names)) == names


def test_cells_read_well(tmp_path: Path) -> None:
    write_table(EXAMPLE, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        first, second, third = csv.DictReader(file)
    assert list(first) == list(COLUMNS)
    assert first["subsegments"] == "segment 5; segment 6"
    assert first["diameters_mm"] == "24 x 19.5"
    assert first["negatives"] == "spleen; liver, segment 2 / segment 3"
    assert first["flags"] == "very long; HTML"
    assert first["sentence"] == "'- 24 x 19.5 mm, in V/VI"  # nothing that a spreadsheet would compute
    assert (second["tumour"], second["laterality"], second["size_known"]) == ("2", "left", "False")
    assert (third["tumour"], third["organ"], third["negatives"]) == ("0", "", "right kidney")


def test_an_edited_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_table(EXAMPLE, path)
    header, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
    text = [";".join([*header, "note"])]
    text += [
        ";".join(f'"{cell.upper() if cell in ("True", "False") else cell}"' for cell in [*row, "seen"]) for row in rows
    ]
    path.write_text("\n".join([text[0], text[3], text[2], text[1]]), encoding="utf-16")
    assert read_table(path) == [EXAMPLE[1], EXAMPLE[0]]
    path.write_text("\n".join([text[0], text[2]]), encoding="utf-8-sig")
    assert read_table(path) == [EXAMPLE[0].model_copy(update={"tumours": EXAMPLE[0].tumours[1:]})]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("table_version", "2", "line 2: the table has version 2"),
        ("table_version", "one", "line 2, column table_version"),
        ("report_id", "", "line 2, column report_id"),
        ("tumour", "2", "line 3, column tumour: expected each number once (line 2 has 2), got '2'"),
        ("tumour", "0", "line 3, column tumour: expected the only row of the report (line 2 has 0), got '2'"),
        ("tumour", "-1", "line 2, column tumour"),
        ("diameters_mm", "24 by 19", "line 2, column diameters_mm"),
        ("diameters_mm", "5000", "line 2, column diameters_mm: expected less than or equal to 500, got '5000'"),
        ("diameters_mm", "1 x 2 x 3 x 4", "line 2, column diameters_mm"),
        ("diameters_mm", "", "line 2, column size_known: expected False"),
        ("volume_mm3", "nan", "line 2, column volume_mm3"),
        ("attenuation", "dark", "line 2, column attenuation: expected 'hypo', 'iso', 'hyper', 'mixed' or 'unknown'"),
        ("laterality", "l", "line 2, column laterality"),
        ("count_known", "maybe", "line 2, column count_known: expected True or False, got 'maybe'"),
        ("negatives", "liver, a, b", "line 3, column negatives"),
        ("end", "-5", "line 2, column end"),
    ],
)
def test_wrong_cells_are_named(tmp_path: Path, column: str, value: str, message: str) -> None:
    path = tmp_path / "table.csv"
    write_table(EXAMPLE, path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0][column] = value
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(COLUMNS))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(ValueError) as error:
        read_table(path)
    assert f"{path}, {message}" in str(error.value)


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("report_id,organ\nA,liver\n")
    with pytest.raises(
        ValueError, match=r"needs the columns table_version, tumour, .*; the columns are report_id, organ"
    ):
        read_table(path)
    with pytest.raises(ValueError, match=r"expected a name ending in \.csv, \.tsv or \.parquet"):
        write_table(EXAMPLE, tmp_path / "table.xlsx")
    with pytest.raises(ValueError, match="'A1' is there twice"):
        write_table([EXAMPLE[0], EXAMPLE[0]], path)
    assert path.read_text() == "report_id,organ\nA,liver\n"  # what was there stays
    with pytest.raises(ValueError, match="expected a place such as"):
        parse_places("liver; , head")
