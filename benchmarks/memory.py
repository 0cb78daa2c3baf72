# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a step beside its inputs and gradients: `python -m benchmarks.memory ball-3` prints bytes.

A process of its own for every case, so that nothing an earlier one left behind, such as scratch that a kernel keeps,
hides what this one needs. For the same reason the step that is measured is the first of its size; a small one before
it loads the code. The kernel keeps the peak of resident memory, which writing 5 to clear_refs sets back to what is
resident now (Linux, proc(5)). Pages that the allocator has freed but not returned would serve the step unnoticed, so
they are returned first.
"""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.cases import CASES, Step
from benchmarks.measure import THREADS

WARM_UP_EDGE = 32


def peak_extra(step: Step) -> int:
    """Bytes that `step` needed at most, beside what is alive now and the gradients that it leaves."""
    step.clear()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    step()
    peak = _resident("VmHWM")
    gradients = sum(x.grad.nbytes for x in step.logits)
    step.clear()
    return max(peak - before - gradients, 0)


def _resident(field: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def peak_extra_of(name: str) -> int:
    """`peak_extra` of a case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", name]
    root = Path(__file__).resolve().parent.parent
    return int(subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    torch.set_num_threads(THREADS)
    case = CASES[sys.argv[1]]
    case.prepare(WARM_UP_EDGE)()
    sys.stdout.write(f"{peak_extra(case.step())}\n")


if __name__ == "__main__":
    main()
