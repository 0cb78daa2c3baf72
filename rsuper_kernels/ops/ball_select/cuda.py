# SPDX-License-Identifier: Apache-2.0
"""Kernels in CUDA C++: the selection inside balls, and the weights of ranks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from rsuper_kernels import bits, gpu
from rsuper_kernels.geometry import as_spacing, squared_limit
from rsuper_kernels.tables import flatten, planes_of, split

# As in csrc/cuda/ball_select.cu and rank_weights.cu.
_THREADS, _RANKING_THREADS = 512, 1024
_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


class Selection(NamedTuple):
    """A tumour whose voxels are to be selected; one call takes at most one for each plane."""

    plane: int
    """Of the unions."""
    tumour: int
    """Of the bodies."""
    mask: int
    """The mask that it has to keep to."""
    field: int
    """The probabilities of this plane and mask."""
    first_field: int
    """The fields of the plane, from which the body disappears: the first of them ..."""
    field_count: int
    """... and how many there are."""
    radii: tuple[float, ...]
    """mm, ascending: the ball has the first that holds `needed` available voxels, or the last."""
    needed: int
    counts: tuple[int, int, int]
    """Voxels of core, body and ring."""
    next_tumour: int
    """Of the boxes: the tumour that follows on this plane, -1 for none ..."""
    next_mask: int
    """... and its mask."""


def select_in_balls(
    fields: torch.Tensor,
    words: torch.Tensor,
    unions: torch.Tensor,
    bodies: torch.Tensor,
    boxes: torch.Tensor,
    centres: torch.Tensor,
    tumours: Sequence[Selection],
    volume: Sequence[int],
    spacing: Sequence[float],
) -> None:
    """Select the voxels of one tumour on each of some planes, and take them from what the plane's next ones may have.

    Args:
        fields: float32 (F, D, H, W), the probability on the voxels available to a (plane, mask) pair, 0 elsewhere; set
            to 0 on the bodies.
        words: int64 (M, D, H, K), the allowed masks.
        unions: int64 (3, P, D, H, K), core, body and ring of the planes; the selections are added.
        bodies: int64 (T, D, H, K), each body by itself, or (0, D, H, K) to leave them out.
        boxes: int32 (T, 6) of what is available to a tumour, starts counted down from 2^30, ends one past the last,
            zeros where nothing is; written for the tumours that follow.
        centres: int64 (N,) linear indices, -1 for none, one for each of `tumours`.
        tumours: N of them, on different planes.
        volume: (D, H, W).
        spacing: (sD, sH, sW) in mm.
    """
    if not tumours:
        return
    device, (depth, height, width) = fields.device, volume
    radii, radius_counts = flatten([tumour.radii for tumour in tumours])
    gpu.launch_cuda(
        "ball_select",
        "select_in_balls",
        (len(tumours),),
        _THREADS,
        fields,
        words,
        unions,
        bodies,
        len(bodies) > 0,
        boxes,
        centres,
        gpu.table(_tasks(tumours, radius_counts), torch.int64, device),
        gpu.table([squared_limit(radius) for radius in radii], torch.float64, device),
        unions.shape[1],
        depth,
        height,
        width,
        *as_spacing(spacing),
    )


def _tasks(tumours: Sequence[Selection], radius_counts: Sequence[int]) -> list[int]:
    """Rows of struct Task in csrc/cuda/ball_select.cu."""
    first_radii = itertools.accumulate(radius_counts, initial=0)
    rows: list[int] = []
    for tumour, first_radius, count in zip(tumours, first_radii, radius_counts, strict=False):
        rows += (tumour.plane, tumour.tumour, tumour.mask, tumour.field, tumour.first_field, tumour.field_count)
        rows += (tumour.needed, *tumour.counts, tumour.next_tumour, tumour.next_mask, first_radius, count)
    return rows


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
    planes, *volume = probability.shape
    kinds = len(counts) // max(planes, 1)
    words = bits.pack(available).contiguous()
    fields = torch.where(available, probability, 0).contiguous()
    # a selection of everything is the ball; each three of the 1 + K are those of a plane of their own
    per_plane = -(-(1 + kinds) // 3)
    everything = math.prod(volume)
    tumours = []
    for n, schedule in enumerate(split(radii, radius_counts)):
        wanted = [everything, *counts[n * kinds : (n + 1) * kinds], 0, 0]
        for part in range(per_plane):
            tumours.append(
                Selection(
                    plane=n * per_plane + part,
                    tumour=0,
                    mask=n,
                    field=n,
                    first_field=0,
                    field_count=0,
                    radii=tuple(schedule),
                    needed=needed[n],
                    counts=(wanted[3 * part], wanted[3 * part + 1], wanted[3 * part + 2]),
                    next_tumour=-1,
                    next_mask=0,
                )
            )
    unions = words.new_zeros(3, len(tumours), *words.shape[1:])
    boxes = words.new_empty(0, 6, dtype=torch.int32)
    centres = centre.repeat_interleave(per_plane)
    select_in_balls(fields, words, unions, words[:0], boxes, centres, tumours, volume, spacing)
    chosen = unions.unflatten(1, (planes, per_plane)).permute(1, 2, 0, 3, 4, 5).flatten(1, 2)[:, : 1 + kinds]
    masks = bits.unpack(chosen, volume[-1])
    return _with_zeros(masks, probability, counts) if outside_competes and kinds else masks.contiguous()


def _with_zeros(masks: torch.Tensor, probability: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """The selections when voxels outside of the ball rank as probability 0, and are lost when selected."""
    ball, selected = masks[:, :1], masks[:, 1:]
    positive = ball & (probability > 0)[:, None]
    table = gpu.table(counts, torch.int64, masks.device).view(*selected.shape[:2], 1, 1, 1)
    zeros = table - positive.flatten(2).sum(2)[..., None, None, None]
    # beyond the positive ones, zeros by rising index, of which only those in the ball remain
    place = (~positive).flatten(2).cumsum(2).view(positive.shape)
    return torch.cat([ball, torch.where(zeros > 0, positive | (ball & (place <= zeros)), selected)], 1)


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
    logits, words = logits.contiguous(), words.contiguous()
    out = torch.empty(len(sample), limit, device=logits.device)
    gpu.launch_cuda(
        "rank_weights",
        "foreground_weights",
        (len(sample),),
        _RANKING_THREADS,
        logits,
        words,
        gpu.table(planes_of(logits, sample, channel), torch.int64, logits.device),
        torch.empty(len(sample), 2, limit, dtype=torch.int64, device=logits.device),
        out,
        limit,
        logits.shape[2] * logits.shape[3],
        logits.shape[4],
        _TYPES[logits.dtype],
        activation == "sigmoid",
        float(concentration),
    )
    return out


def rank_weights(
    probability: torch.Tensor, mask: torch.Tensor, concentration: float, limits: Sequence[int]
) -> torch.Tensor:
    """Weights (N, D, H, W) of the masked voxels by rank; see reference.py."""
    planes, limit = len(probability), max(limits, default=0)
    if limit == 0:
        return torch.zeros_like(probability, memory_format=torch.contiguous_format)
    everyone = range(planes)
    compact = foreground_weights(
        probability[:, None], bits.pack(mask), everyone, [0] * planes, limit, concentration, "identity"
    )
    place = mask.flatten(1).cumsum(1).sub_(1).clamp_(0, limit - 1)
    return torch.where(mask.flatten(1), compact.gather(1, place), 0).view(mask.shape)
