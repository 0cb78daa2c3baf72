# SPDX-License-Identifier: Apache-2.0
"""The search on a GPU: every centre of the box is scored, in float32, and what may then be the best in float64.

A ball is runs (dz, dy, w), offsets |dx| <= w. From the largest half width j = R down to 0, rows of the runs with w = j
are added to B, and B, shifted by j to either side, to the score: a centre costs one read and one multiplication for
each run, and two more for each half width. A float32 score is off by no more than its number of additions allows.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl

from rsuper_kernels import gpu
from rsuper_kernels.geometry import Spacing, as_spacing, ball_element, kernel_falloff, kernel_total
from rsuper_kernels.ops.pack_bits.triton_kernel import (
    bits_of,
    half_words_and_voxels,
    half_words_per_row,
    load_half_words,
)

TIE = tl.constexpr(1e-6)
NO_BOX = tl.constexpr(-(1 << 30))
"""What boxes hold before a voxel is in them."""
CHUNK = tl.constexpr(1024)
"""Tiles that are looked through at once."""
FAINT = tl.constexpr(1e-25)
"""Below it, float32 scores may have lost digits to underflow."""
HALF_WORDS = 64
"""Half words of a program of `fields`."""
TILE = 1024
"""Voxels of a program of the search: whole rows, and one row at least."""


def ball_search(
    probability: torch.Tensor,
    available: torch.Tensor,
    diameters: Sequence[float],
    spacing: Sequence[float],
    sigma: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Best centre (N,) and its score (N,); see reference.py."""
    each = range(len(probability))
    q, boxes = fields(probability, available, [(n, n) for n in each], "identity")
    return search(q, boxes, each, each, diameters, spacing, sigma)


def fields(
    logits: torch.Tensor,
    masks: torch.Tensor,
    pairs: Sequence[tuple[int, int]],
    activation: str,
    box_rows: Sequence[int] | None = None,
    rows: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities where masks hold a voxel, 0 elsewhere, and the bounding boxes of these voxels.

    Args:
        logits: (..., D, H, W) in a float dtype.
        masks: words of bit masks (M, D, H, ceil(W / 64)), or dense (M, D, H, W) of bool.
        pairs: F pairs of a plane, counted over the leading axes of `logits`, and a mask.
        activation: "sigmoid" or "identity".
        box_rows: the row of `boxes` for each field, -1 for none; by default the fields' own.
        rows: rows of `boxes`; by default F.

    Returns:
        q: (F, D, H, W) float32.
        boxes: (rows, 6) int32 (-z0, -y0, -x0, z1, y1, x1), starts and ends of a field's voxels, ends one past the
            last; NO_BOX where there are none.
    """
    device, volume = logits.device, logits.shape[-3:]
    dense = masks.dtype == torch.bool
    box_rows = range(len(pairs)) if box_rows is None else box_rows
    table = [number for pair, row in zip(pairs, box_rows, strict=True) for number in (*pair, row)]
    q = torch.empty(len(pairs), *volume, dtype=torch.float32, device=device)
    boxes = torch.full((len(pairs) if rows is None else rows, 6), NO_BOX.value, dtype=torch.int32, device=device)
    half_words = volume[0] * volume[1] * 2 * triton.cdiv(volume[2], 64)
    gpu.launch_triton(
        fields_kernel,
        (triton.cdiv(half_words, HALF_WORDS), len(pairs)),
        logits=logits.contiguous(),
        masks=masks.contiguous().view(torch.int8 if dense else torch.int32),
        table=gpu.table(table, torch.int32, device),
        q=q,
        boxes=boxes,
        rows=volume[0] * volume[1],
        height=volume[1],
        width=volume[2],
        DENSE=dense,
        SIGMOID=activation == "sigmoid",
        BLOCK=HALF_WORDS,
    )
    return q, boxes


@triton.jit
def fields_kernel(
    logits,
    masks,
    table,
    q,
    boxes,
    rows,
    height,
    width,
    DENSE: tl.constexpr,
    SIGMOID: tl.constexpr,
    BLOCK: tl.constexpr,
):
    field = tl.program_id(1)
    plane, mask = tl.load(table + 3 * field).to(tl.int64), tl.load(table + 3 * field + 1).to(tl.int64)
    half_words, voxels, inside_row = half_words_and_voxels(rows, width, BLOCK)
    if DENSE:
        read = inside_row
        bits = tl.load(masks + mask * rows * width + voxels, mask=read, other=0)
    else:
        words = load_half_words(masks, mask, half_words, rows, width)
        # of a whole half word, so that it stays one wide load
        read = inside_row & (words != 0)
        bits = bits_of(words)
    inside = bits != 0
    value = tl.load(logits + plane * rows * width + voxels, mask=read, other=0).to(tl.float32)
    if SIGMOID:
        value = 1 / (1 + tl.exp(-value))
    tl.store(q + field.to(tl.int64) * rows * width + voxels, tl.where(inside, value, 0), mask=inside_row)

    box = boxes + 6 * tl.load(table + 3 * field + 2)
    any_inside = tl.max(inside.to(tl.int32), axis=1)[:, None] != 0
    if (tl.load(table + 3 * field + 2) >= 0) & (tl.max(any_inside.to(tl.int32)) != 0):
        row = half_words // half_words_per_row(width)
        z, y, x = row // height, row % height, voxels - row * width
        tl.atomic_max(box, tl.max(tl.where(any_inside, -z, NO_BOX)), sem="relaxed")
        tl.atomic_max(box + 1, tl.max(tl.where(any_inside, -y, NO_BOX)), sem="relaxed")
        tl.atomic_max(box + 2, tl.max(tl.where(inside, -x, NO_BOX)), sem="relaxed")
        tl.atomic_max(box + 3, tl.max(tl.where(any_inside, z + 1, NO_BOX)), sem="relaxed")
        tl.atomic_max(box + 4, tl.max(tl.where(any_inside, y + 1, NO_BOX)), sem="relaxed")
        tl.atomic_max(box + 5, tl.max(tl.where(inside, x + 1, NO_BOX)), sem="relaxed")


def search(
    q: torch.Tensor,
    boxes: torch.Tensor,
    field_of: Sequence[int],
    box_of: Sequence[int],
    diameters: Sequence[float],
    spacing: Sequence[float],
    sigma: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Best centre (N,) int64 and its score (N,) float32, in two launches.

    Args:
        q, boxes: as from `fields`. A box may be smaller than its field's voxels need, which are then left out.
        field_of, box_of: the field and the row of `boxes` of each of N searches.
        diameters: mm.
        spacing: (sD, sH, sW) in mm.
        sigma: as in `ball_search`.
    """
    device, count = q.device, len(diameters)
    _, depth, height, width = q.shape
    kinds = tuple(sorted(set(diameters)))
    table = _runs(kinds, as_spacing(spacing), sigma, (depth, height, width))
    kind_of = [kinds.index(diameter) for diameter in diameters]
    columns = max(triton.next_power_of_2(width), 16)
    rows = max(TILE // columns, 1)
    tiles = triton.cdiv(depth * height, rows)
    shared = {
        "q": q,
        "boxes": boxes,
        "searches": gpu.table(
            [number for n, k in enumerate(kind_of) for number in (field_of[n], box_of[n], *table.levels[k])],
            torch.int32,
            device,
        ),
        "steps": gpu.table(table.steps, torch.int32, device),
        "ends": gpu.table(table.ends, torch.int32, device),
        "upper": torch.empty(count, tiles, dtype=torch.float32, device=device),
        "counters": gpu.counters(device),
        "depth": depth,
        "height": height,
        "width": width,
        "ROWS": rows,
        "COLUMNS": columns,
    }
    gpu.launch_triton(
        screen_kernel,
        (tiles, count),
        weights=gpu.table(table.weights, torch.float32, device),
        profile=gpu.table(table.profile, torch.float32, device),
        **shared,
    )
    centre = torch.empty(count, dtype=torch.int64, device=device)
    score = torch.empty(count, dtype=torch.float32, device=device)
    gpu.launch_triton(
        search_kernel,
        (tiles, count),
        weights=gpu.table(table.weights, torch.float64, device),
        profile=gpu.table(table.profile, torch.float64, device),
        near=gpu.table([1 - TIE.value - table.errors[k] for k in kind_of], torch.float64, device),
        maxima=torch.empty(count, tiles, dtype=torch.float64, device=device),
        centre=centre,
        score=score,
        **shared,
    )
    return centre, score


@triton.jit
def screen_kernel(
    q,
    boxes,
    searches,
    steps,
    ends,
    weights,
    profile,
    upper,
    counters,
    depth,
    height,
    width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The best float32 score of each tile, and of each search, as the bits of a number that is not negative."""
    tile, n, tiles, count = tl.program_id(0), tl.program_id(1), tl.num_programs(0), tl.num_programs(1)
    best = tl.full([], -1.0, tl.float32)
    if tile * ROWS < rows_of_box(boxes, searches, n):
        scores, _ = tile_scores(
            q, boxes, searches, steps, ends, weights, profile, n, tile, depth, height, width, ROWS, COLUMNS
        )
        best = tl.max(scores)
        tl.atomic_max(counters + count + n, tl.maximum(best, 0.0).to(tl.int32, bitcast=True), sem="relaxed")
    tl.store(upper + n * tiles + tile, best)


@triton.jit
def search_kernel(
    q,
    boxes,
    searches,
    steps,
    ends,
    weights,
    profile,
    near,
    upper,
    maxima,
    counters,
    centre,
    score,
    depth,
    height,
    width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The best float64 score of each tile that may hold it; then, in the last program of a search, the centre."""
    tile, n, tiles, count = tl.program_id(0), tl.program_id(1), tl.num_programs(0), tl.num_programs(1)
    highest = tl.load(counters + count + n).to(tl.float32, bitcast=True)
    own = tl.load(upper + n * tiles + tile)
    best = tl.full([], -1.0, tl.float64)
    if (own >= 0) & ((own.to(tl.float64) >= highest.to(tl.float64) * tl.load(near + n)) | (highest < FAINT)):
        scores, _ = tile_scores(
            q, boxes, searches, steps, ends, weights, profile, n, tile, depth, height, width, ROWS, COLUMNS
        )
        best = tl.max(scores)
    tl.store(maxima + n * tiles + tile, best)
    if tl.atomic_add(counters + n, 1) == tiles - 1:
        tl.store(counters + n, 0)
        tl.store(counters + count + n, 0)
        best = tl.full([], -1.0, tl.float64)
        for start in range(0, tiles, CHUNK):
            at = start + tl.arange(0, CHUNK)
            best = tl.maximum(best, tl.max(tl.load(maxima + n * tiles + at, mask=at < tiles, other=-1)))
        tied = best * (1 - TIE)
        found = tl.full([], -1, tl.int64)
        if best >= 0:
            first = tiles
            for start in range(0, tiles, CHUNK):
                at = start + tl.arange(0, CHUNK)
                reached = tl.load(maxima + n * tiles + at, mask=at < tiles, other=-1) >= tied
                first = tl.minimum(first, tl.min(tl.where(reached, at, tiles)))
            scores, index = tile_scores(
                q, boxes, searches, steps, ends, weights, profile, n, first, depth, height, width, ROWS, COLUMNS
            )
            # the compiler may round this second evaluation differently
            tied = tl.minimum(tied, tl.max(scores))
            found = tl.min(tl.where(scores >= tied, index, depth * height * width)).to(tl.int64)
        tl.store(centre + n, found)
        tl.store(score + n, tl.maximum(best, 0.0).to(tl.float32))


@triton.jit
def rows_of_box(boxes, searches, n):
    box = boxes + 6 * tl.load(searches + 4 * n + 1)
    depth = tl.load(box + 3) + tl.load(box)
    height = tl.load(box + 4) + tl.load(box + 1)
    return tl.maximum(depth, 0) * tl.maximum(height, 0)


@triton.jit
def tile_scores(
    q,
    boxes,
    searches,
    steps,
    ends,
    weights,
    profile,
    n,
    tile,
    depth,
    height,
    width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Scores [ROWS, COLUMNS] of the centres of a tile, -1 beyond the box, and the centres' linear indices."""
    dtype = weights.dtype.element_ty
    field = q + tl.load(searches + 4 * n).to(tl.int64) * depth * height * width
    box = boxes + 6 * tl.load(searches + 4 * n + 1)
    first_level, reach = tl.load(searches + 4 * n + 2), tl.load(searches + 4 * n + 3)
    z0, y0, x0 = -tl.load(box), -tl.load(box + 1), -tl.load(box + 2)
    z1, y1, x1 = tl.load(box + 3), tl.load(box + 4), tl.load(box + 5)
    row = (tile * ROWS + tl.arange(0, ROWS))[:, None]
    z, y = z0 + row // (y1 - y0), y0 + row % (y1 - y0)
    x = tl.arange(0, COLUMNS)[None, :]
    index = (z * height + y) * width + x
    # columns by sixteens, so that a read stays wide
    read = (x >= x0 // 16 * 16) & (x < width)
    added = tl.zeros([ROWS, COLUMNS], dtype)
    left = tl.zeros([ROWS, COLUMNS], dtype)
    right = tl.zeros([ROWS, COLUMNS], dtype)
    for level in range(first_level, first_level + reach + 1):
        left, right = shifted(left, 1), shifted(right, -1)
        for run in range(tl.load(ends + level), tl.load(ends + level + 1)):
            step = tl.load(steps + run)
            dz, dy = step >> 16, (step & 0xFFFF) - (1 << 15)
            inside = (z + dz >= z0) & (z + dz < z1) & (y + dy >= y0) & (y + dy < y1)
            value = tl.load(field + index + (dz * height + dy) * width, mask=inside & read, other=0)
            added += tl.load(weights + run) * value.to(dtype)
        weighted = tl.load(profile + level) * added
        left += weighted
        right += weighted
    centre = (z < z1) & (x >= x0) & (x < x1)
    return tl.where(centre, tl.maximum(left + right, 0.0), -1.0), index


@triton.jit
def shifted(rows, BY: tl.constexpr):
    """rows[:, x + BY], 0 beyond the ends."""
    x = tl.arange(0, rows.shape[1])[None, :] + BY
    inside = (x >= 0) & (x < rows.shape[1])
    return tl.where(inside, tl.gather(rows, tl.broadcast_to(tl.where(inside, x, 0), rows.shape), 1), 0.0)


class _Runs(NamedTuple):
    """The runs of some balls, those of each ball by falling half width."""

    levels: list[tuple[int, int]]
    """Per ball, its first level and its largest half width R: the levels that follow are R, R - 1, ..., 0."""
    errors: list[float]
    """Per ball, twice the relative error of a float32 score."""
    steps: tuple[int, ...]
    """Per run, dz and dy in 16 bits each."""
    weights: tuple[float, ...]
    """Per run, g(dz) g(dy) / total."""
    ends: tuple[int, ...]
    """Per level, where its runs end, after a leading 0."""
    profile: tuple[float, ...]
    """Per level, g(dx); at half width 0 half of it, since both shifts are the same there."""


@functools.lru_cache(maxsize=256)
def _runs(diameters: tuple[float, ...], spacing: Spacing, sigma: float | None, volume: tuple[int, int, int]) -> _Runs:
    """Runs of the balls of some diameters, as far as they reach within a volume."""
    levels, errors, ends = [], [], [0]
    steps: list[int] = []
    weights: list[float] = []
    profile: list[float] = []
    for diameter in diameters:
        dz, dy, half_width = ball_element(diameter / 2, spacing).runs.numpy().T.astype(np.int64)
        near = (abs(dz) < volume[0]) & (abs(dy) < volume[1])
        dz, dy, half_width = dz[near], dy[near], half_width[near].clip(max=volume[2] - 1)
        order = np.argsort(-half_width, kind="stable")
        reach = int(half_width.max())
        falloff, total = kernel_falloff(diameter, sigma), kernel_total(diameter, spacing, sigma)
        squares = (dz[order] * spacing[0]) ** 2 + (dy[order] * spacing[1]) ** 2
        g = np.exp(-falloff * (np.arange(reach, -1, -1) * spacing[2]) ** 2)
        g[-1] /= 2
        levels.append((len(profile), reach))
        # twice, for a score and the best; each product, sum and rounded weight is off by 2^-24 at most
        errors.append(2.1 * (len(order) + reach + 8) / 2**24)
        steps += ((dz << 16) + (dy + (1 << 15)))[order].tolist()
        weights += (np.exp(-falloff * squares) / total).tolist()
        ends += (ends[-1] + np.bincount(half_width, minlength=reach + 1)[::-1].cumsum()).tolist()
        profile += g.tolist()
    return _Runs(levels, errors, tuple(steps), tuple(weights), tuple(ends), tuple(profile))
