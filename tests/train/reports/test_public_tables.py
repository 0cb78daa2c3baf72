# SPDX-License-Identifier: Apache-2.0
"""The public tables, per tumour and per CT, with their spellings; each kind is known by its columns."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest

from rsuper_train.reports.public_tables import read_any_table, read_per_ct, read_per_tumour
from rsuper_train.reports.public_words import Words
from rsuper_train.reports.schema import Place, Report, Tumour, hash_text
from rsuper_train.reports.table import write_table
from rsuper_train.reports.vocabulary import load_vocabulary

VOCABULARY = load_vocabulary()
ALL_ORGANS = tuple(Place(organ=name) for name in VOCABULARY.organs)

PER_TUMOUR = """\
BDMAP_ID,Tumor ID,Standardized Organ,Standardized Location,Tumor Size (mm),Standardized Attenuation,no lesion
A,tumor 1,pancreas,head / body,26.0 x 25.0,low,False
A,tumor 2,kidney,left,11.0,u,False
B,no lesion,u,,u,u,True
"""


def write(path: Path, rows: Sequence[Sequence[str]], encoding: str = "utf-8") -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def lesion(tmp_path: Path, **cells: str) -> Report:
    """The report of a table per tumour with one row with these cells."""
    row = {"BDMAP ID": "A", "Standardized Organ": "liver", "Standardized Location": "u", "Tumor Size (mm)": "5.0"}
    row |= {"no lesion": "False"} | {name.replace("_", " "): cell for name, cell in cells.items()}
    (report,) = read_per_tumour(write(tmp_path / "table.csv", [list(row), list(row.values())]))
    return report


def test_the_table_per_tumour(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(PER_TUMOUR, encoding="utf-8-sig")
    assert read_any_table(path) == [
        Report(
            id="A",
            tumours=(
                Tumour(organ="pancreas", subsegments=("head", "body"), diameters=(26, 25), attenuation="hypo"),
                Tumour(organ="kidney", laterality="left", diameters=(11,)),
            ),
            extractor="public table per tumour",
        ),
        Report(id="B", negatives=ALL_ORGANS, extractor="public table per tumour"),
    ]


SIZES = [
    ("26.0 x 25.0", (26.0, 25.0), True, ()),
    ("2.6 x 2.5 cm", (26.0, 25.0), True, ()),
    ("15mm", (15.0,), True, ()),
    ("3.0 x 9.0 x 5.0 x 7.0", (9.0, 7.0, 5.0), True, ("more than three diameters",)),
    ("0.0", (), True, ("size of 0 mm",)),
    ("0.0 x 12.0", (), True, ("size of 0 mm",)),
    ("1200.0", (), True, ("size above 500 mm",)),
    ("multiple", (), False, ()),
    ("u", (), True, ()),
    ("U", (), True, ()),
    ("", (), True, ()),
    ("tiny", (), True, ()),
    ("walnut", (), True, ("size not understood",)),
    ("1 x " * 100_000, (), True, ("size not understood",)),
]


@pytest.mark.parametrize(("cell", "diameters", "count_known", "flags"), SIZES, ids=[cell[:20] for cell, *_ in SIZES])
def test_sizes(
    tmp_path: Path, cell: str, diameters: tuple[float, ...], count_known: bool, flags: tuple[str, ...]
) -> None:
    report = lesion(tmp_path, **{"Tumor_Size_(mm)": cell, "Unknow_Tumor_Size": "yes"})
    assert report.tumours == (Tumour(organ="liver", diameters=diameters, count_known=count_known),)
    assert report.flags == flags


@pytest.mark.parametrize(
    ("organ", "cell", "place", "understood"),
    [
        ("pancreas", "tail", Place(organ="pancreas", subsegments=("tail",)), True),
        ("pancreas", "body / head", Place(organ="pancreas", subsegments=("head", "body")), True),
        ("pancreas", "uncinate process", Place(organ="pancreas", subsegments=("head",)), True),
        ("liver", "segment 7 / segment 8", Place(organ="liver", subsegments=("segment 7", "segment 8")), True),
        ("liver", "Segment IVb", Place(organ="liver", subsegments=("segment 4",)), True),
        ("liver", "dome", Place(organ="liver", subsegments=("segment 7", "segment 8")), True),
        ("liver", "segment 9", Place(organ="liver"), False),
        ("kidney", "left / right", Place(organ="kidney", laterality="bilateral"), True),
        ("kidney", "left upper pole", Place(organ="kidney", laterality="left", subsegments=("upper pole",)), True),
        ("adrenal gland", "right", Place(organ="adrenal gland", laterality="right"), True),
        ("spleen", "left", Place(organ="spleen"), False),
        ("spleen", "U", Place(organ="spleen"), True),
        ("spleen", "", Place(organ="spleen"), True),
    ],
)
def test_locations(organ: str, cell: str, place: Place, understood: bool) -> None:
    assert Words(VOCABULARY).place(organ, cell) == (place, understood)


@pytest.mark.parametrize(
    ("raw", "standardized", "expected"),
    [
        ("", "low", "hypo"),
        ("", "high", "hyper"),
        ("u", "heterogeneous", "mixed"),
        ("", "iso", "iso"),
        ("", "u", "unknown"),
        ("hypoenchanging", "u", "hypo"),
        ("Hypo-enhancing", "u", "hypo"),
        ("heterogeneously enchanging", "high", "mixed"),
        ("enhancing", "high", "unknown"),
    ],
)
def test_attenuations(raw: str, standardized: str, expected: str) -> None:
    assert Words(VOCABULARY).attenuation(raw, standardized) == expected


def test_other_columns_and_unknown_organs(tmp_path: Path) -> None:
    report = lesion(tmp_path, Tumor_Type="Metastasis", Type_Certainty="high", Report="Liver: <b>2 cm</b>")
    assert report.tumours[0].type == "metastasis"
    assert report.tumours[0].certainty == "high"
    assert report.text_hash == hash_text("Liver:    2 cm    ")
    assert lesion(tmp_path, Standardized_Organ="u").tumours[0].organ == "unknown"
    assert lesion(tmp_path, Standardized_Organ="gall_bladder").tumours[0].organ == "gallbladder"
    assert lesion(tmp_path, Standardized_Organ="pancreatic").tumours[0].organ == "pancreas"
    thyroid = lesion(tmp_path, Standardized_Organ="thyroid")
    assert (thyroid.tumours[0].organ, thyroid.flags) == ("thyroid", ("organ not in the vocabulary",))


def test_contradictions_and_repetitions_are_flagged(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    header, first, _, healthy = PER_TUMOUR.splitlines()
    path.write_text("\n".join([header, first, first, healthy.replace("B,", "A,")]))
    (report,) = read_any_table(path)
    assert len(report.tumours) == 1
    assert report.negatives == ()
    assert report.flags == ("duplicate", "no lesion, and a lesion")


ORGANS = ("liver", "pancreatic", "kidney", "adrenal gland", "duodenum")


def per_ct(path: Path, *rows: str) -> Path:
    """A table per CT; a row is "id, n, cm, n, cm, ..., no lesion"."""
    header = ["Encrypted Accession Number", "BDMAP ID"]
    for organ in ORGANS:
        header += [f"number of {organ} lesion instances", f"largest {organ} lesion diameter (cm)"]
        if organ == "liver":
            header.append("largest liver lesion location (segment)")
    cells = [["X", *row.split(",")] for row in rows]
    return write(path, [[*header, "no lesion"], *[[*row[:4], "", *row[4:]] for row in cells]], "utf-8-sig")


def test_the_table_per_ct(tmp_path: Path) -> None:
    path = per_ct(
        tmp_path / "table.csv",
        "A,0,,0,,0,,0,,0,0.0,1",
        "B,0,0.0,0,0.0,1,,0,,1,1.2,0",
        "C,3,,2,0.55,,2.8,,,0,0,0",
        "D,,,,,,,,,,,0",
        "E,,,,,,,,,,,1",
        "F,90,70,,,,,,,,,1",
    )
    a, b, c, d, e, f = read_any_table(path)
    assert (a.tumours, a.negatives) == ((), ALL_ORGANS)
    assert b.tumours == (Tumour(organ="kidney"), Tumour(organ="duodenum", diameters=(12,)))
    assert [place.organ for place in b.negatives] == ["liver", "pancreas", "adrenal gland"]
    assert c.tumours == (
        *[Tumour(organ="liver")] * 3,
        Tumour(organ="pancreas", diameters=(5.5,)),
        Tumour(organ="pancreas"),
        Tumour(organ="kidney", diameters=(28,)),
    )
    assert c.flags == ("no lesion, and a lesion",)  # a diameter, and no count
    assert (d.tumours, d.negatives, d.flags) == ((), (), ("blank row",))
    assert (e.tumours, e.negatives) == ((), ALL_ORGANS)
    assert f.tumours == (Tumour(organ="liver"), Tumour(organ="liver", count_known=False))
    assert f.flags == ("size above 500 mm", "more lesions than rows", "no lesion, and a lesion")


def test_repeated_cts(tmp_path: Path) -> None:
    row = "A,1,,0,,0,,0,,0,0.0,0"
    reports = read_per_ct(
        per_ct(tmp_path / "table.csv", row, row, row.replace("A,1", "A,2"), row.replace("A,1", "A,3"))
    )
    assert [(report.id, len(report.tumours), report.flags) for report in reports] == [
        ("A", 1, ("duplicate", "duplicate id")),
        ("A#2", 2, ("duplicate id",)),
        ("A#3", 3, ("duplicate id",)),
    ]


def test_a_table_of_one_organ(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.csv", [["PanTS ID", "number of pancreatic lesion instances"], ["P1", "1.0"], ["P2", "0"]]
    )
    first, second = read_any_table(path)
    assert first.tumours == (Tumour(organ="pancreas"),)
    assert (second.tumours, second.negatives) == ((), (Place(organ="pancreas"),))


def test_this_package_s_table(tmp_path: Path) -> None:
    reports = [Report(id="A", tumours=(Tumour(organ="liver"),))]
    write_table(reports, tmp_path / "table.csv")
    assert read_any_table(tmp_path / "table.csv") == reports


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["a", "b"], ["1", "2"]], r"no table of tumours is known with these columns: a, b\. Expected"),
        (
            [["Standardized Organ", "no lesion"]],
            r"needs the columns BDMAP_ID, Standardized Location, Tumor Size \(mm\)",
        ),
        ([["number of liver lesion instances"], ["1"]], "needs the columns BDMAP_ID; the columns are number of liver"),
        ([["BDMAP ID", "number of liver lesion instances"], ["A", "many"]], "line 2, column number of liver .*'many'"),
        ([["BDMAP ID", "number of liver lesion instances"], ["A", "1.5"]], "line 2, column number of liver"),
        ([["BDMAP ID", "number of liver lesion instances", "no lesion"], ["A", "1", "?"]], "line 2, column no lesion"),
        ([["report_id", "table_version"]], "a table of tumours needs the columns tumour, organ"),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, rows: list[list[str]], message: str) -> None:
    path = write(tmp_path / "table.csv", rows)
    with pytest.raises(ValueError, match=message) as error:
        read_any_table(path)
    assert str(path) in str(error.value)
