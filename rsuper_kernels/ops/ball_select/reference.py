# SPDX-License-Identifier: Apache-2.0
"""ball = available voxels within the first radius that holds enough of them; selections = its most probable voxels.

Probabilities rank from high to low, ties from the lowest linear index. rank_weights gives rank r of n voxels the weight
n d^r / sum_{i < n} d^i with d = (1 - c)^(1 / n): at c = 0.5 from 1.386 for the surest voxel to 0.693, mean 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsuper_kernels import gpu
from rsuper_kernels.bits import unpack
from rsuper_kernels.checks import accumulation_dtype
from rsuper_kernels.geometry import squared_limit
from rsuper_kernels.tables import take_planes


def ball_select(
    probability: torch.Tensor,
    available: torch.Tensor,
    centre: torch.Tensor,
    radii: Sequence[float],
    radius_counts: Sequence[int],
    needed: Sequence[int],
    counts: Sequence[int],
    spacing: Sequence[float],
    outside_competes: bool,
) -> torch.Tensor:
    """Bool masks (N, 1 + K, D, H, W): the ball, then its most probable voxels for each of the K counts of the plane."""
    shape = probability.shape[1:]
    per_plane = len(counts) // max(len(probability), 1)
    out = torch.zeros(len(probability), 1 + per_plane, *shape, dtype=torch.bool, device=probability.device)
    start = 0
    for n, plane in enumerate(probability):
        schedule = radii[start : start + radius_counts[n]]
        start += radius_counts[n]
        ball = _grown_ball(available[n], centre[n], schedule, needed[n], spacing)
        out[n, 0] = ball
        # in the public code, voxels outside the ball compete with zeros inside it, as probability 0
        key = torch.where(ball, plane, 0.0 if outside_competes else -1.0).flatten()
        wanted = counts[n * per_plane : (n + 1) * per_plane]
        highest = key.topk(min(max(wanted, default=0), key.numel())).values
        for k, count in enumerate(wanted):
            out[n, 1 + k] = _top(key, min(count, key.numel()), highest).reshape(shape) & ball
    return out


def _grown_ball(
    available: torch.Tensor, centre: torch.Tensor, radii: Sequence[float], needed: int, spacing: Sequence[float]
) -> torch.Tensor:
    """The available voxels within the first radius that holds `needed` of them, else the last; none at centre -1."""
    squared = _squared_distance(available.shape, centre, spacing)
    limits = gpu.table([squared_limit(radius) for radius in radii], torch.float64, available.device)
    level = torch.bucketize(squared, limits)
    held = torch.zeros(len(radii) + 1, dtype=torch.int64, device=available.device)
    held = held.scatter_add(0, level.flatten(), available.flatten().long()).cumsum(0)[:-1]
    # the number of radii that hold too few is the index of the first that holds enough
    chosen = (held < needed).sum().clamp(max=len(radii) - 1)
    return available & (level <= chosen) & (centre >= 0)


def _squared_distance(shape: Sequence[int], centre: torch.Tensor, spacing: Sequence[float]) -> torch.Tensor:
    """Squared distance (D, H, W) in mm2 to the voxel with this linear index, float64."""
    _, height, width = shape
    position = (centre // (height * width), centre // width % height, centre % width)
    axes = [
        ((torch.arange(size, device=centre.device) - at).double() * step) ** 2
        for size, at, step in zip(shape, position, spacing, strict=True)
    ]
    return axes[0][:, None, None] + axes[1][:, None] + axes[2]


def _top(key: torch.Tensor, count: int, highest: torch.Tensor) -> torch.Tensor:
    """Bool mask of the `count` highest keys, ties from the lowest index; `highest` holds the keys from high to low."""
    if count == 0:
        return torch.zeros_like(key, dtype=torch.bool)
    threshold = highest[count - 1]
    above, tied = key > threshold, key == threshold
    return above | (tied & (tied.cumsum(0) <= count - above.sum()))


def rank_weights(
    probability: torch.Tensor, mask: torch.Tensor, concentration: float, limits: Sequence[int]
) -> torch.Tensor:
    """Weights (N, D, H, W) of the masked voxels by the rank of their probability, 0 outside the mask."""
    out = torch.zeros_like(probability, memory_format=torch.contiguous_format)
    for plane, inside, weights, limit in zip(probability, mask, out, limits, strict=True):
        key = torch.where(inside, plane, -1.0).flatten()
        # topk leaves ties in any order; sorting its indices first makes the second, stable sort break them by index
        index = key.topk(min(limit, key.numel())).indices.sort().values
        index = index[key[index].sort(descending=True, stable=True).indices]
        count = inside.sum()
        rank = torch.arange(len(index), device=key.device, dtype=torch.float64)
        # the public code keeps d in float32, which its weights feel from about 1e4 voxels on
        d = ((1 - concentration) ** (1 / count.clamp(min=1).double())).float().double()
        decay = d**rank
        decay = torch.where(rank < count, decay, 0)
        scaled = decay * count / decay.sum().clamp(min=torch.finfo(torch.float64).tiny)
        weights.view(-1)[index] = scaled.to(weights.dtype)
    return out


def foreground_weights(
    logits: torch.Tensor,
    words: torch.Tensor,
    sample: Sequence[int],
    channel: Sequence[int],
    limit: int,
    concentration: float,
    activation: str,
) -> torch.Tensor:
    """Rank weights (P, limit) of the voxels of each bit mask, by rising linear index."""
    x = take_planes(logits, sample, channel).to(accumulation_dtype(logits))
    probability = x.sigmoid() if activation == "sigmoid" else x
    mask = unpack(words, logits.shape[-1])
    dense = rank_weights(probability, mask, concentration, [limit] * len(mask)).flatten(1)
    # voxels outside the mask go to a place past the last one
    place = torch.where(mask.flatten(1), mask.flatten(1).long().cumsum(1) - 1, limit)
    return dense.new_zeros(len(mask), limit + 1).scatter_(1, place, dense)[:, :limit].contiguous()
