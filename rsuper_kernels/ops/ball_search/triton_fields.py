# SPDX-License-Identifier: Apache-2.0
"""What a search on a GPU goes through: probabilities where masks hold a voxel, their sums, and bounding boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from rsuper_kernels import gpu
from rsuper_kernels.ops.pack_bits.triton_kernel import (
    bits_of,
    half_words_and_voxels,
    half_words_per_row,
    load_half_words,
)
from rsuper_kernels.tiles import probability

START = tl.constexpr(1 << 30)
"""What starts of boxes are counted down from: all six numbers are maxima, and 0 before a voxel is in the box."""
SEGMENT = tl.constexpr(32)
"""Voxels of a row whose probabilities are added up: a half word."""
HALF_WORDS = 64
"""Half words of a program."""


class Fields(NamedTuple):
    """What is searched."""

    q: torch.Tensor
    """(F, D, H, W) float32, the probability where a mask holds a voxel, 0 elsewhere."""
    filled: torch.Tensor
    """(F, D, H) int8, whether a row of q has been written: rows without a voxel inside are not."""
    sums: torch.Tensor
    """(F, D, H, 2 ceil(W / 64)) float32, no less than the sums of q over segments."""


def fields(
    logits: torch.Tensor,
    masks: torch.Tensor,
    pairs: Sequence[tuple[int, int]],
    activation: str,
    box_rows: Sequence[int] | None = None,
    boxes: torch.Tensor | None = None,
) -> tuple[Fields, torch.Tensor]:
    """Probabilities where masks hold a voxel, and the bounding boxes of these voxels.

    Args:
        logits: (..., D, H, W) in a float dtype.
        masks: words of bit masks (M, D, H, ceil(W / 64)), or dense (M, D, H, W) of bool.
        pairs: F pairs of a plane, counted over the leading axes of `logits`, and a mask.
        activation: "sigmoid" or "identity".
        box_rows: the row of `boxes` for each field, -1 for none; by default the fields' own.
        boxes: (rows, 6) int32 zeros, to be filled; by default new ones, F rows.

    Returns:
        The fields, and boxes (START - z0, START - y0, START - x0, z1, y1, x1): starts and ends of a field's voxels,
        ends one past the last; zeros where there are none.
    """
    device, (depth, height, width) = logits.device, logits.shape[-3:]
    dense = masks.dtype == torch.bool
    box_rows = range(len(pairs)) if box_rows is None else box_rows
    table = [number for pair, row in zip(pairs, box_rows, strict=True) for number in (*pair, row)]
    segments = 2 * triton.cdiv(width, 64)
    q = torch.empty(len(pairs), depth, height, width, dtype=torch.float32, device=device)
    filled = torch.empty(len(pairs), depth, height, dtype=torch.int8, device=device)
    sums = torch.empty(len(pairs), depth, height, segments, dtype=torch.float32, device=device)
    if boxes is None:
        boxes = torch.zeros(len(pairs), 6, dtype=torch.int32, device=device)
    gpu.launch_triton(
        fields_kernel,
        (triton.cdiv(depth * height * segments, HALF_WORDS), len(pairs)),
        logits=logits.contiguous(),
        masks=masks.contiguous().view(torch.int8 if dense else torch.int32),
        table=gpu.table(table, torch.int32, device),
        q=q,
        filled=filled,
        sums=sums,
        boxes=boxes,
        rows=depth * height,
        height=height,
        width=width,
        DENSE=dense,
        SIGMOID=activation == "sigmoid",
        BLOCK=HALF_WORDS,
        SEGMENTS=triton.next_power_of_2(segments),
    )
    return Fields(q, filled, sums), boxes


@triton.jit
def fields_kernel(
    logits,
    masks,
    table,
    q,
    filled,
    sums,
    boxes,
    rows,
    height,
    width,
    DENSE: tl.constexpr,
    SIGMOID: tl.constexpr,
    BLOCK: tl.constexpr,
    SEGMENTS: tl.constexpr,
):
    field = tl.program_id(1)
    plane, mask = tl.load(table + 3 * field).to(tl.int64), tl.load(table + 3 * field + 1).to(tl.int64)
    half_words, voxels, inside_row = half_words_and_voxels(rows, width, BLOCK)
    per_row = half_words_per_row(width)
    row = half_words // per_row
    if DENSE:
        read, fill = inside_row, half_words < rows * per_row
        bits = tl.load(masks + mask * rows * width + voxels, mask=read, other=0)
    else:
        segment = tl.arange(0, SEGMENTS)[None, :]
        of_row = tl.load(
            masks + mask * rows * per_row + row * per_row + segment, mask=(row < rows) & (segment < per_row), other=0
        )
        fill = tl.max((of_row != 0).to(tl.int32), axis=1)[:, None] != 0
        words = load_half_words(masks, mask, half_words, rows, width)
        # of a whole half word, so that it stays one wide load
        read = inside_row & (words != 0)
        bits = bits_of(words)
    inside = bits != 0
    value = tl.load(logits + plane * rows * width + voxels, mask=read, other=0).to(tl.float32)
    value = tl.where(inside, probability(value, SIGMOID, True), 0.0)
    field = field.to(tl.int64)
    tl.store(q + field * rows * width + voxels, value, mask=inside_row & fill)
    tl.store(filled + field * rows + row, fill.to(tl.int8), mask=(row < rows) & (half_words % per_row == 0))
    count = rows * per_row
    tl.store(sums + field * count + half_words, tl.sum(value, axis=1)[:, None], mask=half_words < count)

    box_row = tl.load(table + 3 * field + 2)
    any_inside = tl.max(inside.to(tl.int32), axis=1)[:, None] != 0
    if (box_row >= 0) & (tl.max(any_inside.to(tl.int32)) != 0):
        box = boxes + 6 * box_row
        z, y, x = row // height, row % height, voxels - row * width
        tl.atomic_max(box, tl.max(tl.where(any_inside, -z + START, 0)), sem="relaxed")
        tl.atomic_max(box + 1, tl.max(tl.where(any_inside, -y + START, 0)), sem="relaxed")
        tl.atomic_max(box + 2, tl.max(tl.where(inside, -x + START, 0)), sem="relaxed")
        tl.atomic_max(box + 3, tl.max(tl.where(any_inside, z + 1, 0)), sem="relaxed")
        tl.atomic_max(box + 4, tl.max(tl.where(any_inside, y + 1, 0)), sem="relaxed")
        tl.atomic_max(box + 5, tl.max(tl.where(inside, x + 1, 0)), sem="relaxed")
