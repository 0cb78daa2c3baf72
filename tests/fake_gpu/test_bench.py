# SPDX-License-Identifier: Apache-2.0
"""Every line of the benchmarks for a GPU runs, at tiny sizes, on the fake device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_gpu import choice
from tests.fake_gpu.conftest import MISSING

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_benchmarks(tmp_path):
    if MISSING:
        pytest.skip(MISSING)
    command = [sys.executable, "-m", "pytest", "benchmarks/gpu", "--benchmark-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"--gpu-results={tmp_path}"],
        cwd=ROOT,
        # this process may be a worker of xdist, which has no benchmarks
        env={**{k: v for k, v in os.environ.items() if "XDIST" not in k}, "RSUPER_FAKE_GPU": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    figures = json.loads((tmp_path / "fake-device.json").read_text())
    assert set(figures) == {"machine", "losses", "ops", "training"}
    assert len(figures["losses"]) == 10
    assert "cuda" in {row["impl"] for row in figures["ops"].values()}
    assert figures["training"]
    assert "| volume loss |" in (tmp_path / "fake-device.md").read_text()
    assert (tmp_path / "fake-device.png").stat().st_size > 0


def test_where_they_run(monkeypatch):
    """On a real device, on the fake one if it is asked for, or nowhere; never on a real one by Triton's interpreter."""
    monkeypatch.setattr(choice, "FAKE", False)
    monkeypatch.setattr(choice, "REAL", False)
    assert choice.missing() == "no CUDA device"
    monkeypatch.setattr(choice, "REAL", True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "TRITON_INTERPRET" in choice.missing()
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert choice.missing() == ""
