# SPDX-License-Identifier: Apache-2.0
"""The kernel in CUDA C++: one launch for all passes of an element that merge into one, as those of balls do."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from rsuper_kernels import gpu
from rsuper_kernels.geometry import merged_runs

_THREADS = 256


def dilate(
    words: torch.Tensor,
    width: int,
    runs: torch.Tensor,
    passes: Sequence[int],
    beside: Sequence[int],
    beside_counts: Sequence[int],
) -> torch.Tensor:
    """Words of the dilated masks (N, D, H, ceil(W / 64)); see reference.py."""
    masks = words = words.contiguous()
    depth, height = words.shape[1:3]
    *others, last = _packed(runs.numpy().tobytes(), tuple(passes), (depth, height, width))
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
        gpu.table(_ranges(tuple(beside_counts)), torch.int64, words.device),
        gpu.table(tuple(beside), torch.int64, words.device),
        len(beside_counts) > 0,
        depth,
        height,
        width,
    )
    return out


@lru_cache(maxsize=64)
def _packed(runs: bytes, passes: tuple[int, ...], volume: tuple[int, int, int]) -> tuple[tuple[int, ...], ...]:
    """Merged passes as csrc/cuda/dilate.cu reads them; without runs that leave the volume from everywhere in it."""
    depth, height, width = volume
    rows = np.frombuffer(runs, dtype=np.int32).reshape(-1, 3).tolist()
    packed = []
    for one in merged_runs(tuple(map(tuple, rows)), passes):
        inside = [
            (min(half_width, width - 1), dz, dy) for dz, dy, half_width in one if abs(dz) < depth and abs(dy) < height
        ]
        inside.sort(reverse=True)
        packed.append(tuple(half_width << 32 | (dz & 0xFFFF) << 16 | dy & 0xFFFF for half_width, dz, dy in inside))
    return tuple(packed)


@lru_cache(maxsize=256)
def _ranges(counts: tuple[int, ...]) -> tuple[int, ...]:
    """Start and end in `beside` of each mask's rows; an end of -1 for a mask that stays as it is."""
    ends = list(itertools.accumulate(max(count, 0) for count in counts))
    pairs = [(0, -1) if count < 0 else (end - count, end) for count, end in zip(counts, ends, strict=True)]
    return tuple(itertools.chain.from_iterable(pairs))
