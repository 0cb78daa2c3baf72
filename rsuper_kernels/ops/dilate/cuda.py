# SPDX-License-Identifier: Apache-2.0
"""The kernel in CUDA C++: one launch for all passes of an element that merge into one, as those of balls do."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsuper_kernels import gpu
from rsuper_kernels.ops.dilate.tables import packed_runs, ranges

_THREADS = 256


def dilate(
    words: torch.Tensor,
    width: int,
    runs: torch.Tensor,
    passes: Sequence[int],
    beside: Sequence[int] = (),
    beside_counts: Sequence[int] = (),
) -> torch.Tensor:
    """Words of the dilated masks (N, D, H, ceil(W / 64)); see reference.py."""
    masks = words = words.contiguous()
    depth, height = words.shape[1:3]
    *others, last = packed_runs(runs.numpy().tobytes(), tuple(passes), (depth, height, width))
    for one in others:
        words = _launch(words, masks, width, one, (), ())
    return _launch(words, masks, width, last, beside, beside_counts)


def _launch(
    words: torch.Tensor,
    masks: torch.Tensor,
    width: int,
    packed: tuple[int, ...],
    beside: Sequence[int],
    beside_counts: Sequence[int],
) -> torch.Tensor:
    count, depth, height, row_words = words.shape
    out = torch.empty_like(words)
    blocks = -(-depth * height * row_words // _THREADS)
    gpu.launch_cuda(
        "dilate",
        "dilate",
        (blocks, count),
        _THREADS,
        words,
        masks,
        out,
        gpu.table(packed, torch.int64, words.device),
        len(packed),
        gpu.table(ranges(tuple(beside_counts)), torch.int64, words.device),
        gpu.table(tuple(beside), torch.int64, words.device),
        len(beside_counts) > 0,
        depth,
        height,
        width,
    )
    return out
