# SPDX-License-Identifier: Apache-2.0
"""The kernel in CUDA C++: one launch, whatever is combined."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

import torch

from rsuper_kernels import gpu
from rsuper_kernels.ops.combine.stacks import STACKS, few

_THREADS = 256
# As in csrc/cuda/combine.cu.
_OUTPUTS, _EVERYTHING = STACKS, STACKS + 1


def combine(
    stacks: Sequence[torch.Tensor], width: int, operations: Sequence[int], rows: Sequence[int], counts: Sequence[int]
) -> torch.Tensor:
    """Words (O, D, H, words) of the outputs; see reference.py."""
    stacks = few(stacks)
    device, volume = stacks[0].device, stacks[0].shape[1:]
    out = torch.empty(len(counts), *volume, dtype=torch.int64, device=device)
    steps = _packed(tuple(operations), tuple(rows), tuple(len(stack) for stack in stacks))
    gpu.launch_cuda(
        "combine",
        "combine",
        (-(-volume.numel() // _THREADS) if counts else 0,),
        _THREADS,
        *stacks,
        *[stacks[0]] * (STACKS - len(stacks)),
        out,
        gpu.table(steps, torch.int64, device),
        gpu.table(list(itertools.accumulate(counts)), torch.int64, device),
        len(counts),
        volume.numel(),
        width,
    )
    return out


@lru_cache(maxsize=256)
def _packed(operations: tuple[int, ...], rows: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Steps as csrc/cuda/combine.cu reads them: the row within its stack, or within the outputs, and which that is."""
    places = [(source, row) for source, size in enumerate(sizes) for row in range(size)]
    steps = []
    for operation, row in zip(operations, rows, strict=True):
        if row < 0:
            source, row = _EVERYTHING, 0
        elif row < len(places):
            source, row = places[row]
        else:
            source, row = _OUTPUTS, row - len(places)
        steps.append(row << 16 | source << 8 | operation)
    return tuple(steps)
