# SPDX-License-Identifier: Apache-2.0
"""`rsuper demo` from end to end, with a few steps on a few cases."""

from __future__ import annotations

import csv
import importlib
import json
import math
import sys
from pathlib import Path

import pytest

pytest.importorskip("monai")
pytest.importorskip("matplotlib")

from typer.testing import CliRunner

from rsuper_train.cli import app, main
from rsuper_train.cohort.real_ct import data_folder
from rsuper_train.demo import CONFIG
from rsuper_train.layout import find_cases
from rsuper_train.manifest import read_manifest

FEW = ("--steps", 3, "--train-cases", 3, "--test-cases", 2, "--threads", 1)


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """The demo sets it; it is as it was afterwards."""
    monkeypatch.setenv("RSUPER_DATA", str(data_folder()))


def run(*arguments: object):
    return CliRunner().invoke(app, ["demo", *map(str, arguments)])


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A demo's folder and what was printed."""
    out = tmp_path_factory.mktemp("demo") / "deep"
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RSUPER_DATA", str(data_folder()))
        result = run("--out", out, *FEW)
    assert result.exit_code == 0, result.output
    assert Path.cwd() == before
    return out, result.output


def test_files_are_well_formed(demo):
    out, _ = demo
    for picture in ("demo.png", "losses.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((out / "losses.csv").open()))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert all(math.isfinite(float(row["total"])) and float(row["loss_seconds"]) > 0 for row in rows)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["counts"]["with_mask"] == 2
    assert "chosen on 1 cases of predictions/validation" in metrics["operating_point"]["origin"]
    assert {"cohort", "prepare", "train", "predict", "evaluate"} <= metrics["seconds"].keys()
    problems = json.loads((out / "evaluation" / "evaluation.json").read_text())["problems"]
    assert problems == []


def test_commands_and_results_are_said(demo):
    out, said = demo
    assert f"$ cd {out}" in said
    for command in ("reports extract reports.csv tumours.csv", "train demo.yaml --set seed=0", "predict run data/test"):
        assert f"$ rsuper {command}" in said
        assert f"$ rsuper {command}" in (out / "log.txt").read_text()
    assert "lesions: sensitivity" in said
    assert "A step takes" in said


def test_training_sees_no_mask(demo):
    out, _ = demo
    assert not any(files.lesions for files in find_cases(out / "data" / "training" / "cases").values())
    manifest = read_manifest(out / "prepared")
    assert manifest.channels == ()
    assert set(manifest.cases) == {f"ct-000{number}" for number in range(4)}
    assert (out / "validation.txt").read_text() == "ct-0003\n"
    assert set(find_cases(out / "data" / "test" / "cases")) == {"ct-10000", "ct-10001"}


def test_another_demo_begins_anew_and_leaves_other_files_alone(demo, tmp_path):
    """Neither cases nor weights of another seed are mixed in; the same seed ends in the same losses."""
    out = tmp_path / "demo"
    for folder in ("run", "data", "prepared"):
        (out / folder).mkdir(parents=True)
        (out / folder / "old").write_text("")
    (out / CONFIG).write_text("")
    (out / "notes.txt").write_text("mine")
    assert run("--out", out, *FEW).exit_code == 0
    assert (out / "notes.txt").read_text() == "mine"
    assert not any((out / folder / "old").exists() for folder in ("run", "data", "prepared"))
    losses = [[row["total"] for row in csv.DictReader((folder / "losses.csv").open())] for folder in (out, demo[0])]
    assert losses[0] == losses[1]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious").write_text("")
    result = run("--out", tmp_path)
    assert result.exit_code == 1
    assert "data is not from a demo" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("arguments", [("--steps", 0), ("--seed", -1), ("--threads", 0), ("--train-cases", 0)])
def test_bad_options_are_refused(arguments, tmp_path):
    result = run("--out", tmp_path / "demo", *arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.output
    assert not (tmp_path / "demo").exists()


def test_out_is_a_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "taken").write_text("")
    monkeypatch.setattr("sys.argv", ["rsuper", "demo", "--out", str(tmp_path / "taken")])
    with pytest.raises(SystemExit):
        main()
    assert "is a file" in " ".join(capsys.readouterr().err.split())


def test_a_missing_command_line_is_named(monkeypatch):
    """On an install without the trainer's packages, `rsuper` says which extra has them."""
    for name in [name for name in sys.modules if name.startswith(("rsuper_train", "typer"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit, match=r"typer.* is not installed; .*pip install 'rsuper-kernels\[train\]'"):
        importlib.import_module("rsuper_train.__main__").main()
