# SPDX-License-Identifier: Apache-2.0
"""`rsuper reports check` on the command line: exit codes, files, the summary."""

from __future__ import annotations

import csv

import numpy as np
import pytest

pytest.importorskip("nibabel")
pytest.importorskip("matplotlib")
pytest.importorskip("rsuper_train.reports.public_tables")

import nibabel as nib
import typer
from typer.testing import CliRunner

from rsuper_train.reports.check.cli import check
from rsuper_train.reports.schema import Place, Report, Tumour, hash_text
from rsuper_train.reports.table import write_table

TEXT = "Liver: 2.4 cm cyst. Spleen: normal."
CYST = Tumour(organ="liver", diameters=(24.0,), type="cyst", sentence="Liver: 2.4 cm cyst.", end=19)


@pytest.fixture
def table(tmp_path):
    """A table without errors, the report it was read from, and a case that fits it."""
    report = Report(id="a", tumours=(CYST,), negatives=(Place(organ="spleen"),), text_hash=hash_text(TEXT))
    write_table([report], tmp_path / "table.csv")
    with (tmp_path / "reports.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "report"), ("a", TEXT)])
    mask = np.zeros((40, 40, 40), np.uint8)
    mask[1:-1, 1:-1, 1:-1] = 1
    for name, array in (("ct", mask.astype(np.int16)), ("segmentations/liver", mask)):
        path = tmp_path / "data" / "a" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return tmp_path / "table.csv"


def run(*arguments: object):
    app = typer.Typer()
    app.command()(check)
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})


def test_nothing_to_say(table):
    folder = table.parent
    result = run(table, "--data", folder / "data", "--reports", folder / "reports.csv", "--workers", 1)
    assert result.exit_code == 0, result.output
    assert "No problems found in 1 report." in result.output
    written = {path.name for path in folder.iterdir()} - {"table.csv", "reports.csv", "data"}
    assert written == {"table.check.html", "table.check.problems.csv", "table.check.problems.json"}


def test_errors_decide_the_exit_code(table):
    warned = Report(id="b", tumours=(Tumour(organ="unknown"),))
    wrong = Report(id="c", tumours=(CYST,), negatives=(Place(organ="liver"),))
    for reports, code in (([warned], 0), ([warned, wrong], 1)):
        write_table(reports, table)
        result = run(table, "--out", table.parent / "pages" / "page.html")
        assert result.exit_code == code, result.output
    assert "contradiction" in result.output
    assert "1 error, 1 warning in 2 reports" in result.output
    assert len(list(csv.DictReader((table.parent / "pages" / "page.problems.csv").open()))) == 2


def test_the_table_is_never_overwritten(table):
    before = table.read_bytes()
    for out in (table, table.parent):
        result = run(table, "--out", out)
        assert isinstance(result.exception, ValueError)
        assert "--out" in str(result.exception)
    assert table.read_bytes() == before
