# SPDX-License-Identifier: Apache-2.0
"""Times of functions that take turns, so that whatever else the machine does strikes all of them alike."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

import torch

import rsuper_kernels
from benchmarks.cases import Step
from rsuper_kernels import native

THREADS = 2
ROOT = Path(__file__).resolve().parent.parent


class Timed:
    """A function that notes how long each of its calls takes."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function
        self.seconds: list[float] = []

    def __call__(self) -> object:
        start = perf_counter()
        result = self.function()
        self.seconds.append(perf_counter() - start)
        return result

    @property
    def milliseconds(self) -> float:
        return 1e3 * median(self.seconds)

    @property
    def quartiles(self) -> list[float]:
        """First and third, in ms."""
        values = [1e3 * second for second in self.seconds]
        first, _, third = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        return [first, third]


def take_turns(functions: Iterable[Timed], rounds: int) -> None:
    """Call each in turn, `rounds` times."""
    for _ in range(rounds):
        for function in functions:
            function()


def rounds_for(step: Callable[[], object], seconds: float, most: int = 25) -> int:
    """How often a step fits into so many seconds, 3 times at least; a call to warm it up and one to see."""
    step()
    timed = Timed(step)
    timed()
    return min(max(int(seconds / timed.seconds[0]), 3), most)


def copy_of(step: Step) -> Callable[[], None]:
    """The unit of the figures: reads the logits of a step and writes as much, into memory that is there."""
    targets = [torch.empty_like(x) for x in step.logits]

    def copy() -> None:
        for target, x in zip(targets, step.logits, strict=True):
            target.copy_(x.detach())

    return copy


def clone_of(step: Step) -> Callable[[], None]:
    """A copy into fresh memory. A gradient is fresh memory too, whose pages the system hands out and clears."""

    def clone() -> None:
        for x in step.logits:
            x.detach().clone()

    return clone


def machine() -> dict[str, str | int | float]:
    """Where and of what the figures are. Ask before measuring: the load is that of other programs."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "threads": THREADS,
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else 0.0,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "rsuper_kernels": rsuper_kernels.__version__,
        "native": native.available()[1],
        "commit": _commit(),
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str:
    """Short hash, with "-dirty" where a tracked file other than a result has changed."""
    described = subprocess.run(
        ["git", "describe", "--always", "--exclude=*"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return described.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")
