# SPDX-License-Identifier: Apache-2.0
"""Dilation of words of bits: rows are OR-ed from the widest run to the narrowest, and shifted once for each width.

With B_j the OR of the rows whose runs reach j voxels or more, the dilation is the OR over j of B_j shifted by j to both
sides: a run costs one row and a width two shifts, instead of a shift for each of its voxels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from rsuper_kernels import gpu
from rsuper_kernels.ops.dilate import reference
from rsuper_kernels.ops.dilate.tables import packed_runs, ranges

WORDS = 128
# The words beside a word hold what reaches it.
_WIDEST = 63


@triton.jit
def _word(words, z, y, x, depth, height, row_words):
    """The words at (z, y, x), 0 outside the volume."""
    inside = (z >= 0) & (z < depth) & (y >= 0) & (y < height) & (x >= 0) & (x < row_words)
    return tl.load(words + ((z * height + y) * row_words + x), inside, other=0).to(tl.uint64, bitcast=True)


@triton.jit
def _spread(before, here, after, distance):
    """What a word and the two beside it bring to it when they move by `distance` voxels to either side."""
    shift = tl.full(here.shape, 0, tl.uint64) + distance.to(tl.uint64)
    # a shift by 64 is undefined: the words beside it bring nothing at a distance of 0
    rest = tl.where(shift == 0, 63, 64 - shift).to(tl.uint64)
    from_beside = tl.where(shift == 0, 0, (before >> rest) | (after << rest)).to(tl.uint64)
    return (here << shift) | (here >> shift) | from_beside


@triton.jit
def dilate_kernel(
    words,
    masks,
    out,
    runs,
    run_count,
    beside_ranges,
    beside,
    depth,
    height,
    row_words,
    width,
    APART: tl.constexpr,
    WORDS: tl.constexpr,
):
    """`words` are dilated by `runs` (see tables.py), `masks` are what they were before any dilation."""
    volume_words = depth * height * row_words
    first_word = tl.program_id(1).to(tl.int64) * volume_words
    w = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    inside = w < volume_words
    x, y, z = w % row_words, w // row_words % height, w // row_words // height
    zero = tl.zeros([WORDS], tl.int64).to(tl.uint64, bitcast=True)
    grown, before, here, after = zero, zero, zero, zero
    first, last = 0, 0
    if APART:
        first = tl.load(beside_ranges + 2 * tl.program_id(1)).to(tl.int32)
        last = tl.load(beside_ranges + 2 * tl.program_id(1) + 1).to(tl.int32)
    # a mask that stays as it is has no runs
    count = tl.where(last < 0, 0, run_count)
    for i in range(count):
        run = tl.load(runs + i)
        following = tl.load(runs + i + 1, i + 1 < count, other=-(1 << 32))
        from_z, from_y = z - (run.to(tl.int32) >> 16), y - run.to(tl.int16).to(tl.int32)
        before |= _word(words + first_word, from_z, from_y, x - 1, depth, height, row_words)
        here |= _word(words + first_word, from_z, from_y, x, depth, height, row_words)
        after |= _word(words + first_word, from_z, from_y, x + 1, depth, height, row_words)
        # the widths down to that of the next run, which is narrower or as wide
        widest = (run >> 32).to(tl.int32)
        for narrower in range(widest - (following >> 32).to(tl.int32)):
            grown |= _spread(before, here, after, widest - narrower)
    result = grown.to(tl.int64, bitcast=True)
    if APART:
        own = tl.load(masks + first_word + w, inside, other=0)
        for i in range(first, last):
            other = tl.load(masks + tl.load(beside + i) * volume_words + w, inside, other=0)
            result &= other ^ -1
        # what stays as it is, and, where others were taken out, what it shares with them
        result |= tl.where(first == last, 0, own)
    left = width - x * 64
    every = tl.where(left < 64, (tl.full([WORDS], 1, tl.int64) << tl.minimum(left, 63).to(tl.int64)) - 1, -1)
    tl.store(out + first_word + w, result & every, inside)


def dilate(
    words: torch.Tensor,
    width: int,
    runs: torch.Tensor,
    passes: Sequence[int],
    beside: Sequence[int],
    beside_counts: Sequence[int],
) -> torch.Tensor:
    """Words (N, D, H, words) of the dilated masks; see reference.py."""
    masks = words = words.contiguous()
    depth, height = words.shape[1:3]
    tables = packed_runs(runs.numpy().tobytes(), tuple(passes), (depth, height, width))
    if any(table and table[0] >> 32 > _WIDEST for table in tables):
        return reference.dilate(words, width, runs, passes, beside, beside_counts)
    for table in tables[:-1]:
        words = _launch(words, masks, width, table, (), ())
    return _launch(words, masks, width, tables[-1], beside, beside_counts)


def _launch(
    words: torch.Tensor,
    masks: torch.Tensor,
    width: int,
    runs: tuple[int, ...],
    beside: Sequence[int],
    beside_counts: Sequence[int],
) -> torch.Tensor:
    count, depth, height, row_words = words.shape
    out = torch.empty_like(words)
    gpu.launch_triton(
        dilate_kernel,
        (triton.cdiv(depth * height * row_words, WORDS), count),
        words=words,
        masks=masks,
        out=out,
        runs=gpu.table(runs, torch.int64, words.device),
        run_count=len(runs),
        beside_ranges=gpu.table(ranges(tuple(beside_counts)), torch.int64, words.device),
        beside=gpu.table(beside, torch.int64, words.device),
        depth=depth,
        height=height,
        row_words=row_words,
        width=width,
        APART=len(beside_counts) > 0,
        WORDS=WORDS,
    )
    return out
