# SPDX-License-Identifier: Apache-2.0
"""score(x) = sum over r of k(r) q(x + r), with q the probability on the available voxels and k the kernel of the ball;
centre = argmax of the score over the bounding box of the available voxels.

No centre outside that box can win: k falls with each of |rz|, |ry|, |rx|, so moving the centre into the box brings
every available voxel nearer. The convolution is an FFT in float64, whose error (1e-14) is far below the 1e-6 within
which scores count as tied.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsuper_kernels.geometry import ball_kernel

TIE = 1e-6


def ball_search(
    probability: torch.Tensor,
    available: torch.Tensor,
    diameters: Sequence[float],
    spacing: Sequence[float],
    sigma: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat index of the best centre (N,) int64, -1 where nothing is available, and its score (N,)."""
    # no two voxels are further apart
    largest_reach = tuple(size - 1 for size in probability.shape[1:])
    centres, scores = [], []
    for plane, free, diameter in zip(probability, available, diameters, strict=True):
        kernel = ball_kernel(diameter, tuple(spacing), sigma, largest_reach)
        score = _correlate(torch.where(free, plane, 0).double(), kernel)
        box = _bounding_box(free)
        score = torch.where(box, score, -1.0)
        best = score.max()
        # the first of the tied voxels in linear order
        first = (score >= best * (1 - TIE)).flatten().int().argmax()
        found = box.any()
        centres.append(torch.where(found, first, -1))
        scores.append(torch.where(found, best, 0.0))
    if not centres:
        return torch.empty(0, dtype=torch.int64, device=probability.device), probability.new_empty(0)
    return torch.stack(centres), torch.stack(scores).to(probability.dtype)


def _correlate(values: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Correlation with a symmetric kernel, zero outside the array, never below zero."""
    # what wraps around lands in the padding, as far as the kernel reaches
    padded = [_fast_length(size + edge // 2) for size, edge in zip(values.shape, kernel.shape, strict=True)]
    wrapped = torch.zeros(padded, dtype=kernel.dtype)
    wrapped[: kernel.shape[0], : kernel.shape[1], : kernel.shape[2]] = kernel
    wrapped = wrapped.roll([-(edge // 2) for edge in kernel.shape], dims=(0, 1, 2)).to(values.device)
    spectrum = torch.fft.rfftn(values, s=padded) * torch.fft.rfftn(wrapped)
    score = torch.fft.irfftn(spectrum, s=padded)
    return score[tuple(slice(size) for size in values.shape)].clamp(min=0)


def _fast_length(length: int) -> int:
    """The next length without prime factors above 5, where FFTs are several times faster."""
    rest = length
    for factor in (2, 3, 5):
        while rest % factor == 0:
            rest //= factor
    return length if rest == 1 else _fast_length(length + 1)


def _bounding_box(mask: torch.Tensor) -> torch.Tensor:
    """Bool box (D, H, W) around the mask; empty for an empty mask."""
    box = torch.ones_like(mask)
    for dim in range(3):
        others = [other for other in range(3) if other != dim]
        occupied = mask.any(others[1]).any(others[0])
        seen = occupied.int().cumsum(0) > 0
        ahead = occupied.flip(0).int().cumsum(0).flip(0) > 0
        box &= (seen & ahead).reshape([-1 if axis == dim else 1 for axis in range(3)])
    return box
