# SPDX-License-Identifier: Apache-2.0
"""Bit x % 64 of word x // 64 of a row = whether voxel x is inside: nonzero in a mask, or of certain labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsuper_kernels.bits import pack, unpack
from rsuper_kernels.labels import label_mask
from rsuper_kernels.tables import split


def pack_masks(masks: torch.Tensor, planes: Sequence[int], counts: Sequence[int]) -> torch.Tensor:
    """Words (G, D, H, ceil(W / 64)): group g is the union of the next counts[g] of `planes` of masks (N, D, H, W)."""
    inside = torch.zeros(len(counts), *masks.shape[1:], dtype=torch.bool, device=masks.device)
    for union, members in zip(inside, split(planes, counts), strict=True):
        for plane in members:
            union |= masks[plane] != 0
    return pack(inside)


def pack_labels(labels: torch.Tensor, sample: Sequence[int], ids: Sequence[int], counts: Sequence[int]) -> torch.Tensor:
    """Words (G, D, H, ceil(W / 64)): where labels[sample[g]] holds one of the next counts[g] of `ids`."""
    inside = torch.zeros(len(sample), *labels.shape[1:], dtype=torch.bool, device=labels.device)
    for mask, b, members in zip(inside, sample, split(ids, counts), strict=True):
        mask.copy_(label_mask(labels[b], members))
    return pack(inside)


def unpack_masks(words: torch.Tensor, width: int) -> torch.Tensor:
    """Bool masks (N, D, H, W) of words (N, D, H, ceil(W / 64))."""
    return unpack(words, width).contiguous()
