# SPDX-License-Identifier: Apache-2.0
"""Placing on a GPU: all fields at once, then, for the tumours of a rank on all planes, a search and a selection.

A field holds the probability that a mask still offers on a plane. A selection takes its body out of all fields of its
plane, so that the next search finds them as they have to be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from rsuper_kernels.ops.ball_search.triton_fields import fields
from rsuper_kernels.ops.ball_search.triton_kernel import search
from rsuper_kernels.ops.ball_select.cuda import Selection, select_in_balls
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
    words, volume = words.contiguous(), words.shape[1:]
    unions, boxes = _zeros((3, len(sample), *volume), len(mask), words.device)
    bodies = torch.empty(len(mask) if keep_bodies else 0, *volume, dtype=torch.int64, device=words.device)
    ranks, pairs, box_rows = _plan(tumour_counts, mask, split(radii, radius_counts), needed, counts)
    if not ranks:
        return unions, bodies
    planes = planes_of(logits, sample, channel)
    searched, _ = fields(logits, words, [(planes[p], m) for p, m in pairs], activation, box_rows, boxes)
    for chosen in ranks:
        tumours = [one.tumour for one in chosen]
        sizes = [diameters[t] for t in tumours]
        centres, _ = search(searched, boxes, [one.field for one in chosen], tumours, sizes, spacing, sigma)
        select_in_balls(searched.q, words, unions, bodies, boxes, centres, chosen, logits.shape[2:], spacing)
    return unions, bodies


def _zeros(shape: Sequence[int], boxes: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Empty masks and boxes, in one piece of memory, which one launch clears."""
    words = math.prod(shape)
    memory = torch.zeros(words + 3 * boxes, dtype=torch.int64, device=device)
    return memory[:words].view(*shape), memory[words:].view(torch.int32).view(boxes, 6)


def _plan(
    tumour_counts: Sequence[int],
    mask: Sequence[int],
    schedules: Sequence[Sequence[float]],
    needed: Sequence[int],
    counts: Sequence[int],
) -> tuple[list[list[Selection]], list[tuple[int, int]], list[int]]:
    """The tumours of each rank; plane and mask of each field; the tumour whose box it gives: of rank 0, or -1."""
    ranks: list[list[Selection]] = [[] for _ in range(max(tumour_counts, default=0))]
    pairs: list[tuple[int, int]] = []
    box_rows: list[int] = []
    for p, tumours in enumerate(split(range(len(mask)), tumour_counts)):
        first, masks = len(pairs), list(dict.fromkeys(mask[t] for t in tumours))
        pairs += [(p, m) for m in masks]
        box_rows += [tumours[0] if m == mask[tumours[0]] else -1 for m in masks]
        for rank, t in enumerate(tumours):
            following = tumours[rank + 1] if rank + 1 < len(tumours) else -1
            ranks[rank].append(
                Selection(
                    plane=p,
                    tumour=t,
                    mask=mask[t],
                    field=first + masks.index(mask[t]),
                    first_field=first,
                    field_count=len(masks),
                    radii=tuple(schedules[t]),
                    needed=needed[t],
                    counts=(counts[3 * t], counts[3 * t + 1], counts[3 * t + 2]),
                    next_tumour=following,
                    next_mask=mask[following] if following >= 0 else -1,
                )
            )
    return ranks, pairs, box_rows
