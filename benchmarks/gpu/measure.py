# SPDX-License-Identifier: Apache-2.0
"""Times on the device's own clock, and what a step needs of its memory."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.gpu.steps import Step
from benchmarks.measure import Timed, machine


class OnDevice(Timed):
    """A function that notes how long the device takes for each of its calls, launches included."""

    def __call__(self) -> object:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        result = self.function()
        end.record()
        end.synchronize()
        self.seconds.append(start.elapsed_time(end) / 1e3)
        return result


def copy_of(step: Step) -> Callable[[], None]:
    """The unit of the figures: reads the logits of a step and writes as much."""
    targets = [torch.empty_like(x) for x in step.given.heads]

    def copy() -> None:
        with torch.no_grad():
            for target, x in zip(targets, step.given.heads, strict=True):
                target.copy_(x)

    return copy


def peak_extra(step: Step) -> int:
    """Bytes that a step needs at most beside its inputs and the gradients that it leaves."""
    for x in step.given.heads:
        x.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return max(torch.cuda.max_memory_allocated() - before - step.nbytes, 0)


def where() -> dict[str, str | int | float]:
    """The device, and the rest of the machine."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": torch.cuda.get_device_name(0),
        "memory_gb": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda or torch.version.hip or "none",
        **machine(),
    }
