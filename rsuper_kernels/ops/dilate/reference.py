# SPDX-License-Identifier: Apache-2.0
"""Dilation as its definition says: out(x) = OR over offsets o of the element of mask(x - o), zero outside the array.

Masks that are kept apart leave out each other's voxels: out_g = (dilated_g minus the masks beside g) | mask_g.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsuper_kernels.bits import pack, unpack


def dilate(
    words: torch.Tensor,
    width: int,
    runs: torch.Tensor,
    passes: Sequence[int],
    beside: Sequence[int],
    beside_counts: Sequence[int],
) -> torch.Tensor:
    """Dilate bit masks (N, D, H, ceil(W / 64)) by passes of runs (R, 3) of (dz, dy, half width); returns new words.

    Mask g is kept apart from the next beside_counts[g] masks of `beside`, or not dilated if that is -1; none of it if
    `beside_counts` is empty.
    """
    mask = unpack(words, width)
    for one_pass in runs.split(list(passes)):
        mask = _dilate_once(mask, [tuple(run) for run in one_pass.tolist()])
    return keep_apart(words, pack(mask), beside, beside_counts)


def keep_apart(
    words: torch.Tensor, dilated: torch.Tensor, beside: Sequence[int], beside_counts: Sequence[int]
) -> torch.Tensor:
    """Take the masks beside each one out of its dilation, in place."""
    start = 0
    for g, count in enumerate(beside_counts):
        if count < 0:
            dilated[g] = words[g]
        for other in beside[start : start + max(count, 0)]:
            dilated[g] &= ~words[other]
        if count > 0:
            dilated[g] |= words[g]
        start += max(count, 0)
    return dilated


def _dilate_once(mask: torch.Tensor, runs: list[tuple[int, int, int]]) -> torch.Tensor:
    out = torch.zeros_like(mask)
    rows, width = mask, 0
    # runs in order of width, so that each row is widened step by step instead of from scratch
    for dz, dy, half_width in sorted(runs, key=lambda run: run[2]):
        while width < half_width:
            rows, width = _widen(rows), width + 1
        target, source = _overlap(out, rows, 1, dz)
        target, source = _overlap(target, source, 2, dy)
        target |= source
    return out


def _widen(rows: torch.Tensor) -> torch.Tensor:
    """Dilate along the last axis by one voxel."""
    wider = rows.clone()
    wider[..., 1:] |= rows[..., :-1]
    wider[..., :-1] |= rows[..., 1:]
    return wider


def _overlap(out: torch.Tensor, source: torch.Tensor, dim: int, shift: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The part of `out`, and the part of `source` that lands on it when shifted by `shift` along `dim`."""
    length = max(out.shape[dim] - abs(shift), 0)
    return out.narrow(dim, min(max(shift, 0), out.shape[dim]), length), source.narrow(
        dim, min(max(-shift, 0), out.shape[dim]), length
    )
