# SPDX-License-Identifier: Apache-2.0
"""A program takes some words of the volume through the steps of every output, one output after the other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from rsuper_kernels import gpu
from rsuper_kernels.ops.combine.stacks import STACKS, few

WORDS = 256


@triton.jit
def combine_kernel(
    stack0,
    stack1,
    stack2,
    stack3,
    stack4,
    stack5,
    out,
    steps,
    end0,
    end1,
    end2,
    end3,
    end4,
    end5,
    outputs,
    volume_words,
    row_words,
    width,
    WORDS: tl.constexpr,
):
    """`steps`: the bounds of each output's steps, then (operation, row) of each. Stack n has the rows up to end_n."""
    w = tl.program_id(0).to(tl.int64) * WORDS + tl.arange(0, WORDS)
    inside = w < volume_words
    left = width - w % row_words * 64
    every = tl.where(left < 64, (tl.full([WORDS], 1, tl.int64) << tl.minimum(left, 63)) - 1, -1)
    for o in range(outputs):
        # both are read: Triton 3.7 drops a bound that is carried from one output to the next
        start = tl.load(steps + o).to(tl.int32)
        end = tl.load(steps + o + 1).to(tl.int32)
        made = tl.zeros([WORDS], tl.int64)
        for step in range(start, end):
            operation = tl.load(steps + outputs + 1 + 2 * step)
            row = tl.load(steps + outputs + 2 + 2 * step)
            at = w + (row * volume_words)
            other = tl.load(stack0 + at, inside & (row >= 0) & (row < end0), other=0)
            other |= tl.load(stack1 + at - end0 * volume_words, inside & (row >= end0) & (row < end1), other=0)
            other |= tl.load(stack2 + at - end1 * volume_words, inside & (row >= end1) & (row < end2), other=0)
            other |= tl.load(stack3 + at - end2 * volume_words, inside & (row >= end2) & (row < end3), other=0)
            other |= tl.load(stack4 + at - end3 * volume_words, inside & (row >= end3) & (row < end4), other=0)
            other |= tl.load(stack5 + at - end4 * volume_words, inside & (row >= end4) & (row < end5), other=0)
            other |= tl.load(out + at - end5 * volume_words, inside & (row >= end5), other=0)
            other = tl.where(row < 0, every, other)
            either, both, only = made | other, made & other, made & (other ^ -1)
            made = tl.where(operation == 0, either, tl.where(operation == 1, both, only))
        tl.store(out + w + o * volume_words, made, inside)
        # a later output of this program may read it
        tl.debug_barrier()


def combine(
    stacks: Sequence[torch.Tensor], width: int, operations: Sequence[int], rows: Sequence[int], counts: Sequence[int]
) -> torch.Tensor:
    """Words (O, D, H, words) of the outputs; see reference.py."""
    stacks = few(stacks)
    *_, row_words = shape = stacks[0].shape[1:]
    out = stacks[0].new_empty(len(counts), *shape)
    ends = list(itertools.accumulate(len(stack) for stack in stacks))
    ends += ends[-1:] * (STACKS - len(ends))
    steps = [number for step in zip(operations, rows, strict=True) for number in step]
    table = gpu.table([*itertools.accumulate(counts, initial=0), *steps], torch.int64, out.device)
    slots: dict[str, Any] = {f"stack{i}": stacks[min(i, len(stacks) - 1)] for i in range(STACKS)}
    slots |= {f"end{i}": end for i, end in enumerate(ends)}
    gpu.launch_triton(
        combine_kernel,
        (triton.cdiv(shape.numel(), WORDS) * min(len(counts), 1),),
        **slots,
        out=out,
        steps=table,
        outputs=len(counts),
        volume_words=shape.numel(),
        row_words=row_words,
        width=width,
        WORDS=WORDS,
    )
    return out
