# SPDX-License-Identifier: Apache-2.0
"""For each tumour of a plane, in order: ball_search, then ball_select, on its mask without the bodies before it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsuper_kernels.ops.ball_search.reference import ball_search
from rsuper_kernels.ops.ball_select.reference import ball_select
from rsuper_kernels.ops.pack_bits.reference import pack_masks, unpack_masks
from rsuper_kernels.tables import split


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
    """Words of core, body and ring of each plane (3, P, D, H, words), and of the body of each tumour (T, ...).

    Plane (sample[p], channel[p]) takes the next tumour_counts[p] tumours, tumour t the next radius_counts[t] radii.
    """
    volume = logits.shape[2:]
    schedules = split(radii, radius_counts)
    unions = torch.zeros(3, len(sample), *volume, dtype=torch.bool, device=logits.device)
    bodies = torch.zeros(len(mask), *volume, dtype=torch.bool, device=logits.device)
    allowed = unpack_masks(words, volume[-1])
    for p, tumours in enumerate(split(range(len(mask)), tumour_counts)):
        plane = logits[sample[p], channel[p]]
        plane = plane if plane.dtype == torch.float64 else plane.float()
        probability = (plane.sigmoid() if activation == "sigmoid" else plane)[None]
        for t in tumours:
            available = (allowed[mask[t]] & ~unions[1, p])[None]
            centre, _ = ball_search(probability, available, [diameters[t]], spacing, sigma)
            selected = ball_select(
                probability,
                available,
                centre,
                schedules[t],
                [radius_counts[t]],
                [needed[t]],
                counts[3 * t : 3 * t + 3],
                spacing,
                outside_competes=False,
            )
            unions[:, p] |= selected[0, 1:]
            bodies[t] = selected[0, 2]
    one_each = [list(range(count)) for count in (3 * len(sample), len(mask))]
    packed = [
        pack_masks(masks, planes, [1] * len(planes))
        for masks, planes in zip((unions.flatten(0, 1), bodies), one_each, strict=True)
    ]
    return packed[0].unflatten(0, (3, len(sample))), packed[1] if keep_bodies else packed[1][:0]
