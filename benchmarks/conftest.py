# SPDX-License-Identifier: Apache-2.0
"""Benchmarks run on every backend that works here, beside a copy of the logits, the unit of the figures."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks.inputs import Scene, scene
from rsuper_kernels import dispatch


def working(op: str) -> list[str]:
    """The implementations of `op` that run on the CPU of this machine."""
    return [impl for impl in dispatch.IMPLEMENTATIONS if dispatch.refusal(op, impl, torch.device("cpu")) is None]


@pytest.fixture(scope="session")
def inputs() -> Scene:
    return scene()


@pytest.fixture
def forward_backward(inputs: Scene) -> Callable[[Callable[[torch.Tensor], torch.Tensor]], Callable[[], None]]:
    """Turn a function of the logits into one step: forward, and backward with a gradient of ones."""

    def step_of(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], None]:
        logits = inputs.logits.clone().requires_grad_()

        def step() -> None:
            logits.grad = None
            function(logits).sum().backward()

        return step

    return step_of
