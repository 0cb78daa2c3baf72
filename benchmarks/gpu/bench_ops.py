# SPDX-License-Identifier: Apache-2.0
"""Every op that has kernels for a GPU, with each backend that serves it."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu.bench_losses import fits
from benchmarks.gpu.cases import CASES, DTYPES, OPS, SIZES, SMALL, Size
from benchmarks.gpu.measure import OnDevice
from rsuper_kernels import dispatch


@pytest.mark.parametrize("impl", ["cuda", "triton", "reference"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.benchmark(group="GPU: ops")
def test_op(benchmark, figures, rounds: int, op: str, size: Size, impl: str) -> None:
    reason = dispatch.refusal(op, impl, torch.device("cuda:0"))
    if reason is not None:
        pytest.skip(reason)
    if impl == "reference" and size != SMALL:
        pytest.skip("the reference is measured at the small size")
    fits(CASES["volume"], size, DTYPES["fp32"])
    run = OPS[op](size.inputs(DTYPES["fp32"]), size, impl)
    run()
    timed = OnDevice(run)
    benchmark.pedantic(timed, rounds=rounds)
    figures.ops[f"{op} {impl} {size}"] = {
        "title": op,
        "impl": impl,
        "size": str(size),
        "ms": timed.milliseconds,
        "quartiles": timed.quartiles,
        "rounds": rounds,
    }
