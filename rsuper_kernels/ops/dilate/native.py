# SPDX-License-Identifier: Apache-2.0
"""Calls into the compiled module."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsuper_kernels import native
from rsuper_kernels.ops.dilate.reference import keep_apart


def dilate(
    words: torch.Tensor,
    width: int,
    runs: torch.Tensor,
    passes: Sequence[int],
    beside: Sequence[int] = (),
    beside_counts: Sequence[int] = (),
) -> torch.Tensor:
    """Binary dilation of bit masks on the CPU.

    Args:
        words: int64 (N, D, H, ceil(W / 64)), contiguous, on the CPU; see bits.py.
        width: W.
        runs: int32 (R, 3), contiguous, on the CPU. A row (dz, dy, half_width) stands for all offsets (dz, dy, dx)
            with |dx| <= half_width.
        passes: how many rows of `runs` each structuring element takes, in order; the elements are applied one after
            the other. No pass returns a copy, an empty pass an empty mask.
        beside, beside_counts: which masks each is kept apart from; see reference.py.

    Returns:
        Words of the same shape. Voxels outside the volume count as outside the mask.

    Raises:
        ImportError: the compiled module is not there; `native.available()` says why.
        ValueError: a tensor is not as described above, or `passes` does not add up to R, or a half width is negative.
    """
    _require("words", words, torch.int64, 4)
    _require("runs", runs, torch.int32, 2)
    if runs.shape[1] != 3:
        raise ValueError(f"runs: expected shape (R, 3), got {tuple(runs.shape)}")
    if min(passes, default=0) < 0 or sum(passes) != runs.shape[0]:
        raise ValueError(f"passes: {list(passes)} does not divide the {runs.shape[0]} rows of runs")
    out = native.empty(words.shape, torch.int64)
    native.module().dilate(
        words.data_ptr(),
        out.data_ptr(),
        *words.shape[:3],
        width,
        runs.data_ptr(),
        list(passes),
        threads=native.threads(),
    )
    return keep_apart(words, out, beside, beside_counts)


def _require(name: str, tensor: torch.Tensor, dtype: torch.dtype, ndim: int) -> None:
    good = tensor.dtype == dtype and tensor.ndim == ndim and tensor.device.type == "cpu" and tensor.is_contiguous()
    if not good:
        raise ValueError(
            f"{name}: expected a contiguous {ndim}-dimensional {dtype} tensor on the CPU, got {tensor.dtype} of shape "
            f"{tuple(tensor.shape)} and strides {tensor.stride()} on {tensor.device}"
        )
