# SPDX-License-Identifier: Apache-2.0
"""Calls into the compiled module."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsuper_kernels import native
from rsuper_kernels.bits import words_per_row
from rsuper_kernels.tables import split


def pack_masks(masks: torch.Tensor, planes: Sequence[int], counts: Sequence[int]) -> torch.Tensor:
    """Words (G, D, H, ceil(W / 64)) of unions of masks; see reference.py."""
    masks = native.readable(masks if native.reads(masks.dtype) else masks != 0)  # float32 would lose 1e-300
    out = native.empty((len(counts), *masks.shape[1:3], words_per_row(masks.shape[3])), torch.int64)
    native.module().pack_masks(
        native.address(masks), masks.shape[1:], split(planes, counts), out.data_ptr(), native.threads()
    )
    return out


def pack_labels(labels: torch.Tensor, sample: Sequence[int], ids: Sequence[int], counts: Sequence[int]) -> torch.Tensor:
    """Words (G, D, H, ceil(W / 64)) of the groups' label ids; see reference.py."""
    labels = native.readable(labels)
    out = native.empty((len(sample), *labels.shape[1:3], words_per_row(labels.shape[3])), torch.int64)
    native.module().pack_labels(
        native.address(labels),
        labels.shape[1:],
        list(sample),
        split(ids, counts),
        out.data_ptr(),
        native.threads(),
    )
    return out


def unpack_masks(words: torch.Tensor, width: int) -> torch.Tensor:
    """Bool masks (N, D, H, W); see reference.py."""
    words = words.contiguous()
    out = native.empty((*words.shape[:3], width), torch.bool)
    native.module().unpack_masks(words.data_ptr(), words.shape[:3].numel(), width, out.data_ptr(), native.threads())
    return out
