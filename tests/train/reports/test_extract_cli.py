# SPDX-License-Identifier: Apache-2.0
"""`rsuper reports extract`, `score` and `columns`; a stub stands in for the rules, a scripted server for the model."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rsuper_train import cli
from rsuper_train.reports import extract
from rsuper_train.reports.inputs import Document
from rsuper_train.reports.schema import Report, Tumour, hash_text
from rsuper_train.reports.table import COLUMNS, read_table, write_table
from tests.train.reports.llm_cases import TEXT, good, running

TEXTS = """\
id,report
A,"Liver: 2 cm cyst."
B,"<p>Spleen normal.</p>"
C,
D,crash here
A,"Liver: 2 cm cyst."
A,another
"""
LLM = ("--extractor", "llm", "--base-url", "http://localhost:1/v1", "--model", "m")


class Stub:
    """Finds a cyst wherever one is named, and fails on "crash"."""

    name = "stub"

    def extract(self, id: str, text: str) -> Report:
        if "crash" in text:
            raise RecursionError(text)
        if "kill" in text:
            os._exit(9)
        start = text.find("cyst")
        found = [Tumour(organ="liver", type="cyst", sentence="cyst", start=start, end=start + 4)] if start >= 0 else []
        flags = () if text else ("no text",)
        return Report(id=id, tumours=tuple(found), flags=flags, extractor="stub", text_hash=hash_text(text))


@pytest.fixture(autouse=True)
def _rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "rules_extractor", lambda vocabulary: Stub())


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["reports", "extract", *map(str, arguments)])


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    path.write_text(TEXTS)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_extract(tmp_path: Path, texts: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    result = invoke(texts, out)
    assert result.exit_code == 0, result.output
    assert [(report.id, len(report.tumours), report.flags) for report in read_table(out)] == [
        ("A", 1, ("duplicate", "duplicate id")),
        ("B", 0, ("HTML",)),
        ("C", 0, ("no text",)),
        ("D", 0, ("not extracted: RecursionError",)),
        ("A#2", 0, ("duplicate id",)),
    ]
    (cyst,) = read_table(out)[0].tumours
    assert "Liver: 2 cm cyst."[cyst.start : cyst.end] == "cyst"
    assert "5 reports read, 3 extracted, 5 flagged (2 duplicate id, " in result.stdout
    assert f"1 not extracted); 5 rows written to {out}" in result.stdout


def test_processes_keep_the_order() -> None:
    documents = [Document(str(i), "cyst " * (i % 3) + "crash" * (i == 250)) for i in range(501)]
    seen: list[Report] = []
    reports = extract.extract_locally(documents, Stub, workers=2, on_done=seen.append)
    assert reports == extract.extract_locally(documents, Stub) == seen
    assert [report.id for report in reports] == [document.id for document in documents]


def test_a_killed_process_is_an_error() -> None:
    with pytest.raises(ChildProcessError, match="use fewer --workers"):
        extract.extract_locally([Document("A", "kill")], Stub, workers=2)


def test_llm(tmp_path: Path, texts: Path) -> None:
    out = tmp_path / "out.csv"
    with running(good) as server:
        model = ("--base-url", server.url, "--model", "m", "--concurrency", 4, "--setting", "temperature=null")
        result = invoke(texts, out, "--extractor", "llm", *model, "--prices", 1, 2.5)
        assert result.exit_code == 0, result.output
        assert not invoke(texts, tmp_path / "again.csv", "--extractor", "llm", *model).exit_code
    assert {report.extractor for report in read_table(out)} == {"llm:m"}
    assert read_table(out)[1].flags == ("HTML", "quote not found in the report", "size not found in the report")
    assert (tmp_path / "out.journal.jsonl").exists()
    assert "4 requests" in result.stderr
    assert all("temperature" not in request.body for request in server.requests)


def test_consensus(tmp_path: Path, texts: Path) -> None:
    texts.write_text(f"id,report\nA,{TEXT} A cyst.\n")
    out, journal = tmp_path / "out.csv", tmp_path / "kept.jsonl"
    with running(good) as server:
        model = ("--base-url", server.url, "--model", "m", "--journal", journal)
        result = invoke(texts, out, "--extractor", "consensus", *model)
    assert result.exit_code == 0, result.output
    with (tmp_path / "out.review.csv").open(newline="") as file:
        header, found = csv.reader(file)
    assert header == ["report_id", "kind", "first", "second"]
    assert found[:2] == ["A", "size"]
    assert "1 disagreement to review" in result.stdout
    assert read_table(out)[0].extractor == "consensus of stub and llm:m"
    assert journal.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing.csv", "out.csv"), "nothing.csv: there is no such file"),
        (("in.csv", "out.xlsx"), "out.xlsx: expected a name ending in .csv, .tsv or .parquet"),
        (("in.csv", "in.csv"), "other than that of the reports"),
        (("in.csv", "out.csv", "--id-column", "case"), "there is no column 'case'"),
        (("in.csv", "out.csv", "--extractor", "llm"), "the language model needs --base-url and --model"),
        (("in.csv", "out.csv", *LLM, "--setting", "seed"), "--setting: expected NAME=JSON"),
        (("in.csv", "out.csv", *LLM, "--setting", "sead=1"), "--sead: Extra inputs are not permitted"),
        (("in.csv", "out.csv", "--vocabulary", "none.yaml"), "none.yaml"),
    ],
)
def test_mistakes_end_in_one_sentence(
    texts: Path,
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(texts.parent)
    monkeypatch.setattr("sys.argv", ["rsuper", "reports", "extract", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert {path.name for path in texts.parent.iterdir()} == {"in.csv"}


def test_columns() -> None:
    lines = CliRunner().invoke(cli.app, ["reports", "columns"]).stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(COLUMNS)


def test_score(tmp_path: Path) -> None:
    cyst = Tumour(organ="liver", type="cyst", diameters=(12.0,))
    write_table([Report(id="A", tumours=(cyst,)), Report(id="B"), Report(id="C")], tmp_path / "truth.csv")
    write_table([Report(id="A", tumours=(cyst,)), Report(id="B", tumours=(cyst,))], tmp_path / "found.csv")
    arguments = ["reports", "score", str(tmp_path / "truth.csv"), str(tmp_path / "found.csv")]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert "2 reports, 1 in one table alone" in result.stdout
    assert "F1 0.667 (precision 0.500, recall 1.000; 1 of 1)" in result.stdout
    assert "different: B" in result.stdout
