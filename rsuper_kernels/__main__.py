# SPDX-License-Identifier: Apache-2.0
"""`python -m rsuper_kernels`: which backends work here, op by op, and why each other one does not."""

from __future__ import annotations

import platform
from itertools import groupby

import torch

import rsuper_kernels
from rsuper_kernels import dispatch


def report() -> str:
    """The backends of every op on every device of this machine, as text."""
    devices = [torch.device("cpu")] + [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    names = [f"cuda:{device.index} {torch.cuda.get_device_name(device)}" for device in devices[1:]]
    lines = [
        f"rsuper_kernels {rsuper_kernels.__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        f"devices: {', '.join(['cpu', *names])}" + ("" if names else " (no CUDA device)"),
    ]
    ops = [op for op in dispatch.ops() if not op.endswith("_backward")]
    for device in devices:
        lines += ["", f"on {device}:"]
        width = max(len(op) for op in ops)
        for op in ops:
            working = [impl for impl in dispatch.IMPLEMENTATIONS if dispatch.refusal(op, impl, device) is None]
            lines.append(f"  {op:{width}}  {', '.join(working)}")
        lines.append("  not here:")
        refusals = {(impl, op): dispatch.refusal(op, impl, device) for impl in dispatch.IMPLEMENTATIONS for op in ops}
        reasons = [(impl, reason.replace(f"{op} has", "it has")) for (impl, op), reason in refusals.items() if reason]
        for (impl, reason), found in groupby(sorted(reasons)):
            lines.append(f"    {impl}: {reason} ({len(list(found))} of {len(ops)} ops)")
    return "\n".join(lines)


if __name__ == "__main__":
    print(report())
