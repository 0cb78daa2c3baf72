# SPDX-License-Identifier: Apache-2.0
"""Each output starts empty and takes its steps one after the other: | row, & row, or & ~row."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsuper_kernels.bits import BitMasks
from rsuper_kernels.tables import split


def combine(
    stacks: Sequence[torch.Tensor], width: int, operations: Sequence[int], rows: Sequence[int], counts: Sequence[int]
) -> torch.Tensor:
    """Words (O, D, H, words) of the outputs; output o takes the next counts[o] steps, on rows of all stacks in order.

    Rows go on through the outputs that are made already; row -1 holds every voxel.
    """
    masks = [words for stack in stacks for words in stack]
    volume = (*stacks[0].shape[1:3], width)
    out = stacks[0].new_zeros(len(counts), *stacks[0].shape[1:])
    for union, steps in zip(out, split(list(zip(operations, rows, strict=True)), counts), strict=True):
        for operation, row in steps:
            mask = masks[row] if row >= 0 else BitMasks.full(1, volume, union.device).words[0]
            if operation == 0:
                union |= mask
            elif operation == 1:
                union &= mask
            else:
                union &= ~mask
        masks.append(union)
    return out
