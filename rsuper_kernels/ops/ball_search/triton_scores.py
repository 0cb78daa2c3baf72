# SPDX-License-Identifier: Apache-2.0
"""Scores of a tile of centres on a GPU.

From the largest half width j = R of a ball's runs down to 0, rows of the runs with w = j are added to B, and g(j) B,
shifted by j to either side, to the score: a centre costs one read and one product for each run, and a little more for
each j. Groups of runs are added up side by side.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rsuper_kernels.ops.ball_search.triton_fields import START

UNROLL = tl.constexpr(2)
"""Runs that a thread reads before it adds up."""


@triton.jit
def rows_of_box(boxes, searches, n):
    box = boxes + 6 * tl.load(searches + 4 * n + 1)
    depth = tl.load(box + 3) + tl.load(box) - START
    height = tl.load(box + 4) + tl.load(box + 1) - START
    return tl.maximum(depth, 0) * tl.maximum(height, 0)


@triton.jit
def tile_scores(
    values, filled, balls, n, tile, volume,
    ROWS: tl.constexpr, GROUPS: tl.constexpr, COLUMNS: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """Scores [ROWS, 1, COLUMNS] of rows of the box of search n, -1 beyond it, and their linear indices.

    They are added up in the dtype of the weights. `balls` are the boxes, the searches, and steps, ends, weights and
    profile of the runs. A column is UNIT voxels; `volume` is (D, H, columns).
    """
    boxes, searches, steps, ends, weights, profile = balls
    depth, height, width = volume
    dtype = weights.dtype.element_ty
    field = tl.load(searches + 4 * n).to(tl.int64)
    values += field * depth * height * width
    filled += field * depth * height
    box = boxes + 6 * tl.load(searches + 4 * n + 1)
    first_level, reach = tl.load(searches + 4 * n + 2), tl.load(searches + 4 * n + 3)
    z0, y0, x0 = -tl.load(box) + START, -tl.load(box + 1) + START, (-tl.load(box + 2) + START) // UNIT
    z1, y1, x1 = tl.load(box + 3), tl.load(box + 4), tl.cdiv(tl.load(box + 5), UNIT)
    row, x = (tile * ROWS + tl.arange(0, ROWS))[:, None, None], tl.arange(0, COLUMNS)[None, None, :]
    # within the box
    z, y = row // (y1 - y0), row % (y1 - y0)
    at = ((z0 + z) * height + y0 + y) * width + x
    group = tl.arange(0, GROUPS)[None, :, None]
    # columns by sixteens, so that a read stays wide
    read = (x >= x0 // 16 * 16) & (x < width)
    added = tl.zeros([ROWS, GROUPS, COLUMNS], dtype)
    left = tl.zeros([ROWS, GROUPS, COLUMNS], dtype)
    right = tl.zeros([ROWS, GROUPS, COLUMNS], dtype)
    for level in range(first_level, first_level + reach + 1):
        left, right = shifted(left, 1), shifted(right, -1)
        for first in range(tl.load(ends + level), tl.load(ends + level + 1), GROUPS * UNROLL):
            for more in tl.static_range(UNROLL):
                run = first + more * GROUPS + group
                step = tl.load(steps + run)
                dz, dy = step >> 16, (step & 0xFFFF) - (1 << 15)
                # of numbers below 0, the unsigned ones are large
                inside = ((z + dz).to(tl.uint32) < z1 - z0) & ((y + dy).to(tl.uint32) < y1 - y0)
                if UNIT == 1:
                    # rows without a voxel inside have not been written
                    at_row = (z0 + z + dz) * height + y0 + y + dy
                    inside &= tl.load(filled + at_row, mask=inside, other=0) != 0
                value = tl.load(values + at + (dz * height + dy) * width, mask=inside & read, other=0)
                added += tl.load(weights + run) * value.to(dtype)
        weighted = tl.load(profile + level) * added
        left += weighted
        right += weighted
    score = tl.maximum(tl.sum(left + right, axis=1, keep_dims=True), 0.0)
    return tl.where((z < z1 - z0) & (x >= x0) & (x < x1), score, -1.0), at


@triton.jit
def shifted(rows, BY: tl.constexpr):
    """rows[..., x + BY], 0 beyond the ends."""
    x = tl.arange(0, rows.shape[2])[None, None, :] + BY
    inside = (x >= 0) & (x < rows.shape[2])
    return tl.where(inside, tl.gather(rows, tl.broadcast_to(tl.where(inside, x, 0), rows.shape), 2), 0.0)
