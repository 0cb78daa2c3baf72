# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the soft CT statistics: each tile takes its moments about its own mean, and tiles are joined in
float64, so that HU around 1000 with an sd of 1 keep it.

Backward takes the statistics again, in float64: two launches, where forward is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from rsuper_kernels import gpu
from rsuper_kernels.tables import planes_of
from rsuper_kernels.tiles import (
    PARTIALS,
    PLAIN,
    block_of,
    is_last,
    launch_slopes,
    launch_sums,
    load_block,
    plane_start,
    probability,
    probability_slope,
    readable,
)


def attenuation_stats(
    ct: torch.Tensor,
    logits: torch.Tensor,
    tumour: torch.Tensor,
    organ: torch.Tensor,
    sample: Sequence[int],
    channel: Sequence[int],
    eps: float,
    activation: str,
) -> torch.Tensor:
    """Statistics (G, 2, 3); see reference.py."""
    logits = logits.contiguous()
    arguments = _arguments(ct, logits, tumour, organ, eps, activation)
    of_group = planes_of(logits, sample, channel)
    return launch_sums(attenuation_stats_fwd_kernel, logits, of_group, 6, arguments)[0].view(-1, 2, 3)


def attenuation_stats_backward(
    grad: torch.Tensor,
    ct: torch.Tensor,
    logits: torch.Tensor,
    tumour: torch.Tensor,
    organ: torch.Tensor,
    sample: Sequence[int],
    channel: Sequence[int],
    eps: float,
    activation: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the logits and of a floating-point organ mask (zeros for another); see reference.py."""
    logits = logits.contiguous()
    of_group = planes_of(logits, sample, channel)
    arguments = _arguments(ct, logits, tumour, organ, eps, activation)
    _, state = launch_sums(attenuation_stats_fwd_kernel, logits, of_group, 6, arguments)
    soft = organ.is_floating_point()
    dtype = organ.dtype if soft else torch.float32
    grad_organ = (torch.empty if soft else torch.zeros)(organ.shape, dtype=dtype, device=organ.device)
    arguments |= {"state": state, "grad_organ": grad_organ, "SOFT": soft}
    return launch_slopes(attenuation_stats_bwd_kernel, grad, logits, of_group, arguments), grad_organ


def _arguments(
    ct: torch.Tensor, logits: torch.Tensor, tumour: torch.Tensor, organ: torch.Tensor, eps: float, activation: str
) -> dict[str, Any]:
    return {
        "ct": readable(ct),
        "tumour": readable(tumour),
        "organ": readable(organ),
        "eps": gpu.table([eps], torch.float64, logits.device),
        "channels": logits.shape[1],
        "SIGMOID": activation == "sigmoid",
    }


@triton.jit
def soft_masks(p, tumour, organ):
    """The tumour's and the organ's."""
    m_tumour = p * tumour
    return m_tumour, (1 - m_tumour) * organ


@triton.jit
def with_moments(weight, mean, squares, values, mask):
    """Weight, mean and squares about the mean, joined with those of more values."""
    more = tl.sum(mask)
    positive = tl.where(more > 0, more, 1.0)
    centre = tl.sum(mask * values) / positive
    # about the centre again, for what its rounding left
    distance = values - centre
    first = tl.sum(mask * distance)
    own = tl.maximum(tl.sum(mask * distance * distance) - first * first / positive, 0.0)
    # Chan, Golub and LeVeque, 1979
    total = weight + more
    share = more / tl.where(total > 0, total, 1.0)
    apart = centre + first / positive - mean
    return total, mean + apart * share, squares + own + apart * apart * weight * share


@triton.jit
def add_up_moments(partials, tiles, eps, sums, state):
    """Weight, mean and sd of tumour and organ from their `moments` (6, tiles), in float32 and in float64."""
    mask = 3 * tl.arange(0, 2)
    rows = partials + mask.to(tl.int64)[:, None] * tiles
    weight, first = tl.zeros((2,), tl.float64), tl.zeros((2,), tl.float64)
    for start in range(0, tiles, PARTIALS):
        tile = (start + tl.arange(0, PARTIALS))[None, :]
        w = tl.load(rows + tile, mask=tile < tiles, other=0, cache_modifier=".cg").to(tl.float64)
        mean = tl.load(rows + tiles + tile, mask=tile < tiles, other=0, cache_modifier=".cg").to(tl.float64)
        weight += tl.sum(w, axis=1)
        first += tl.sum(w * mean, axis=1)
    true_mean = first / tl.where(weight > 0, weight, 1.0)
    squares = tl.zeros((2,), tl.float64)
    for start in range(0, tiles, PARTIALS):
        tile = (start + tl.arange(0, PARTIALS))[None, :]
        w = tl.load(rows + tile, mask=tile < tiles, other=0, cache_modifier=".cg").to(tl.float64)
        mean = tl.load(rows + tiles + tile, mask=tile < tiles, other=0, cache_modifier=".cg").to(tl.float64)
        own = tl.load(rows + 2 * tiles + tile, mask=tile < tiles, other=0, cache_modifier=".cg").to(tl.float64)
        distance = mean - true_mean[:, None]
        squares += tl.sum(own + w * distance * distance, axis=1)
    total = weight + eps
    mean = true_mean * (weight / total)
    offset = true_mean - mean
    sd = tl.sqrt((squares + weight * offset * offset) / total)
    tl.store(state + mask, weight)
    tl.store(state + mask + 1, mean)
    tl.store(state + mask + 2, sd)
    tl.store(sums + mask, weight.to(tl.float32))
    tl.store(sums + mask + 1, mean.to(tl.float32))
    tl.store(sums + mask + 2, sd.to(tl.float32))


@triton.jit
def slope_of(stats, grad, eps):
    """Mean and c0, c1, c2 of a mask's slope c0 + c1 (v - mean) + c2 (v - mean)^2; `stats` as `add_up_moments` left."""
    weight, mean, sd = tl.load(stats), tl.load(stats + 1), tl.load(stats + 2)
    of_mean, of_sd = tl.load(grad + 1).to(tl.float64), tl.load(grad + 2).to(tl.float64)
    total = weight + eps
    # d sd = ((v - mean)^2 - sd^2 - 2 residual (v - mean)) / (2 sd total); at sd = 0 the root has no slope
    c2 = tl.where(sd > 0, of_sd / (2 * tl.where(sd > 0, sd, 1.0) * total), 0.0)
    # the weighted mean of v - mean, which eps keeps from 0
    residual = mean * (eps / total)
    c1 = of_mean / total - 2 * residual * c2
    c0 = tl.load(grad).to(tl.float64) - sd * sd * c2
    return mean.to(tl.float32), c0.to(tl.float32), c1.to(tl.float32), c2.to(tl.float32)


@triton.jit
def evaluate(values, slope):
    """Slopes of a mask's voxels with these values."""
    mean, c0, c1, c2 = slope
    distance = values - mean
    return c0 + distance * (c1 + distance * c2)


@triton.jit(do_not_specialize=PLAIN)
def attenuation_stats_fwd_kernel(
    logits, partials, sums, state, counters, table, ct, tumour, organ, eps, channels, voxels,
    SIGMOID: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Statistics of the groups of each plane of the table."""
    block, blocks, plane = tl.program_id(0), tl.num_programs(0), tl.load(table + tl.program_id(1))
    begins = table + tl.num_programs(1) + tl.program_id(1)
    offsets, inside = block_of(block, voxels, BLOCK, ROWS)
    values = load_block(ct, plane // channels, voxels, offsets, inside, ROWS)
    p = probability(load_block(logits, plane, voxels, offsets, inside, ROWS), SIGMOID, True)
    for entry in range(tl.load(begins), tl.load(begins + 1)):
        group = tl.load(table + entry).to(tl.int64)
        m_tumour, m_organ = soft_masks(
            p,
            load_block(tumour, group, voxels, offsets, inside, ROWS),
            load_block(organ, group, voxels, offsets, inside, ROWS),
        )
        out = partials + group * 6 * blocks + block
        weight, mean, squares = with_moments(0.0, 0.0, 0.0, values, m_tumour)
        tl.store(out, weight)
        tl.store(out + blocks, mean)
        tl.store(out + 2 * blocks, squares)
        weight, mean, squares = with_moments(0.0, 0.0, 0.0, values, m_organ)
        tl.store(out + 3 * blocks, weight)
        tl.store(out + 4 * blocks, mean)
        tl.store(out + 5 * blocks, squares)
    if is_last(counters + tl.program_id(1), blocks):
        for entry in range(tl.load(begins), tl.load(begins + 1)):
            first = tl.load(table + entry).to(tl.int64) * 6
            add_up_moments(partials + first * blocks, blocks, tl.load(eps), sums + first, state + first)


@triton.jit(do_not_specialize=PLAIN)
def attenuation_stats_bwd_kernel(
    grad, logits, out, grad_organ, state, table, ct, tumour, organ, eps, channels, voxels,
    SOFT: tl.constexpr, SIGMOID: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradient of every plane, and of every group's organ if SOFT; planes without groups are not read."""
    plane = tl.program_id(1)
    begin, end = tl.load(table + tl.num_programs(1) + plane), tl.load(table + tl.num_programs(1) + plane + 1)
    offsets, inside = block_of(tl.program_id(0), voxels, BLOCK, ROWS)
    served = inside & (begin < end)
    values = load_block(ct, plane // channels, voxels, offsets, served, ROWS)
    x = load_block(logits, plane, voxels, offsets, served, ROWS)
    p, slopes = probability(x, SIGMOID, True), tl.zeros((BLOCK,), tl.float32)
    for entry in range(begin, end):
        group = tl.load(table + entry).to(tl.int64)
        t = load_block(tumour, group, voxels, offsets, inside, ROWS)
        o = load_block(organ, group, voxels, offsets, inside, ROWS)
        first = 6 * group
        of_tumour = evaluate(values, slope_of(state + first, grad + first, tl.load(eps)))
        of_organ = evaluate(values, slope_of(state + first + 3, grad + first + 3, tl.load(eps)))
        slopes += (of_tumour - of_organ * o) * t
        if SOFT:
            at = grad_organ + plane_start(group, voxels, ROWS) + offsets
            tl.store(at, (of_organ * (1 - p * t)).to(grad_organ.dtype.element_ty), mask=inside)
    slopes *= probability_slope(x, SIGMOID, True)
    tl.store(out + plane_start(plane, voxels, ROWS) + offsets, slopes.to(out.dtype.element_ty), mask=inside)
