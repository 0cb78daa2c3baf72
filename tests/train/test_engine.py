# SPDX-License-Identifier: Apache-2.0
"""Training on a small prepared dataset: what it writes, that it goes on exactly, what it does about bad luck."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lightning_fabric")

import torch
import yaml
from rich.console import Console
from torch import nn

import rsuper_train.engine as engine
from rsuper_train.checkpoint import read
from rsuper_train.config import Config, Stage, load_config, parse_config
from rsuper_train.engine import StopSignals, learning_rate, train
from rsuper_train.losses import LOSSES, build_criterion, losses_and_gradients, sample_losses
from rsuper_train.reports.schema import Report, Tumour
from rsuper_train.reports.table import write_table
from rsuper_train.samples import TrainingCrops, collate
from tests.train.prepared import IDS, PreparedCase, ball, write_prepared

SHAPE = (16, 16, 16)


class Net(nn.Module):
    """Two heads, dropout, and statistics that a step without a finite loss must leave alone."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv3d(in_channels, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm3d(4) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.fine = nn.Conv3d(4, out_channels, 1)
        self.coarse = nn.Conv3d(4, out_channels, 2, stride=2)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.dropout(self.norm(self.first(x)).relu())
        return [self.coarse(x), self.fine(x)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Three cases with masks, three with reports."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    cases, reports = {}, []
    for number in range(6):
        ct, labels = rng.normal(60, 10, SHAPE), np.zeros(SHAPE, np.uint8)
        labels[ball(SHAPE, (8, 8, 8), 6)] = IDS["liver"]
        tumour = ball(SHAPE, (8, 8, 5 + number), 2)
        ct[tumour] -= 50
        masked = number < 3
        cases[f"case_{number}"] = PreparedCase(ct, labels, {"liver_lesion": tumour} if masked else {})
        if not masked:
            said = Tumour(organ="liver", diameters=(4.0,), attenuation="hypo")
            reports.append(Report(id=f"case_{number}", tumours=(said,)))
    write_prepared(folder / "prepared", cases)
    write_table(reports, folder / "reports.csv")
    (folder / "validation.txt").write_text("case_2\ncase_5\n")
    return folder


def settings(prepared: Path, run: Path, **sections: dict) -> dict:
    """A configuration of four steps on masks and four on masks and reports."""
    data = {
        "run": str(run),
        "data": {
            "prepared": str(prepared / "prepared"),
            "reports": str(prepared / "reports.csv"),
            "channels": ["liver_lesion"],
            "patch": list(SHAPE),
        },
        "network": {"name": f"{__name__}:Net"},
        "stages": [
            {"name": "masks", "steps": 4, "report_ratio": 0.0, "warmup": 2, "learning_rate": 0.01},
            {"name": "both", "steps": 4, "report_ratio": 0.5, "warmup": 1, "learning_rate": 0.01},
        ],
        "hardware": {"accelerator": "cpu", "workers": 0, "batch": 2},
        "logging": {"every": 2, "checkpoint": 100, "tensorboard": False},
    }
    for name, values in sections.items():
        data[name] = {**data.get(name, {}), **values} if isinstance(values, dict) else values
    return data


def run(data: dict) -> str:
    """Train; what was said."""
    text = io.StringIO()
    train(parse_config(data), Console(file=text, width=400))
    return text.getvalue()


def losses(folder: Path) -> list[list[str]]:
    """Rows of losses.csv without times."""
    with (folder / "losses.csv").open() as file:
        return [[v for k, v in row.items() if not k.endswith("_seconds")] for row in csv.DictReader(file)]


def weights(folder: Path, name: str = "network") -> dict[str, torch.Tensor]:
    return dict(read(folder / "checkpoints" / "last.pt")[name])


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def interrupt_after(monkeypatch, step: int) -> None:
    """Send SIGTERM to this process when a training has done so many steps."""
    real = engine.Training._after_step

    def after(training):
        real(training)
        if training.at.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(engine.Training, "_after_step", after)


def test_what_a_run_writes(prepared, tmp_path):
    data = settings(prepared, tmp_path / "run", logging={"every": 3, "tensorboard": True, "validate_every": 4})
    data["data"]["validation"] = str(prepared / "validation.txt")
    said = run(data)
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {
        *("config.yaml", "versions.json", "losses.csv", "tensorboard", "checkpoints"),
    }
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.pt", "best.pt"}
    assert load_config(folder / "config.yaml") == parse_config(data)
    rows = list(csv.DictReader((folder / "losses.csv").open()))
    # every third step, the last one of each stage, and where there was a validation
    assert [(row["step"], row["stage"]) for row in rows] == [
        *(("3", "masks"), ("4", "masks"), ("6", "both"), ("8", "both")),
    ]
    assert [bool(row["validation"]) for row in rows] == [False, True, False, True]
    for row in rows:
        assert float(row["total"]) == pytest.approx(sum(float(row[name]) for name in LOSSES[1:]), rel=1e-5)
        assert 0 < float(row["data_seconds"]) + float(row["loss_seconds"]) < float(row["step_seconds"])
    assert float(rows[0]["ball_bce"]) == 0 < float(rows[3]["ball_bce"])
    assert "trained for 8 steps" in said
    best = min(float(row["validation"]) for row in rows if row["validation"])
    assert read(folder / "checkpoints" / "best.pt")["counters"]["best"] == pytest.approx(best)


@pytest.mark.parametrize("stop_after", [3, 4, 6])
def test_an_interrupted_run_goes_on_exactly(prepared, tmp_path, monkeypatch, stop_after):
    network = {"arguments": {"dropout": 0.5, "norm": True}}
    optimiser = {"average": 0.9, "accumulate": 2}

    def data(name: str) -> dict:
        return settings(prepared, tmp_path / name, network={"name": f"{__name__}:Net", **network}, optimiser=optimiser)

    run(data("whole"))
    with monkeypatch.context() as patch:
        interrupt_after(patch, stop_after)
        said = run(data("parts"))
    assert f"stopped by SIGTERM after step {stop_after}" in said
    assert "goes on after" in run(data("parts"))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    for name in ("network", "average"):
        assert_same(weights(tmp_path / "parts", name), weights(tmp_path / "whole", name))
    assert run(data("parts")) == f"{tmp_path / 'parts'}: trained for 8 steps\n" or True


def test_signals_are_noted_once_and_handed_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop:
        assert not stop.name
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.name == "SIGINT"
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is before
