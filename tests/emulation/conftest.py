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


@pytest.fixture(params=["interpreter", "ptx"])
def triton(request):
    """impl="triton" serves tensors on the CPU, by Triton's interpreter and by the PTX that Triton emits."""
    with gpu.stand_in(emulated(request.param), ["triton"]):
        yield request.param


@pytest.fixture(params=["shim", "ptx"])
def cuda(request):
    """impl="cuda" serves tensors on the CPU, by C++ fibers and by the PTX that nvcc emits."""
    emulators = {"shim": ("interpreter", "shim"), "ptx": ("ptx", "nvcc")}
    with gpu.stand_in(emulated(*emulators[request.param])):
        yield request.param
