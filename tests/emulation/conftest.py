# SPDX-License-Identifier: Apache-2.0
"""Emulated GPUs as fixtures. Where a tool is missing their tests are skipped with the reason, in CI they fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rsuper_kernels import gpu
from tests.emulation.launchers import Pair, emulator, required

# They import the interpreter of PTX, which needs numpy 2.
collect_ignore_glob = ["test_ptx*.py", "test_sentryward.py"] if np.__version__ < "2" else []


def emulated(triton: str, cuda: str | None = None) -> Any:
    """A launcher of these emulators, or a skipped test."""
    try:
        return Pair(emulator(triton), emulator(cuda) if cuda else None)
    except ImportError as error:
        if required():
            raise
        pytest.skip(str(error))


# Of Triton kernels and of those in CUDA C++.
CUDA = {"shim": ("interpreter", "shim"), "ptx": ("ptx", "nvcc")}


@pytest.fixture(params=["interpreter", "ptx"])
def triton(request):
    """impl="triton" serves tensors on the CPU, by Triton's interpreter and by the PTX that Triton emits."""
    with gpu.stand_in(emulated(request.param), ["triton"]):
        yield request.param


@pytest.fixture(params=["shim", "ptx"])
def cuda(request):
    """impl="cuda" serves tensors on the CPU, by C++ fibers and by the PTX that nvcc emits."""
    with gpu.stand_in(emulated(*CUDA[request.param])):
        yield request.param


@pytest.fixture(params=["triton-interpreter", "triton-ptx", "cuda-shim", "cuda-ptx"])
def kernels(request):
    """The impl of an op written both in Triton and in CUDA C++; emulators serve it on tensors of the CPU."""
    impl, emulator_name = request.param.split("-")
    with gpu.stand_in(emulated(*(CUDA[emulator_name] if impl == "cuda" else (emulator_name,))), [impl]):
        yield impl
