# SPDX-License-Identifier: Apache-2.0
"""Kernels in CUDA C++: the selection inside balls, and the weights of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch


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
        boxes: int32 (T, 6) rows (-z0, -y0, -x0, z1, y1, x1) of what is available to a tumour, ends one past the last,
            all -2^30 where nothing is; written for the tumours that follow.
        centres: int64 (N,) linear indices, -1 for none, one for each of `tumours`.
        tumours: N of them, on different planes.
        volume: (D, H, W).
        spacing: (sD, sH, sW) in mm.
    """
    raise NotImplementedError
