# SPDX-License-Identifier: Apache-2.0
"""triton-viz over small calls of the ops: `python -m tests.emulation.sanitizer` prints its verdict on each kernel.

A process of its own, since triton-viz changes Triton's interpreter for good.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

# read where kernels are defined
os.environ["TRITON_INTERPRET"] = "1"

import torch
import triton_viz
from triton_viz.clients import Sanitizer

from rsuper_kernels import gpu
from tests.emulation import kernels
from tests.emulation.fixtures.kernels import store_beyond_kernel

CLEAN = "clean"


class Sanitized:
    """A launcher that has each kernel looked through once, and lets nothing else happen."""

    def __init__(self) -> None:
        self.verdicts: dict[str, str] = {}

    def triton(self, kernel: Any, grid: tuple[int, ...], arguments: Mapping[str, Any], warps: int) -> None:
        name = kernel.fn.__name__
        if name not in self.verdicts:
            self.verdicts[name] = verdict(kernel, grid, arguments)

    def cuda(self, *launch: Any) -> None:
        """Not for triton-viz."""


def verdict(kernel: Any, grid: tuple[int, ...], arguments: Mapping[str, Any]) -> str:
    """CLEAN, or what triton-viz says: an access out of bounds, or what of the kernel it cannot follow."""
    sanitizer = Sanitizer(abort_on_error=False)
    try:
        triton_viz.trace(client=sanitizer)(kernel)[grid](**arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return CLEAN if not sanitizer.records else f"out of bounds: {len(sanitizer.records)} accesses"


def main() -> None:
    kernels.SHAPE = (2, 4, 70)
    launcher = Sanitized()
    with gpu.stand_in(launcher):
        for call in kernels.CALLS:
            for impl in ("triton", "cuda"):
                call(impl)
        gpu.launch_triton(store_beyond_kernel, (1,), out=torch.zeros(8), count=8, BLOCK=16)
    sys.stdout.write(json.dumps(launcher.verdicts))


if __name__ == "__main__":
    main()
