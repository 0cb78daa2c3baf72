# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the soft CT statistics: each tile takes its moments about its own mean, and tiles are joined in
float64, so that HU around 1000 with an sd of 1 keep it."""

from __future__ import annotations

import triton
import triton.language as tl

from rsuper_kernels.tiles import PARTIALS


@triton.jit
def soft_masks(p, tumour, organ):
    """The tumour's and the organ's."""
    m_tumour = p * tumour
    return m_tumour, (1 - m_tumour) * organ


@triton.jit
def moments(values, mask):
    """Weight, mean and squares about the mean of a tile."""
    weight = tl.sum(mask)
    total = tl.where(weight > 0, weight, 1.0)
    centre = tl.sum(mask * values) / total
    # about the centre again, for what its rounding left
    distance = values - centre
    first = tl.sum(mask * distance)
    squares = tl.sum(mask * distance * distance)
    shift = first / total
    return weight, centre + shift, tl.maximum(squares - shift * first, 0.0)


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
