# SPDX-License-Identifier: Apache-2.0
"""The losses on a GPU, forward and backward, against a copy, our reference and plain torch on the same device."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu.cases import CASES, DTYPES, NEEDED, SIZES, SMALL, Case, Size
from benchmarks.gpu.cost import floor
from benchmarks.gpu.measure import OnDevice, copy_of, peak_extra
from benchmarks.gpu.steps import Step


def fits(case: Case, size: Size, dtype: torch.dtype) -> None:
    """Skip what the device has no memory for."""
    torch.cuda.empty_cache()
    needed, free = NEEDED * size.nbytes(dtype, case.heads), torch.cuda.mem_get_info()[0]
    if needed > free:
        pytest.skip(f"needs {needed / 2**30:.0f} GB of free GPU memory, and there are {free / 2**30:.0f}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.benchmark(group="GPU: the losses, forward and backward")
def test_loss(benchmark, figures, rounds: int, name: str, size: Size, dtype: str) -> None:
    case = CASES[name]
    fits(case, size, DTYPES[dtype])
    given = case.inputs(size, DTYPES[dtype])
    ours = Step(case.loss, given)
    ours()
    extra = peak_extra(ours)
    step, copy = OnDevice(ours), OnDevice(copy_of(ours))
    copy.function()
    benchmark.pedantic(step, setup=copy, rounds=rounds)
    lower_bound = floor(given, case.loss, size.edge)
    row = {
        "title": case.title,
        "size": str(size),
        "dtype": dtype,
        "ms": step.milliseconds,
        "quartiles": step.quartiles,
        "rounds": rounds,
        "copy_ms": copy.milliseconds,
        "copies": step.milliseconds / copy.milliseconds,
        "gb_per_s": lower_bound / step.milliseconds / 1e6,
        "copy_gb_per_s": 2 * ours.nbytes / copy.milliseconds / 1e6,
        "logits_bytes": ours.nbytes,
        "floor_bytes": lower_bound,
        "extra_bytes": extra,
    }
    # what is seconds for one step at the large sizes
    if size == SMALL and dtype == "fp32":
        row |= _others(case, given, rounds)
    figures.losses[f"{name} {size} {dtype}"] = row


def _others(case: Case, given, rounds: int) -> dict[str, float]:
    """Times of the reference, and of plain torch, on the device."""
    steps = {"reference_ms": Step(case.loss, given, "reference")}
    if case.baseline is not None:
        steps["plain_ms"] = Step(case.plain, given)
    times = {}
    for name, step in steps.items():
        step()
        timed = OnDevice(step)
        for _ in range(min(rounds, 3)):
            timed()
        times[name] = timed.milliseconds
    return times
