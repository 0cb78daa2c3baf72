# SPDX-License-Identifier: Apache-2.0
"""Lengths, axes and structuring elements: the one place that knows about (D, H, W) and spacing (sD, sH, sW) in mm.

Everything here is decided on the host in float64, so that every backend sees the same integers: which offsets belong
to a ball never depends on a device's rounding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

Spacing = tuple[float, float, float]
UNIT_SPACING: Spacing = (1.0, 1.0, 1.0)

# A voxel centre on the surface of a ball is inside it, whatever order the squares were summed in.
_SURFACE_SLACK = 1e-6


def as_spacing(spacing: Sequence[float]) -> Spacing:
    """Check a voxel spacing (sD, sH, sW) in mm and return it as three floats.

    Raises:
        ValueError: not three finite, positive numbers.
    """
    try:
        values = tuple(float(value) for value in spacing)
    except (TypeError, ValueError):
        values = ()
    if len(values) != 3 or not all(math.isfinite(value) and value > 0 for value in values):
        raise ValueError(
            f"spacing: expected three positive numbers (sD, sH, sW) in mm, in the order of the axes, got {spacing!r}"
        )
    return (values[0], values[1], values[2])


def voxel_volume(spacing: Spacing) -> float:
    """Volume of one voxel in mm3."""
    return spacing[0] * spacing[1] * spacing[2]


def squared_limit(radius: float) -> float:
    """Largest squared distance (mm2) that still counts as inside a ball of `radius` mm."""
    return radius * radius * (1.0 + _SURFACE_SLACK)


def complete_diameters(diameters: Sequence[float]) -> Spacing:
    """Complete one to three reported diameters (mm) to three: (d, d, d), (a, b, (a + b) / 2) or (a, b, c).

    Of more than three values the three largest are kept.
    """
    if len(diameters) > 3:
        diameters = sorted(diameters, reverse=True)[:3]
    if len(diameters) == 1:
        return (diameters[0],) * 3
    if len(diameters) == 2:
        return (diameters[0], diameters[1], (diameters[0] + diameters[1]) / 2)
    return (diameters[0], diameters[1], diameters[2])


def ellipsoid_volume(diameters: Sequence[float]) -> float:
    """Volume in mm3 of the ellipsoid with one to three diameters in mm: pi / 6 * a * b * c."""
    a, b, c = complete_diameters(diameters)
    return math.pi / 6 * a * b * c


@dataclass(frozen=True)
class Element:
    """A structuring element: passes of runs, applied one pass after another.

    A run (dz, dy, w) holds the offsets (dz, dy, dx) with |dx| <= w, in voxels. `runs` is an int32 CPU tensor (R, 3),
    `passes` the number of runs in each pass, which add up to R. Elements are symmetric about the origin.
    """

    runs: torch.Tensor
    passes: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, int, int]:
        """How far the element reaches along (D, H, W), in voxels, over all passes."""
        reach, start = np.zeros(3, dtype=int), 0
        for count in self.passes:
            reach += self.runs[start : start + count].abs().amax(0).numpy()
            start += count
        return (int(reach[0]), int(reach[1]), int(reach[2]))


@lru_cache(maxsize=256)
def ball_element(radius: float, spacing: Spacing = UNIT_SPACING) -> Element:
    """The digital Euclidean ball: every voxel offset within `radius` mm of the centre.

    Raises:
        ValueError: a radius that is negative or not finite.
    """
    if not (math.isfinite(radius) and radius >= 0):
        raise ValueError(f"radius: expected a finite length of at least 0 mm, got {radius!r}")
    limit = squared_limit(radius)
    reach_z, reach_y = (int(math.sqrt(limit) / step) for step in spacing[:2])
    runs = []
    for dz in range(-reach_z, reach_z + 1):
        for dy in range(-reach_y, reach_y + 1):
            left = limit - (dz * spacing[0]) ** 2 - (dy * spacing[1]) ** 2
            if left >= 0:
                runs.append((dz, dy, int(math.sqrt(left) / spacing[2])))
    return Element(torch.tensor(runs, dtype=torch.int32), (len(runs),))


@lru_cache(maxsize=64)
def cascade_element(kernel_size: int, full_pass_radius: int = 3) -> Element:
    """The public code's dilation: passes of small voxel balls in place of a large one (Q1).

    An even `kernel_size` is raised by one. A radius above `full_pass_radius` becomes full passes of that radius
    and one of the remainder, so 31 is five passes of the 7-voxel ball: 16,251 offsets, not the 15,515 of that ball.
    """
    radius = kernel_size // 2
    if radius <= full_pass_radius:
        radii = [radius]
    else:
        full, rest = divmod(radius, full_pass_radius)
        radii = [full_pass_radius] * full + [rest] * (rest > 0)
    balls = [ball_element(r + 0.5) for r in radii]
    return Element(torch.cat([ball.runs for ball in balls]), tuple(ball.passes[0] for ball in balls))


Pass = tuple[tuple[int, int, int], ...]


@lru_cache(maxsize=64)
def merged_runs(runs: Pass, passes: tuple[int, ...]) -> tuple[Pass, ...]:
    """The same dilation in as few passes as possible: one, if every offset's smaller ones are in its pass, too.

    Then an offset of the passes' sum splits into steps none of which leads back, so that no border comes in between:
    one pass of the sum gives exactly what they give one after the other, and none gives what (0, 0, 0) does.

    Args:
        runs: rows (dz, dy, half width) of all passes.
        passes: the number of runs in each pass.
    """
    ends = np.cumsum([0, *passes])
    separate = tuple(runs[start:end] for start, end in itertools.pairwise(ends))
    if not all(_holds_smaller_offsets(one) for one in separate):
        return separate
    whole = np.zeros((1, 1), dtype=int)
    for one in separate:
        whole = _sum_of_widths(whole, one)
    reach_z, reach_y = (size // 2 for size in whole.shape)
    filled = np.argwhere(whole >= 0)
    return (tuple((int(z) - reach_z, int(y) - reach_y, int(whole[z, y])) for z, y in filled),)


def _widths(runs: Pass) -> np.ndarray:
    """Half widths of a pass by (dz, dy) around the middle, -1 where it has no run."""
    reach_z, reach_y = (max((abs(run[axis]) for run in runs), default=0) for axis in (0, 1))
    widths = np.full((2 * reach_z + 1, 2 * reach_y + 1), -1)
    for dz, dy, half_width in runs:
        widths[reach_z + dz, reach_y + dy] = max(widths[reach_z + dz, reach_y + dy], half_width)
    return widths


def _holds_smaller_offsets(runs: Pass) -> bool:
    widths = _widths(runs)
    quadrant = widths[widths.shape[0] // 2 :, widths.shape[1] // 2 :]
    symmetric = (widths == widths[::-1]).all() and (widths == widths[:, ::-1]).all()
    return bool(symmetric and (np.diff(quadrant, axis=0) <= 0).all() and (np.diff(quadrant, axis=1) <= 0).all())


def _sum_of_widths(widths: np.ndarray, runs: Pass) -> np.ndarray:
    """Half widths of the sum of two elements: the largest sum over all ways to get to (dz, dy)."""
    reach = [size // 2 for size in _widths(runs).shape]
    out = np.full((widths.shape[0] + 2 * reach[0], widths.shape[1] + 2 * reach[1]), -1)
    for dz, dy, half_width in runs:
        part = out[reach[0] + dz :, reach[1] + dy :][: widths.shape[0], : widths.shape[1]]
        np.maximum(part, np.where(widths >= 0, widths + half_width, -1), out=part)
    return out


def odd_diameter(diameter: float) -> int:
    """Round half to even, then up to the next odd number of voxels, as the public code does (Q16)."""
    rounded = int(np.round(diameter))
    return rounded + 1 - rounded % 2


def ceil_odd(diameter: float) -> int:
    """Round up, then up to the next odd number of voxels."""
    rounded = math.ceil(diameter)
    return rounded + 1 - rounded % 2


def ball_voxels(diameter: float, spacing: Spacing = UNIT_SPACING) -> int:
    """Voxels in the digital ball of `diameter` mm: n(11) = 739 at unit spacing."""
    runs = ball_element(diameter / 2, spacing).runs
    return int((2 * runs[:, 2] + 1).sum())


@lru_cache(maxsize=64)
def ball_kernel(
    diameter: float,
    spacing: Spacing = UNIT_SPACING,
    sigma: float | None = 1.5,
    largest_reach: tuple[int, int, int] | None = None,
) -> torch.Tensor:
    """Search kernel: a ball of `diameter` mm with weights exp(-r^2 / (2 (sigma * diameter / 2)^2)) inside, sum 1.

    `sigma` is in radii; None gives a flat ball. Returns float64 (kD, kH, kW) with odd edges, on the CPU; at 1.5 the
    border weighs 0.80 of the centre. A ball smaller than a voxel is that one voxel. `largest_reach` cuts the array (not
    the sum) to offsets of so many voxels along each axis. Source: public R-Super code, A.2.
    """
    limit, falloff = squared_limit(diameter / 2), kernel_falloff(diameter, sigma)
    squares, profiles = _kernel_axes(limit, falloff, spacing)
    total = kernel_total(diameter, spacing, sigma)
    if largest_reach is not None:
        reach = [len(square) // 2 for square in squares]
        cuts = [slice(max(r - most, 0), r + min(r, most) + 1) for r, most in zip(reach, largest_reach, strict=True)]
        squares = [square[cut] for square, cut in zip(squares, cuts, strict=True)]
        profiles = [profile[cut] for profile, cut in zip(profiles, cuts, strict=True)]
    inside = squares[0][:, None, None] + squares[1][:, None] + squares[2] <= limit
    weights = profiles[0][:, None, None] * profiles[1][:, None] * profiles[2] * inside
    return torch.from_numpy(weights / total)


def kernel_falloff(diameter: float, sigma: float | None) -> float:
    """f of the kernel's weights exp(-f r^2), in 1 / mm2."""
    return 0.0 if sigma is None else 1 / (2 * (sigma * diameter / 2) ** 2)


@lru_cache(maxsize=256)
def kernel_total(diameter: float, spacing: Spacing = UNIT_SPACING, sigma: float | None = 1.5) -> float:
    """Sum of the kernel's weights over the ball, before it is made 1; row by row, without an array of its size."""
    limit = squared_limit(diameter / 2)
    squares, profiles = _kernel_axes(limit, kernel_falloff(diameter, sigma), spacing)
    left = limit - squares[0][:, None] - squares[1]
    # squares of the last axis fall, then rise: the offsets of a row that are inside lie around the middle
    middle = len(squares[2]) // 2
    half_widths = np.searchsorted(squares[2][middle:], left, side="right") - 1
    sums = np.concatenate([[0.0], 2 * np.cumsum(profiles[2][middle:]) - profiles[2][middle]])
    return float((profiles[0][:, None] * profiles[1] * sums[half_widths + 1]).sum())


def _kernel_axes(limit: float, falloff: float, spacing: Spacing) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Squared offsets (mm2) along each axis, and their weights."""
    squares = []
    for step in spacing:
        reach = int(math.sqrt(limit) / step)
        squares.append((np.arange(-reach, reach + 1) * step) ** 2)
    return squares, [np.exp(-falloff * square) for square in squares]


def growth_radii(diameter: float, margin: float, shape: Sequence[int], spacing: Spacing) -> list[float]:
    """Radii (mm) of a tumour's ball: diameter * (1 + margin) / 2, then 10 % more each, until it spans the patch."""
    diagonal = math.sqrt(sum((size * step) ** 2 for size, step in zip(shape, spacing, strict=True)))
    radii = [diameter * (1 + margin) / 2]
    while radii[-1] < diagonal:
        radii.append(radii[-1] * 1.1)
    return radii


def odd_growth_radii(diameter: int, margin: float, shape: Sequence[int]) -> list[float]:
    """The public code's radii (voxels): the diameter grows by 10 % to the next odd while under the edge (Q17, Q18)."""
    radii = [ceil_odd(diameter * (1 + margin)) / 2]
    while True:
        grown = int(np.round(diameter * 1.1))
        grown += grown == diameter
        diameter = grown + 1 - grown % 2
        if diameter >= max(shape):
            return radii
        radii.append(ceil_odd(diameter * (1 + margin)) / 2)
