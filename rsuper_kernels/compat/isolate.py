# SPDX-License-Identifier: Apache-2.0
"""isolate_tumor of the public code (public R-Super code, A.6.4), with its quirks Q6, Q7 and Q16-Q18."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rsuper_kernels.checks import accumulation_dtype, check_float, check_ndim
from rsuper_kernels.geometry import ball_voxels, odd_diameter, odd_growth_radii
from rsuper_kernels.losses.placement import fill_ball
from rsuper_kernels.ops.ball_search import ball_search
from rsuper_kernels.ops.ball_select import ball_select

# From this many voxels on, the public code lets a pseudo-mask be smaller than the tumour.
LARGE = 125_000


@dataclass(frozen=True)
class BallRule:
    """How a tumour's ball is searched and its voxels are counted; margins are shares, `gaussian_std` is in radii."""

    diameter_margin: float = 0.2
    volume_margin: float = 0.2
    gaussian: bool = True
    gaussian_std: float = 1.5

    @property
    def sigma(self) -> float | None:
        return self.gaussian_std if self.gaussian else None


@dataclass(frozen=True)
class Size:
    """A tumour in voxels: odd diameter, N, and how many voxels small, mid and big take."""

    diameter: int
    voxels: int
    counts: tuple[int, int, int]


def tumour_size(diameter: float, volume: float, patch: int, rule: BallRule, where: str = "tumour") -> Size:
    """Round a reported size to voxels, by steps 1 to 4 and 9 of the public placement; `patch` is the number of voxels.

    Raises:
        ValueError: sizes that are not positive and finite, or a volume above 100,000 voxels that the ball cannot hold.
    """
    if not (0 < diameter < math.inf and 0 <= volume < math.inf):
        raise ValueError(
            f"{where}: expected a positive diameter and a volume of at least 0, got {diameter} mm and {volume} mm3"
        )
    odd = odd_diameter(diameter)
    voxels, ball = int(np.round(volume)), ball_voxels(odd)
    if voxels > 100_000 and voxels > 1.2 * ball:
        raise ValueError(
            f"{where}: expected at most 1.2 times the {ball} voxels of its ball of {odd}, got a volume of {voxels}"
        )
    # raised to the ball (Q6), the public count is a 0-d tensor, whose products are float32
    number: type[np.floating] = np.float32 if ball > voxels else np.float64
    voxels = ball - 1 if ball > voxels else voxels
    mid = min(patch - 1, voxels)
    shrink = 1 - min(0.5, rule.volume_margin)
    small = max(_share(mid, shrink, number if mid == voxels else np.float64), min(100, voxels))
    big = min(patch - 1, _share(voxels, 1 + rule.volume_margin, number))
    return Size(odd, voxels, (min(small, patch), min(mid, patch), min(big, patch)))


def _share(count: int, factor: float, number: type[np.floating]) -> int:
    return int(number(count) * number(factor))


def isolate_tumor(
    x: torch.Tensor,
    diameter: float,
    gaussian: bool,
    gaussian_std: float,
    tumor_volume: float,
    diameter_margin: float = 0.5,
    volume_margin: float = 0.5,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find the most probable tumour of a given size in one map of probabilities.

    Args:
        x: (H, W, D), any float dtype, at least 0; zero where the tumour cannot be.
        diameter: largest diameter in voxels.
        gaussian, gaussian_std: shape of the search kernel, see `create_ball_kernel`.
        tumor_volume: voxels; raised to those of the ball, less one (Q6).
        diameter_margin, volume_margin: shares that enlarge the ball, and shrink and enlarge the selection.

    Returns:
        (mid, small, big), each (H, W, D) of 0 and 1 in the dtype of x, no gradient. Where a selection has to choose
        between equal values, it takes the ones that torch.topk takes on the CPU, elsewhere the lowest linear index.

    Raises:
        ValueError: sizes out of range and, looked at on the CPU only, negative or NaN probabilities, or a mask far from
            the tumour's volume, which happens when the tumour does not fit the patch.

    Source: public R-Super code, A.6.4.
    """
    check_float("x", x)
    check_ndim("x", x, "(H, W, D)")
    probability = x.detach().to(accumulation_dtype(x))[None]
    if x.device.type == "cpu" and not (probability >= 0).all():
        raise ValueError("x: expected probabilities of at least 0, got negative or NaN values")
    rule = BallRule(diameter_margin, volume_margin, gaussian, gaussian_std)
    size = tumour_size(float(diameter), float(tumor_volume), x.numel(), rule)
    masks = isolate(probability, probability > 0, [size], rule, ["tumour"])[0]
    mid, small, big = masks.to(x.dtype).unbind(0)
    return mid, small, big


def isolate(
    probability: torch.Tensor, available: torch.Tensor, sizes: Sequence[Size], rule: BallRule, names: Sequence[str]
) -> torch.Tensor:
    """Bool (N, 3, H, W, D): mid, small and big of one tumour on each of N planes, on `available` as far as it goes."""
    shape = probability.shape[1:]
    centre, _ = ball_search(probability, available, [float(size.diameter) for size in sizes], sigma=rule.sigma)
    probability = torch.where(available, probability, 0)
    selected = ball_select(
        probability,
        torch.ones_like(available),
        # without any probability, the public argmax is the first voxel
        centre.clamp(min=0),
        [odd_growth_radii(size.diameter, rule.diameter_margin, shape) for size in sizes],
        [size.voxels for size in sizes],
        [size.counts for size in sizes],
        outside_competes=True,
    )
    if selected.device.type == "cpu":
        for plane, masks, size in zip(probability, selected, sizes, strict=True):
            _break_ties_as_topk(plane, masks, size.counts)
    ball, small, mid, big = fill_ball(selected, [size.voxels for size in sizes]).unbind(1)
    if ball.device.type == "cpu":
        for row, (name, size) in enumerate(zip(names, sizes, strict=True)):
            _check_placement(name, size, ball[row], mid[row], rule)
    return torch.stack([mid, small, big], dim=1)


def _break_ties_as_topk(probability: torch.Tensor, masks: torch.Tensor, counts: Sequence[int]) -> None:
    """Where a cut falls between equal values, take what torch.topk takes of the whole patch, as the public code does.

    `masks` (4, H, W, D) are the ball and the selections in the order of `counts`; the selections are changed in place.
    """
    ball = masks[0]
    inside = probability[ball].sort(descending=True).values.tolist()
    # voxels outside the ball compete with probability 0
    inside += [0.0, 0.0]
    for mask, count in zip(masks[1:], counts, strict=True):
        last = min(count, len(inside) - 1)
        if count > 0 and inside[last - 1] == inside[last]:
            chosen = torch.zeros_like(mask).flatten()
            chosen[(probability * ball).flatten().topk(count).indices] = True
            mask.copy_(chosen.view_as(mask) & ball)


def _check_placement(name: str, size: Size, ball: torch.Tensor, mid: torch.Tensor, rule: BallRule) -> None:
    """Raise ValueError where the public code's asserts on ball and mask fail (steps 8 and 12)."""
    n = size.voxels
    held, count = int(ball.count_nonzero()), int(mid.count_nonzero())
    if n < LARGE and held <= 0.5 * n:
        patch = tuple(ball.shape)
        raise ValueError(
            f"{name}: expected a ball of more than half its {n} voxels, got {held}: it does not fit the patch {patch}"
        )
    if n > 216 and held >= 2 * n * (1 + rule.diameter_margin) ** 3:
        raise ValueError(f"{name}: expected a ball of about its {n} voxels, got {held}")
    # a mask that six dilations could not fill is returned as it is
    filled = n >= LARGE or count >= 0.7 * n
    if filled and n > 125 and count >= 3 * n * (1 + rule.volume_margin) ** 3:
        raise ValueError(f"{name}: expected a mask of about its {n} voxels, got {count}")
