# SPDX-License-Identifier: Apache-2.0
"""Benchmarks run on every backend that works here, with two threads; the figures are printed at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import pytest
import torch

from benchmarks import figures as tables
from benchmarks.cases import CASES, COMPARISONS, MEMORY_AT_MOST
from benchmarks.inputs import Scene, scene
from benchmarks.measure import THREADS, machine
from rsuper_kernels import dispatch


@dataclass
class Figures:
    """What the run measured; see figures.py."""

    machine: dict[str, str | int | float] = field(default_factory=machine)
    losses: dict[str, tables.Row] = field(default_factory=dict)
    comparisons: dict[str, tables.Row] = field(default_factory=dict)
    memory_at_most: float = MEMORY_AT_MOST


FIGURES = pytest.StashKey[Figures]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = Figures()
    torch.set_num_threads(THREADS)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the figures; keep those of a whole run."""
    measured = config.stash[FIGURES]
    if not (measured.losses or measured.comparisons):
        return
    figures = asdict(measured)
    terminalreporter.section("figures")
    terminalreporter.write_line(tables.report(figures))
    if len(measured.losses) == len(CASES) and len(measured.comparisons) == len(COMPARISONS):
        tables.write(figures)
        terminalreporter.write_line(f"\nwritten to {tables.FIGURES}")
    else:
        terminalreporter.write_line(f"\nnot all rows were measured: {tables.FIGURES.name} is left as it is")


@pytest.fixture
def figures(pytestconfig: pytest.Config) -> Figures:
    return pytestconfig.stash[FIGURES]


def working(op: str) -> list[str]:
    """The implementations of `op` that run on the CPU of this machine."""
    return [impl for impl in dispatch.IMPLEMENTATIONS if dispatch.refusal(op, impl, torch.device("cpu")) is None]


@pytest.fixture(scope="session")
def inputs() -> Scene:
    return scene()


@pytest.fixture
def forward_backward(inputs: Scene) -> Callable[[Callable[[torch.Tensor], torch.Tensor]], Callable[[], None]]:
    """Turn a function of the logits into one step: forward, and backward with a gradient of ones."""

    def step_of(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], None]:
        logits = inputs.logits.clone().requires_grad_()

        def step() -> None:
            logits.grad = None
            function(logits).sum().backward()

        return step

    return step_of
