# SPDX-License-Identifier: Apache-2.0
"""Balls as tables of runs, from which kernels for a GPU score them.

A run (dz, dy, w) holds the offsets |dx| <= w of a row. Runs stand by falling w, level by level, and weigh g(dz) g(dy);
a level j is all offsets at |dx| = j, of the runs with w >= j, and weighs g(j).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from rsuper_kernels.geometry import Spacing, ball_element, kernel_falloff, kernel_total

ROUNDING = 2.0**-24
"""Of a float32 number, relative."""


class Runs(NamedTuple):
    """The runs of some balls, one after another."""

    levels: tuple[tuple[int, int], ...]
    """Per ball, its first level and its largest half width R: the levels that follow are R, R - 1, ..., 0."""
    errors: tuple[float, ...]
    """Per ball, a bound of the relative error of a score whose sums are float32."""
    steps: tuple[int, ...]
    """Per run, dz * 2^16 + dy + 2^15."""
    weights: tuple[float, ...]
    """Per run, g(dz) g(dy), of a kernel with sum 1; 0 where a level is filled up to whole groups."""
    ends: tuple[int, ...]
    """Per level, where its runs end, after a leading 0."""
    profile: tuple[float, ...]
    """Per level, g(j); half of it at j = 0, which counts from either side."""


@functools.lru_cache(maxsize=256)
def runs_of_balls(
    diameters: tuple[float, ...],
    spacing: Spacing,
    sigma: float | None,
    volume: tuple[int, int, int],
    groups: int,
    segment: int = 1,
) -> Runs:
    """Runs as far as they reach within a volume, the number in each level a multiple of `groups`.

    With a `segment` of more than 1, half widths count segments of so many voxels, and each pair of segments weighs what
    its closest voxels weigh: scores on sums over segments are then no less than the scores of their voxels.
    """
    levels: list[tuple[int, int]] = []
    errors: list[float] = []
    ends, steps = [0], list[int]()
    weights, profile = list[float](), list[float]()
    for diameter in diameters:
        dz, dy, half_width = ball_element(diameter / 2, spacing).runs.numpy().T.astype(np.int64)
        near = (abs(dz) < volume[0]) & (abs(dy) < volume[1])
        dz, dy, half_width = dz[near], dy[near], -(-half_width[near].clip(max=volume[2] - 1) // segment)
        falloff, total = kernel_falloff(diameter, sigma), kernel_total(diameter, spacing, sigma)
        reach = int(half_width.max())
        levels.append((len(profile), reach))
        # a sum for each run and level, a product for each level, the sum of a segment; and rounded tables and bounds
        errors.append(1.05 * ROUNDING * (len(dz) + 2 * reach + segment + groups + 16))
        weight = np.exp(-falloff * ((dz * spacing[0]) ** 2 + (dy * spacing[1]) ** 2)) / total
        step = (dz << 16) + dy + (1 << 15)
        for j in range(reach, -1, -1):
            level = half_width == j
            filled = -int(level.sum()) % groups
            steps += [*step[level].tolist(), *[1 << 15] * filled]
            weights += [*weight[level].tolist(), *[0.0] * filled]
            ends.append(len(steps))
        closest = np.maximum(segment * np.arange(reach - 1, -2, -1) + 1, 0) * spacing[2]
        g = np.exp(-falloff * closest**2)
        g[-1] /= 2
        profile += g.tolist()
    return Runs(tuple(levels), tuple(errors), tuple(steps), tuple(weights), tuple(ends), tuple(profile))
