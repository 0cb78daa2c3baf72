# SPDX-License-Identifier: Apache-2.0
"""Training on a small prepared dataset: what it writes, that it goes on exactly, what it does about bad luck."""

from __future__ import annotations

import csv
import io
import math
import os
import re
import shutil
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
from rsuper_train.config import Stage, load_config, parse_config
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
    assert "trained for 8 steps" in run(data("parts"))  # and does nothing


def test_signals_are_noted_once_and_handed_back(monkeypatch):
    raised = []
    monkeypatch.setattr(engine.signal, "raise_signal", raised.append)
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop:
        assert not stop.name
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # the same, by way of a launcher
        assert stop.name == "SIGINT"
        assert not raised
        monkeypatch.setattr(engine, "GRACE", -1.0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert raised == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is before


def test_more_steps_go_on_from_the_end(prepared, tmp_path):
    data = settings(prepared, tmp_path / "run")
    run(data)
    data["stages"][1]["steps"] = 6
    run(data)
    assert [row[0] for row in losses(tmp_path / "run")] == ["2", "4", "6", "8", "10"]


def test_accumulated_batches_are_one_large_batch(prepared, tmp_path):
    sizes = {"large": (4, 1), "small": (1, 4)}
    for name, (batch, accumulate) in sizes.items():
        hardware = {"batch": batch, "accelerator": "cpu", "workers": 0}
        run(settings(prepared, tmp_path / name, hardware=hardware, optimiser={"accumulate": accumulate}))
    for a, b in zip(losses(tmp_path / "large"), losses(tmp_path / "small"), strict=True):
        assert [float(x) for x in a[2:8]] == pytest.approx([float(x) for x in b[2:8]], rel=1e-5)
    small = weights(tmp_path / "small")
    for name, tensor in weights(tmp_path / "large").items():
        torch.testing.assert_close(small[name], tensor, rtol=1e-4, atol=1e-5)


def test_the_gradient_is_that_of_the_mean_loss(prepared, tmp_path):
    """As autograd gives it through the network in one piece, for a network with two heads."""
    config = parse_config(settings(prepared, tmp_path, stages=[{"steps": 1, "report_ratio": 0.5}]))
    batch = collate([TrainingCrops(engine.Cases(config.data), config, 0)[n] for n in range(4)])
    criterion = build_criterion(config.loss)
    logits = [torch.randn(4, 1, *SHAPE, requires_grad=True) for _ in range(2)]
    rows, gradients = losses_and_gradients(criterion, logits, batch, count=8)
    totals = [sample_losses(criterion, [z[i : i + 1] for z in logits], batch, i)["total"] for i in range(4)]
    torch.stack(totals).sum().div(8).backward()
    torch.testing.assert_close(rows[:, 0], torch.stack(totals).detach())
    for z, gradient in zip(logits, gradients, strict=True):
        torch.testing.assert_close(gradient, z.grad)
    # what is reported covers these small crops with its margin, so that no voxel is left to the segmentation term
    by_report = ["report" if (row[1] == 0 and row[3] > 0) else "mask" for row in rows]
    assert sorted(by_report) == ["mask", "mask", "report", "report"]


def poison(monkeypatch, bad: str) -> None:
    """Losses of one case that are not finite."""
    real = engine.losses_and_gradients

    def poisoned(criterion, heads, batch, count):
        changed = [z.clone() for z in heads]
        for index, case in enumerate(batch.case_ids):
            if bad in ("all", case):
                changed[0][index] = math.nan
        return real(criterion, changed, batch, count)

    monkeypatch.setattr(engine, "losses_and_gradients", poisoned)


def test_a_step_without_a_finite_loss_is_left_out(prepared, tmp_path, monkeypatch):
    poison(monkeypatch, "case_4")
    data = settings(prepared, tmp_path / "run", network={"arguments": {"norm": True}}, optimiser={"average": 0.9})
    said = run(data)
    assert re.search(r"warning: stage both, step [5-8]: the loss of case case_4 \(total, .*\) is not finite", said)
    for name in ("network", "average"):
        assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run", name).values())
    assert all(float(value) < 1e3 for row in losses(tmp_path / "run") for value in row[3:9])


def test_losses_that_stay_not_finite_end_the_run(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "PATIENCE", 3)
    data = settings(prepared, tmp_path / "run")
    torch.manual_seed(data.get("seed", 0))
    poison(monkeypatch, "all")
    with pytest.raises(ValueError, match=r"stage masks, step 3: the loss of case .* network\.weights=") as caught:
        run(data)
    assert "\n" not in str(caught.value)
    assert read(tmp_path / "run" / "checkpoints" / "last.pt")["counters"]["step"] == 2


def test_no_losses_of_steps_that_were_all_left_out(prepared, tmp_path, monkeypatch):
    poison(monkeypatch, "all")
    run(settings(prepared, tmp_path / "run"))
    assert {value for row in losses(tmp_path / "run") for value in row[3:9]} == {"nan"}


def test_stages_are_checked_before_the_first_begins(prepared, tmp_path):
    config, said = parse_config(settings(prepared, tmp_path / "run", data={"reports": None})), io.StringIO()
    with pytest.raises(ValueError, match=r"stages\.1\.report_ratio is 0\.5, and no case without masks has a report"):
        train(config, Console(file=said, width=400))
    assert "not used: 3 (case_3, case_4, case_5)" in said.getvalue()
    assert not (tmp_path / "run").exists()


class Fails(Net):
    """A network that fails on values alone."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        if x.device.type != "meta":
            raise RuntimeError("sizes do not match\nin some place")
        return super().forward(x)


def test_data_that_were_prepared_anew_are_noted(prepared, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(prepared, copy)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        assert "not prepared" not in run(settings(copy, tmp_path / "run"))
    path = copy / "prepared" / "manifest.json"
    path.write_text(path.read_text().replace('"mean": 40.0', '"mean": 50.0'))
    assert "the data are not prepared as they were before" in run(settings(copy, tmp_path / "run"))


def test_a_network_that_fails_ends_in_one_sentence(prepared, tmp_path):
    with pytest.raises(ValueError, match=r"network: .*:Fails fails on a batch \(2, 1, .*\): sizes do not match$"):
        run(settings(prepared, tmp_path / "run", network={"name": f"{__name__}:Fails"}))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_case_ends_in_one_sentence(prepared, tmp_path, workers):
    copy = tmp_path / "copy"
    shutil.copytree(prepared, copy)
    for path in copy.glob("prepared/cases/case_1/ct*"):
        path.write_bytes(path.read_bytes()[:50])
    hardware = {"workers": workers}
    with pytest.raises(ValueError, match=r"^data: case case_1: ") as caught:
        run(settings(copy, tmp_path / "run", hardware=hardware))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"optimiser": {"weight_decay": 0.5}}, r"optimiser.weight_decay was 0.0001 and is 0.5"),
        ({"data": {"patch": [8, 8, 8]}}, r"data.patch was \[16, 16, 16\] and is \[8, 8, 8\]"),
        ({"network": {"arguments": {"norm": True}}}, r"network.arguments.norm was None and is True"),
        ({"stages": [{"name": "masks", "steps": 4, "report_ratio": 0.0}]}, "stages.0.learning_rate was 0.01 and is"),
    ],
)
def test_a_run_does_not_go_on_as_another(prepared, tmp_path, changes, key):
    (tmp_path / "run").mkdir()
    run(settings(prepared, tmp_path / "run"))
    with pytest.raises(ValueError, match=key):
        run(settings(prepared, tmp_path / "run", **changes))


def test_hardware_logging_and_later_stages_may_change(prepared, tmp_path):
    run(settings(prepared, tmp_path / "run"))
    data = settings(prepared, tmp_path / "run", hardware={"batch": 1}, logging={"every": 1})
    data["stages"].append({"name": "more", "steps": 1, "report_ratio": 1.0})
    assert "goes on after step 8" in run(data)
    assert losses(tmp_path / "run")[-1][:2] == ["9", "more"]


@pytest.mark.parametrize("file", ["", "checkpoints/last.pt"])
def test_weights_to_start_from(prepared, tmp_path, file):
    run(settings(prepared, tmp_path / "first"))
    start = str(tmp_path / "first" / file)
    data = settings(prepared, tmp_path / "second", network={"weights": start})
    data["stages"] = [{"steps": 1, "learning_rate": 1e-12, "report_ratio": 0.0}]
    run(data)
    for name, tensor in weights(tmp_path / "first").items():
        torch.testing.assert_close(weights(tmp_path / "second")[name], tensor)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        ("poly", [0.25, 0.5, 0.75, 1, 0.8**0.9, 0.6**0.9, 0.4**0.9, 0.2**0.9]),
        ("cosine", [0.25, 0.5, 0.75, 1, 0.904508, 0.654508, 0.345492, 0.095492]),
    ],
)
def test_learning_rates(schedule, expected):
    stage = Stage(steps=8, warmup=3, learning_rate=2.0, schedule=schedule)
    assert [learning_rate(stage, step) / 2 for step in range(8)] == pytest.approx(expected, abs=1e-6)
    assert learning_rate(Stage(steps=1, warmup=0), 0) == 1e-3


def test_mixed_precision(prepared, tmp_path):
    run(settings(prepared, tmp_path / "run", hardware={"precision": "bf16-mixed"}))
    rows = losses(tmp_path / "run")
    assert all(0 < float(row[3]) < 10 for row in rows)
    assert {tensor.dtype for tensor in weights(tmp_path / "run").values()} == {torch.float32}


def write_config(path: Path, data: dict) -> Path:
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def environment() -> dict[str, str]:
    root = Path(__file__).parents[2]
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(root), str(root / "python")])}


@pytest.mark.slow  # three processes, each of which imports torch and MONAI
def test_two_processes_are_one_with_twice_the_batch(prepared, tmp_path):
    optimiser = {"name": "SGD", "momentum": 0.9, "accumulate": 2}
    run(settings(prepared, tmp_path / "one", optimiser=optimiser, hardware={"batch": 2}))
    data = settings(prepared, tmp_path / "two", optimiser=optimiser, hardware={"batch": 1, "workers": 1})
    data["data"]["validation"] = str(prepared / "validation.txt")
    config = write_config(
        tmp_path / "two.yaml", settings(prepared, tmp_path / "two", optimiser=optimiser, hardware={"batch": 1})
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, "-m", "rsuper_train", "train", str(config)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for a, b in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert [float(x) for x in a[2:8]] == pytest.approx([float(x) for x in b[2:8]], rel=1e-5)
    two = weights(tmp_path / "two")
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.slow  # five processes, each of which imports torch and MONAI
def test_a_killed_run_is_completed(prepared, tmp_path):
    def data(name: str) -> dict:
        logging = {"every": 1, "checkpoint": 3}
        return settings(prepared, tmp_path / name, logging=logging, hardware={"workers": 2, "threads": 1})

    run(data("whole"))
    config = write_config(tmp_path / "parts.yaml", data("parts"))
    command = [sys.executable, "-m", "rsuper_train", "train", str(config)]
    for rows in (2, 6):
        with subprocess.Popen(
            command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as killed:
            until = time.monotonic() + 100
            table = tmp_path / "parts" / "losses.csv"
            while not (table.is_file() and table.read_text().count("\n") > rows) and time.monotonic() < until:
                time.sleep(0.01)
            killed.kill()
    assert subprocess.run(command, env=environment(), timeout=200).returncode == 0
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert_same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
