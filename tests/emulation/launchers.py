# SPDX-License-Identifier: Apache-2.0
"""Emulators of a GPU, as launchers for `gpu.stand_in`: each runs one kind of kernel on tensors in the CPU's memory."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from rsuper_kernels.gpu import Argument


class Interpreter:
    """Triton's own interpreter: the kernel's Python, program after program. TRITON_INTERPRET=1 has to be set."""

    def triton(self, kernel: Any, grid: tuple[int, ...], arguments: Mapping[str, Any], warps: int) -> None:
        kernel[grid](**arguments, num_warps=warps)


class Pair:
    """One emulator for Triton kernels and one for kernels in CUDA C++."""

    def __init__(self, triton: Any, cuda: Any) -> None:
        self._triton, self._cuda = triton, cuda

    def triton(self, kernel: Any, grid: tuple[int, ...], arguments: Mapping[str, Any], warps: int) -> None:
        self._triton.triton(kernel, grid, arguments, warps)

    def cuda(
        self, source: str, kernel: str, grid: tuple[int, ...], threads: int, arguments: Sequence[Argument], shared: int
    ) -> None:
        self._cuda.cuda(source, kernel, grid, threads, arguments, shared)


# Where each emulator is, and what is missing here without it.
_EMULATORS = {
    "interpreter": ("tests.emulation.launchers", "Interpreter"),
    "ptx": ("tests.emulation.ptx", "Ptx"),
    "nvcc": ("tests.emulation.ptx", "NvccPtx"),
    "shim": ("tests.emulation.shim", "Shim"),
}


def emulator(name: str) -> Any:
    """An emulator by name.

    Raises:
        ImportError: what it needs (Triton, nvcc, a C++ compiler) is not on this machine; the message says what.
    """
    module, attribute = _EMULATORS[name]
    return getattr(importlib.import_module(module), attribute)()


def required() -> bool:
    """Whether a missing tool is an error, as in CI, and not a reason to skip."""
    return os.environ.get("RSUPER_REQUIRE_EMULATION", "0") not in ("", "0")
