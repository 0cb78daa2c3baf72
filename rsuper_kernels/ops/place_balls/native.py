# SPDX-License-Identifier: Apache-2.0
"""Calls into the compiled module."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsuper_kernels import native
from rsuper_kernels.geometry import as_spacing, ball_element, kernel_falloff, squared_limit
from rsuper_kernels.tables import planes_of, split


def place_balls(
    logits: torch.Tensor,
    words: torch.Tensor,
    sample: Sequence[int],
    channel: Sequence[int],
    tumour_counts: Sequence[int],
    mask: Sequence[int],
    diameters: Sequence[float],
    radii: Sequence[float],
    radius_counts: Sequence[int],
    needed: Sequence[int],
    counts: Sequence[int],
    spacing: Sequence[float],
    sigma: float | None,
    keep_bodies: bool,
    activation: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Words of core, body and ring (3, P, D, H, words) and of the bodies (T, ...); see reference.py."""
    logits, words, steps = native.readable(logits), words.contiguous(), as_spacing(spacing)
    runs = [ball_element(diameter / 2, steps).runs for diameter in diameters]
    squares = split([squared_limit(radius) for radius in radii], radius_counts)
    tumours = [
        (m, rows.data_ptr(), len(rows), kernel_falloff(diameter, sigma), square, n, list(counts[3 * t : 3 * t + 3]))
        for t, (m, rows, diameter, square, n) in enumerate(zip(mask, runs, diameters, squares, needed, strict=True))
    ]
    unions = native.empty((3, len(sample), *words.shape[1:]), torch.int64)
    bodies = native.empty((len(tumours) if keep_bodies else 0, *words.shape[1:]), torch.int64)
    native.module().place_balls(
        native.address(logits),
        logits.shape[2:],
        words.data_ptr(),
        planes_of(logits, sample, channel),
        split(tumours, tumour_counts),
        steps,
        activation == "sigmoid",
        unions.data_ptr(),
        bodies.data_ptr() if keep_bodies else 0,
        native.threads(),
    )
    return unions, bodies
