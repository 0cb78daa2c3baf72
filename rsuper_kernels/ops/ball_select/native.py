# SPDX-License-Identifier: Apache-2.0
"""Calls into the compiled module."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsuper_kernels import native
from rsuper_kernels.geometry import as_spacing, squared_limit
from rsuper_kernels.tables import planes_of


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
    """Bool masks (N, 1 + K, D, H, W): the ball and its selections; see reference.py."""
    planes, *shape = probability.shape
    kinds = len(counts) // max(planes, 1)
    out = native.empty((planes, 1 + kinds, *shape), torch.bool)
    probability, available = probability.contiguous(), available.contiguous()
    start = 0
    for n, index in enumerate(centre.tolist()):
        schedule = radii[start : start + radius_counts[n]]
        start += radius_counts[n]
        native.module().ball_select(
            probability[n].data_ptr(),
            available[n].data_ptr(),
            *shape,
            index,
            [squared_limit(radius) for radius in schedule],
            needed[n],
            list(counts[n * kinds : (n + 1) * kinds]),
            as_spacing(spacing),
            outside_competes,
            out[n].data_ptr(),
        )
    return out


def rank_weights(
    probability: torch.Tensor, mask: torch.Tensor, concentration: float, limits: Sequence[int]
) -> torch.Tensor:
    """Weights (N, D, H, W) of the masked voxels by rank; see reference.py."""
    out = torch.empty(probability.shape, dtype=probability.dtype)
    for plane, inside, weights in zip(probability.contiguous(), mask.contiguous(), out, strict=True):
        native.module().rank_weights(
            plane.data_ptr(), inside.data_ptr(), plane.numel(), concentration, weights.data_ptr()
        )
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
    """Weights (P, limit) of the voxels of each bit mask; see reference.py."""
    logits, words = native.readable(logits), words.contiguous()
    out = torch.empty(len(sample), limit)
    native.module().foreground_weights(
        native.address(logits),
        logits.shape[2:],
        words.data_ptr(),
        planes_of(logits, sample, channel),
        concentration,
        activation == "sigmoid",
        out.data_ptr(),
        limit,
    )
    return out
