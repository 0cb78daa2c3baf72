# SPDX-License-Identifier: Apache-2.0
"""Tables of the dilation's kernels."""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np

from rsuper_kernels.geometry import merged_runs


@lru_cache(maxsize=64)
def packed_runs(runs: bytes, passes: tuple[int, ...], volume: tuple[int, int, int]) -> tuple[tuple[int, ...], ...]:
    """Merged passes as the kernels read them: runs as half width, dz and dy in 32, 16 and 16 bits, the widest first.

    Runs that leave the volume from everywhere in it are left out.
    """
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
def ranges(counts: tuple[int, ...]) -> tuple[int, ...]:
    """Start and end in `beside` of each mask's rows; an end of -1 for a mask that stays as it is."""
    ends = list(itertools.accumulate(max(count, 0) for count in counts))
    pairs = [(0, -1) if count < 0 else (end - count, end) for count, end in zip(counts, ends, strict=True)]
    return tuple(itertools.chain.from_iterable(pairs))
