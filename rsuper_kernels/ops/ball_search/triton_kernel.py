# SPDX-License-Identifier: Apache-2.0
"""The search on a GPU: bounds first, then scores in float32, and in float64 what may be the best after both.

Bounds are the same sums as scores, over segments of rows in place of voxels. A tile whose bound, and then whose float32
score, is below the best by more than rounding can explain is left out of what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from rsuper_kernels import gpu
from rsuper_kernels.geometry import as_spacing
from rsuper_kernels.ops.ball_search.runs import Runs, runs_of_balls
from rsuper_kernels.ops.ball_search.triton_fields import SEGMENT, Fields, fields
from rsuper_kernels.ops.ball_search.triton_scores import UNROLL, rows_of_box, tile_scores
from rsuper_kernels.tiles import is_last

TIE = tl.constexpr(1e-6)
FAINT = tl.constexpr(1e-25)
"""Below it, float32 scores may have lost digits to underflow."""
CHUNK = tl.constexpr(1024)
"""Results that are looked through at once."""
TILE = 128
"""Voxels that a program scores at once: whole rows, and one row at least."""
PROGRAMS = 1024
"""Of a search, at most; they share its tiles."""
GROUPED = 512
"""Voxels in as many groups, whose runs are added up side by side: one by each warp where rows have 128 voxels."""
BOUND_GROUPS = 32


def ball_search(
    probability: torch.Tensor,
    available: torch.Tensor,
    diameters: Sequence[float],
    spacing: Sequence[float],
    sigma: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Best centre (N,) and its score (N,); see reference.py."""
    each = range(len(probability))
    searched, boxes = fields(probability, available, [(n, n) for n in each], "identity")
    return search(searched, boxes, each, each, diameters, spacing, sigma)


def search(
    searched: Fields,
    boxes: torch.Tensor,
    field_of: Sequence[int],
    box_of: Sequence[int],
    diameters: Sequence[float],
    spacing: Sequence[float],
    sigma: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Best centre (N,) int64 and its score (N,) float32, in three launches.

    Args:
        searched, boxes: as from `fields`; since then, values may have been set to 0, and boxes been made smaller around
            the values that are left.
        field_of, box_of: the field and the row of `boxes` of each of N searches.
        diameters: mm.
        spacing: (sD, sH, sW) in mm.
        sigma: as in `ball_search`.
    """
    device, count = boxes.device, len(diameters)
    _, depth, height, width = searched.q.shape
    kinds = tuple(sorted(set(diameters)))
    kind_of = [kinds.index(diameter) for diameter in diameters]
    ball = (kinds, as_spacing(spacing), sigma, (depth, height, width))

    columns, segments = triton.next_power_of_2(width), searched.sums.shape[3]
    bound_columns = triton.next_power_of_2(segments)
    rows, bound_rows = max(TILE // columns, 1), max(GROUPED // (BOUND_GROUPS * bound_columns), 1)
    groups = max(GROUPED // (rows * columns), 1)
    tiles = triton.cdiv(depth * height, rows)
    coarse = runs_of_balls(*ball, BOUND_GROUPS * UNROLL.value, SEGMENT.value)
    fine = runs_of_balls(*ball, groups * UNROLL.value)
    # as far as rounding can hide that a tile is as good as the best
    near = [(1 - TIE.value - coarse.errors[k] - fine.errors[k], 1 - TIE.value - 2 * fine.errors[k]) for k in kind_of]
    common: dict[str, Any] = {
        "q": searched.q,
        "filled": searched.filled,
        "boxes": boxes,
        "searches": _searches(field_of, box_of, kind_of, fine, device),
        "steps": gpu.table(fine.steps, torch.int32, device),
        "ends": gpu.table(fine.ends, torch.int32, device),
        "depth": depth,
        "height": height,
        "width": width,
        "ROWS": rows,
        "GROUPS": groups,
        "COLUMNS": columns,
    }
    single: dict[str, Any] = {
        "weights": gpu.table(fine.weights, torch.float32, device),
        "profile": gpu.table(fine.profile, torch.float32, device),
        "bounds": torch.empty(count, depth * height, dtype=torch.float32, device=device),
        "known": torch.empty(count, dtype=torch.float32, device=device),
    }
    nearness = gpu.table([number for pair in near for number in pair], torch.float32, device)
    screened = torch.empty(count, tiles, dtype=torch.float32, device=device)
    counters = gpu.counters(device)
    gpu.launch_triton(
        bound_kernel,
        (min(triton.cdiv(depth * height, bound_rows), PROGRAMS), count),
        sums=searched.sums,
        coarse_searches=_searches(field_of, box_of, kind_of, coarse, device),
        coarse_steps=gpu.table(coarse.steps, torch.int32, device),
        coarse_ends=gpu.table(coarse.ends, torch.int32, device),
        coarse_weights=gpu.table(coarse.weights, torch.float32, device),
        coarse_profile=gpu.table(coarse.profile, torch.float32, device),
        counters=counters,
        segments=segments,
        BOUND_ROWS=bound_rows,
        BOUND_GROUPS=BOUND_GROUPS,
        BOUND_COLUMNS=bound_columns,
        **common,
        **single,
    )
    gpu.launch_triton(
        screen_kernel,
        (min(tiles, PROGRAMS), count),
        near=nearness,
        screened=screened,
        counters=counters,
        tiles=tiles,
        **common,
        **single,
    )
    centre = torch.empty(count, dtype=torch.int64, device=device)
    score = torch.empty(count, dtype=torch.float32, device=device)
    gpu.launch_triton(
        search_kernel,
        (min(tiles, PROGRAMS), count),
        weights=gpu.table(fine.weights, torch.float64, device),
        profile=gpu.table(fine.profile, torch.float64, device),
        near=nearness,
        screened=screened,
        maxima=torch.empty(count, tiles, dtype=torch.float64, device=device),
        firsts=torch.empty(count, tiles, dtype=torch.int32, device=device),
        counters=counters,
        tiles=tiles,
        centre=centre,
        score=score,
        **common,
    )
    return centre, score


def _searches(
    field_of: Sequence[int], box_of: Sequence[int], kind_of: Sequence[int], runs: Runs, device: torch.device
) -> torch.Tensor:
    """Field, row of the boxes, first level and largest half width of each search."""
    rows = [(field_of[n], box_of[n], *runs.levels[kind]) for n, kind in enumerate(kind_of)]
    return gpu.table([number for row in rows for number in row], torch.int32, device)


@gpu.registers(64)
@triton.jit
def bound_kernel(
    q, filled, sums, boxes, searches, steps, ends, weights, profile,
    coarse_searches, coarse_steps, coarse_ends, coarse_weights, coarse_profile,
    bounds, known, counters, depth, height, width, segments,
    ROWS: tl.constexpr, GROUPS: tl.constexpr, COLUMNS: tl.constexpr,
    BOUND_ROWS: tl.constexpr, BOUND_GROUPS: tl.constexpr, BOUND_COLUMNS: tl.constexpr,
):  # fmt: skip
    """What the scores of each row do not exceed; in the last program of a search, the best score around the highest."""
    n, programs = tl.program_id(1), tl.num_programs(0)
    balls, volume = (boxes, searches, steps, ends, weights, profile), (depth, height, width)
    coarse = (boxes, coarse_searches, coarse_steps, coarse_ends, coarse_weights, coarse_profile)
    rows = rows_of_box(boxes, searches, n)
    bounds += n * depth * height
    for tile in range(tl.program_id(0), tl.cdiv(rows, BOUND_ROWS), programs):
        scores, _ = tile_scores(
            sums, filled, coarse, n, tile, (depth, height, segments), BOUND_ROWS, BOUND_GROUPS, BOUND_COLUMNS, SEGMENT
        )
        row = (tile * BOUND_ROWS + tl.arange(0, BOUND_ROWS))[:, None]
        tl.store(bounds + row, tl.max(scores, axis=2), mask=row < rows)
    if is_last(counters + n, programs):
        highest, at = tl.full([], -1.0, tl.float32), 0
        for start in range(0, rows, CHUNK):
            row = start + tl.arange(0, CHUNK)
            bound = tl.load(bounds + row, mask=row < rows, other=-1, cache_modifier=".cg")
            top = tl.max(bound)
            at = tl.where(top > highest, tl.min(tl.where(bound == top, row, rows)), at)
            highest = tl.maximum(highest, top)
        best = tl.full([], 0.0, tl.float32)
        if highest >= 0:
            scores, _ = tile_scores(q, filled, balls, n, at // ROWS, volume, ROWS, GROUPS, COLUMNS, 1)
            best = tl.max(scores)
        tl.store(known + n, best)


@gpu.registers(80)
@triton.jit
def screen_kernel(
    q, filled, boxes, searches, steps, ends, weights, profile,
    bounds, known, near, screened, counters, depth, height, width, tiles,
    ROWS: tl.constexpr, GROUPS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The best float32 score of each tile, and of each search, as the bits of a number that is not negative."""
    n, count, programs = tl.program_id(1), tl.num_programs(1), tl.num_programs(0)
    balls, volume = (boxes, searches, steps, ends, weights, profile), (depth, height, width)
    rows = rows_of_box(boxes, searches, n)
    for tile in range(tl.program_id(0), tiles, programs):
        row = tile * ROWS + tl.arange(0, ROWS)
        bound = tl.max(tl.load(bounds + n * depth * height + row, mask=row < rows, other=-1))
        best = tl.full([], -1.0, tl.float32)
        if may_win(bound, tl.load(known + n), tl.load(near + 2 * n)):
            scores, _ = tile_scores(q, filled, balls, n, tile, volume, ROWS, GROUPS, COLUMNS, 1)
            best = tl.max(scores)
            tl.atomic_max(counters + count + n, tl.maximum(best, 0.0).to(tl.int32, bitcast=True), sem="relaxed")
        tl.store(screened + n * tiles + tile, best)


@gpu.registers(96)
@triton.jit
def search_kernel(
    q, filled, boxes, searches, steps, ends, weights, profile,
    near, screened, maxima, firsts, counters, centre, score, depth, height, width, tiles,
    ROWS: tl.constexpr, GROUPS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The best float64 score of each tile that may hold it; then, in the last program of a search, the centre."""
    n, count, programs = tl.program_id(1), tl.num_programs(1), tl.num_programs(0)
    balls, volume = (boxes, searches, steps, ends, weights, profile), (depth, height, width)
    voxels, before = depth * height * width, n * tiles
    for tile in range(tl.program_id(0), tiles, programs):
        best, first = tl.full([], -1.0, tl.float64), voxels
        known = tl.load(counters + count + n).to(tl.float32, bitcast=True)
        if may_win(tl.load(screened + before + tile), known, tl.load(near + 2 * n + 1)):
            scores, index = tile_scores(q, filled, balls, n, tile, volume, ROWS, GROUPS, COLUMNS, 1)
            best = tl.max(scores)
            first = tl.min(tl.where(scores >= best * (1 - TIE), index, voxels))
        tl.store(maxima + before + tile, best)
        tl.store(firsts + before + tile, first)
    if is_last(counters + n, programs):
        tl.store(counters + count + n, 0)
        best = tl.full([], -1.0, tl.float64)
        for start in range(0, tiles, CHUNK):
            at = start + tl.arange(0, CHUNK)
            highest = tl.load(maxima + before + at, mask=at < tiles, other=-1, cache_modifier=".cg")
            best = tl.maximum(best, tl.max(highest))
        tl.store(score + n, tl.maximum(best, 0.0).to(tl.float32))
        tied, winner = best * (1 - TIE), tiles
        for start in range(0, tiles, CHUNK):
            at = start + tl.arange(0, CHUNK)
            reached = tl.load(maxima + before + at, mask=at < tiles, other=-1, cache_modifier=".cg") >= tied
            winner = tl.minimum(winner, tl.min(tl.where(reached, at, tiles)))
        found = tl.full([], -1, tl.int32)
        if best >= 0:
            found = tl.load(firsts + before + winner, cache_modifier=".cg")
            # the best is in a later tile, so that fewer of this tile's centres are tied with it
            if tl.load(maxima + before + winner, cache_modifier=".cg") < best:
                scores, index = tile_scores(q, filled, balls, n, winner, volume, ROWS, GROUPS, COLUMNS, 1)
                # the compiler may round this second evaluation differently
                tied = tl.minimum(tied, tl.max(scores))
                found = tl.min(tl.where(scores >= tied, index, voxels))
        tl.store(centre + n, found.to(tl.int64))


@triton.jit
def may_win(bound, known, near):
    """Whether a score of at most `bound` may be tied with the best, which is at least `known`; of nothing is -1."""
    return (bound >= 0) & ((bound >= known * near) | (known < FAINT))
