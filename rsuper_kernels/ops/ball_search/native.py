# SPDX-License-Identifier: Apache-2.0
"""Calls into the compiled module."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsuper_kernels import native
from rsuper_kernels.geometry import as_spacing, ball_element, kernel_falloff, kernel_total


def ball_search(
    probability: torch.Tensor,
    available: torch.Tensor,
    diameters: Sequence[float],
    spacing: Sequence[float],
    sigma: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Best centre (N,) and its score (N,); see reference.py."""
    steps = as_spacing(spacing)
    centres, scores = [], []
    for plane, free, diameter in zip(probability.contiguous(), available.contiguous(), diameters, strict=True):
        runs = ball_element(diameter / 2, steps).runs
        centre, score = native.module().ball_search(
            plane.data_ptr(),
            free.data_ptr(),
            *plane.shape,
            runs.data_ptr(),
            len(runs),
            steps,
            kernel_falloff(diameter, sigma),
            kernel_total(diameter, steps, sigma),
            native.threads(),
        )
        centres.append(centre)
        scores.append(score)
    return torch.tensor(centres, dtype=torch.int64), torch.tensor(scores, dtype=probability.dtype)
