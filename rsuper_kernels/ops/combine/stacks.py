# SPDX-License-Identifier: Apache-2.0
"""Tensors that a launch of the kernels takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

# As in csrc/cuda/combine.cu and in triton_kernel.py.
STACKS = 6


def few(stacks: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The same rows in at most STACKS stacks, contiguous: what is too many goes into the last one."""
    if len(stacks) > STACKS:
        stacks = [*stacks[: STACKS - 1], torch.cat(list(stacks[STACKS - 1 :]))]
    return [stack.contiguous() for stack in stacks]
