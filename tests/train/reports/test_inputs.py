# SPDX-License-Identifier: Apache-2.0
"""Files of reports: encodings, delimiters, odd columns, repeated ids, markup; a clear error or a flag, never a loss."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsuper_train.reports.inputs import Document, clean, read_reports
from rsuper_train.reports.markup import clean_and_flag

EXPECTED = [Document("A1", "Liver: 2 cm, cyst; ok."), Document("B2", "Läsion 5 × 4 mm.\nSpleen normal.")]
COMMA = 'id,report\nA1,"Liver: 2 cm, cyst; ok."\nB2,"Läsion 5 × 4 mm.\nSpleen normal."\n'


def write(path: Path, data: str | bytes, encoding: str = "utf-8") -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "text",
    [
        COMMA,
        COMMA.replace("id,report", "id\treport").replace("1,", "1\t").replace("2,", "2\t"),
        COMMA.replace("id,report", "ID;Report ").replace("1,", "1;").replace("2,", "2;"),
        COMMA.replace("id,report", "x,BDMAP ID,findings").replace("A1", "1,A1").replace("B2", "2,B2"),
    ],
    ids=["comma", "tab", "semicolon", "public names"],
)
def test_text_files(tmp_path: Path, text: str, encoding: str) -> None:
    assert read_reports(write(tmp_path / "in.csv", text, encoding)) == EXPECTED


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.table({"id": ["A1", "B2"], "report": [document.text for document in EXPECTED]})
    pq.write_table(table, tmp_path / "in.parquet")
    assert read_reports(tmp_path / "in.parquet") == EXPECTED
    pq.write_table(pa.table({"id": [7.0, None], "report": ["a", None]}), tmp_path / "in.data")
    assert read_reports(tmp_path / "in.data") == [
        Document("7", "a"),
        Document("row 2", "", ("no id", "no text")),
    ]


def test_cp1252_lines_are_flagged(tmp_path: Path) -> None:
    data = "id,report\n1,plain\n2,Läsion\n".encode() + "3,Läsion 5 × 4\n".encode("cp1252")
    assert read_reports(write(tmp_path / "in.csv", data)) == [
        Document("1", "plain"),
        Document("2", "Läsion"),
        Document("3", "Läsion 5 × 4", ("decoded as cp1252",)),
    ]


def test_flags(tmp_path: Path) -> None:
    long = "x " * 150_000
    text = f"id,report\n1,\n,text\n3,a\0b\x07c\n4,{long}\n\n , \n5,<b>bold</b>\n"
    read = read_reports(write(tmp_path / "in.csv", text))
    assert [(document.id, document.flags) for document in read] == [
        ("1", ("no text",)),
        ("line 3", ("no id",)),
        ("3", ("control characters",)),
        ("4", ("very long",)),
        ("5", ("HTML",)),
    ]
    assert read[2].text == "a b c"
    assert read[3].text == long


def test_repeated_ids(tmp_path: Path) -> None:
    text = "id,report\nA,one\nA,two\nA#2,three\nA,one\nA,four\nB,five\n"
    assert read_reports(write(tmp_path / "in.csv", text)) == [
        Document("A", "one", ("duplicate id", "duplicate")),
        Document("A#3", "two", ("duplicate id",)),
        Document("A#2", "three"),
        Document("A#4", "four", ("duplicate id",)),
        Document("B", "five"),
    ]


def test_many_reports_under_one_id(tmp_path: Path) -> None:
    path = write(tmp_path / "in.csv", "id,report\n" + "".join(f"A,{i}\n" for i in range(20_000)))
    start = time.perf_counter()
    assert len({document.id for document in read_reports(path)}) == 20_000
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (b"case,words\n1,2\n", r"there is no column 'id' \(nor .*\); the columns are case, words; .* --id-column"),
        (b"id,words\n1,2\n", "there is no column 'report' .* --text-column"),
        (b'id,report\n1,"a"\n2,"He said "hi" twice"\n', r"in.csv, line 3: broken quoting .* starts at line 3"),
        (b'id,report\n1,a\n2,"never\nclosed\n3,b\n', r"in.csv, line 5: broken quoting .* starts at line 3"),
        (b"id,report\n1,a, b\n", "line 2: expected 2 cells as in the header, got 3; an unquoted delimiter"),
        (b"id,report\n1,a\n2\n", "line 3: expected 2 cells as in the header, got 1; is the row cut off"),
        (b"PK\x03\x04rest", "an Excel workbook"),
        (bytes(range(256)) * 2 + bytes(1000), "a binary file"),
        (b"PAR1 not really PAR1", "this Parquet file cannot be read"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = write(tmp_path / "in.csv", data)
    with pytest.raises(ValueError, match=message) as error:
        read_reports(path)
    assert str(path) in str(error.value)


def test_named_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "in.csv", "case,words,id,report\nA,one,x,y\n")
    assert read_reports(path, "case", "words") == [Document("A", "one")]
    with pytest.raises(ValueError, match="there is no column 'cases'; the columns are case, words, id, report"):
        read_reports(path, "cases")


MARKUP = [
    ("Lesion <5 mm & >3 cm, x<y, AT&T; a \\ b", "Lesion <5 mm & >3 cm, x<y, AT&T; a \\ b", ()),
    ("<p>Liver&nbsp;cyst&lt;5 mm</p>", "\n  Liver      cyst<   5 mm\n   ", ("HTML",)),
    ("a<!-- note -->b<style>p {x: y}</style>c", f"a{13 * ' '}b{23 * ' '}c", ("HTML",)),
    ("2 &times; 3&#160;mm", "2 ×       3      mm", ("HTML",)),
    (
        r"{\rtf1\ansi{\fonttbl\f0 Arial;}\f0 Cyst\par 5 \'d7 4 mm \u8804?x\}}",
        f"{35 * ' '}Cyst\n    5 ×    4 mm ≤      x}}  ",
        ("RTF",),
    ),
    ("{\\rtf1 Cyst {\\info never closed", "       Cyst        never closed", ("RTF",)),
    ("a\x00b\x0bc\x85d", "a b c\x85d", ("control characters",)),
]


@pytest.mark.parametrize(("text", "expected", "flags"), MARKUP)
def test_markup_is_blanked_in_place(text: str, expected: str, flags: tuple[str, ...]) -> None:
    assert clean_and_flag(text) == (expected, flags)
    assert len(clean(text)) == len(text)


PIECES = r"<p> < > &lt; & { } \par \ \'e9 \u9? \* \fonttbl <!-- --> <style> </ ab 𝒳"
OPENED = r"< <p <!-- <style> & &# &a { \ {\rtf1 \par \' {\info a"


@given(st.lists(st.sampled_from([*PIECES.split(), " ", "\n", "\0"])).map("".join))
def test_offsets_stay(text: str) -> None:
    cleaned = clean(text)
    assert len(cleaned) == len(text)
    assert all(new == old for new, old in zip(cleaned, text, strict=True) if old in "ab𝒳" and new != " ")


@pytest.mark.parametrize("piece", [*OPENED.split(), "<p ", "\0"])
def test_a_megabyte_takes_linear_time(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    start = time.perf_counter()
    assert len(clean(text)) == len(text)
    assert time.perf_counter() - start < 10


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda data: b"id,report\n1," + data))
def test_any_bytes_are_reports_or_a_value_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(data)
    documents: list[Document] = []
    message = str(path)
    try:
        documents = read_reports(path)
    except ValueError as error:
        message = str(error)
    assert str(path) in message
    assert len({document.id for document in documents}) == len(documents)
    assert not any("\0" in document.text for document in documents)
