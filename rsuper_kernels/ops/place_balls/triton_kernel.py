# SPDX-License-Identifier: Apache-2.0
"""Placing on a GPU without CuPy: the tumours of a rank on all planes at once; Triton searches, plain torch selects."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsuper_kernels import gpu
from rsuper_kernels.ops.ball_search.triton_fields import fields
from rsuper_kernels.ops.ball_search.triton_kernel import search
from rsuper_kernels.ops.ball_select.reference import ball_select
from rsuper_kernels.ops.pack_bits.triton_kernel import pack_masks, unpack_masks
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
    device, volume = words.device, words.shape[1:]
    logits, rows_of_logits = logits.contiguous(), planes_of(logits, sample, channel)
    tumours, schedules = split(range(len(mask)), tumour_counts), split(radii, radius_counts)
    unions = torch.zeros(3, len(sample), *volume, dtype=torch.int64, device=device)
    bodies = torch.empty(len(mask) if keep_bodies else 0, *volume, dtype=torch.int64, device=device)
    for rank in range(max(tumour_counts, default=0)):
        planes = [p for p, count in enumerate(tumour_counts) if count > rank]
        chosen = [tumours[p][rank] for p in planes]
        rows = gpu.table(planes, torch.int64, device)
        taken = unions[1].index_select(0, rows)
        free = words.index_select(0, gpu.table([mask[t] for t in chosen], torch.int64, device)) & ~taken
        pairs = [(rows_of_logits[p], n) for n, p in enumerate(planes)]
        searched, boxes = fields(logits, free, pairs, activation)
        each = range(len(chosen))
        centre, _ = search(searched, boxes, each, each, [diameters[t] for t in chosen], spacing, sigma)
        selected = ball_select(
            searched.q,
            unpack_masks(free, logits.shape[-1]),
            centre,
            [radius for t in chosen for radius in schedules[t]],
            [radius_counts[t] for t in chosen],
            [needed[t] for t in chosen],
            [count for t in chosen for count in counts[3 * t : 3 * t + 3]],
            spacing,
            outside_competes=False,
        )
        new = pack_masks(selected[:, 1:].transpose(0, 1).flatten(0, 1), range(3 * len(chosen)), [1] * 3 * len(chosen))
        new = new.unflatten(0, (3, len(chosen)))
        unions.index_copy_(1, rows, unions.index_select(1, rows) | new)
        if keep_bodies:
            bodies.index_copy_(0, gpu.table(chosen, torch.int64, device), new[1])
    return unions, bodies
