# SPDX-License-Identifier: Apache-2.0
"""Benchmarks on cuda:0; their figures are written to results/gpu/<device>.json, with a table and a plot of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from benchmarks.figures import RESULTS
from benchmarks.gpu import report
from benchmarks.gpu.measure import where
from tests.fake_gpu.choice import FAKE, chosen_device, missing

MISSING = missing()


@dataclass
class Figures:
    """What the run measured; see report.py."""

    machine: dict[str, str | int | float] = field(default_factory=dict)
    losses: dict[str, report.Row] = field(default_factory=dict)
    ops: dict[str, report.Row] = field(default_factory=dict)
    training: dict[str, report.Row] = field(default_factory=dict)


FIGURES = pytest.StashKey[Figures]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu-results", type=Path, default=RESULTS / "gpu", help="folder for the figures")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = Figures()


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Keep the figures, and print their table."""
    measured = asdict(config.stash[FIGURES])
    if measured["machine"]:
        terminalreporter.section("figures on the GPU")
        terminalreporter.write_line(report.page(measured))
        written = report.write(measured, config.getoption("--gpu-results"))
        terminalreporter.write_line(f"\nwritten to {written}")


@pytest.fixture(autouse=True)
def cuda():
    """The device; None if it is a real one."""
    if MISSING:
        pytest.skip(MISSING)
    with chosen_device() as device:
        yield device


@pytest.fixture
def figures(pytestconfig: pytest.Config, cuda) -> Figures:
    figures = pytestconfig.stash[FIGURES]
    figures.machine = figures.machine or where()
    return figures


@pytest.fixture
def rounds() -> int:
    """Of every measurement, after one that compiles kernels and copies tables."""
    return 1 if FAKE else 20
