# SPDX-License-Identifier: Apache-2.0
"""`rsuper demo` from end to end, with a few steps on a few cases."""

from __future__ import annotations

import csv
import importlib
import json
import math
import sys

import numpy as np
import pytest

pytest.importorskip("monai")
pytest.importorskip("matplotlib")

import torch
from typer.testing import CliRunner

from rsuper_train.cli import app, main
from rsuper_train.data import Sample, augment, collate, prepare, to_case_grid
from rsuper_train.demo_engine import Settings, build_network, predict, train
from rsuper_train.phantom import make_cohort

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [prepare(case) for case in make_cohort(2, seed=1)[0]]


def run(*arguments: object):
    return RUNNER.invoke(app, ["demo", *map(str, arguments)])


def test_demo_writes_well_formed_files(tmp_path):
    out = tmp_path / "deep" / "demo"
    result = run("--out", out, "--steps", 4, "--train-cases", 2, "--test-cases", 3)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == [
        "demo.png",
        "losses.csv",
        "losses.png",
        "metrics.json",
        "reports.csv",
        "tumours.csv",
    ]
    for picture in ("demo.png", "losses.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((out / "losses.csv").open()))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())
    metrics = json.loads((out / "metrics.json").read_text())
    assert len(metrics["cases"]) == 3
    assert {"before training", "report-supervised", "seconds", "versions", "options", "operating_point"} <= set(metrics)
    for name in ("before training", "report-supervised"):
        assert metrics[name]["false_positives_per_case"] >= 0
    assert "before training" in result.output


@pytest.mark.parametrize("arguments", [("--steps", 0), ("--seed", -1), ("--threads", 0), ("--train-cases", 0)])
def test_bad_options_end_in_one_sentence(arguments, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["rsuper", "demo", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert "error:" in message
    assert "expected at least" in message
    assert "Traceback" not in message


def test_out_is_a_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "taken").write_text("")
    monkeypatch.setattr("sys.argv", ["rsuper", "demo", "--out", str(tmp_path / "taken")])
    with pytest.raises(SystemExit):
        main()
    assert "is a file" in " ".join(capsys.readouterr().err.split())


def test_training_sees_no_mask_and_is_reproducible(samples):
    """Two runs with one seed end in the same weights; a sample's tensors are CT, organ labels and nothing else."""
    assert {name for name, value in vars(samples[0]).items() if isinstance(value, torch.Tensor)} == {
        "image",
        "ct",
        "labels",
    }
    settings = Settings(steps=2)
    runs = [train(build_network(settings, 5), samples, settings, 5).state_dict() for _ in range(2)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_prediction_keeps_to_the_organs(samples):
    probability = predict(build_network(Settings(), 0), samples[0])
    assert probability.shape == tuple(samples[0].labels.shape)
    assert not probability[samples[0].labels.numpy() == 0].any()


def test_augmentation_moves_everything_together(samples):
    """Organ mask and labels stay aligned; a lesion's CT stays with them; the findings are untouched."""
    batch = collate(samples)
    for seed in range(6):
        turned = augment(batch, np.random.default_rng(seed))
        assert torch.equal(turned.image[:, 1] > 0, turned.labels > 0)
        assert torch.equal(turned.ct.flatten().sort().values, batch.ct.flatten().sort().values)
        assert turned.ct[turned.labels[:, None] == 5].mean() == pytest.approx(
            batch.ct[batch.labels[:, None] == 5].mean()
        )
        assert turned.findings == batch.findings
    assert torch.equal(batch.labels, collate(samples).labels)


def test_back_to_the_case_grid():
    (case,), _ = make_cohort(1, seed=2)
    sample = prepare(case)
    whole = to_case_grid(sample.ct[0].numpy(), sample, case.ct.shape)
    assert whole.shape == case.ct.shape
    assert np.array_equal(whole[sample.window], case.ct[sample.window])


def test_a_missing_command_line_is_named(monkeypatch):
    """On an install without the trainer's packages, `rsuper` says which extra has them."""
    for name in [name for name in sys.modules if name.startswith(("rsuper_train", "typer"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit, match=r"typer.* is not installed; .*pip install 'rsuper-kernels\[train\]'"):
        importlib.import_module("rsuper_train.__main__").main()
