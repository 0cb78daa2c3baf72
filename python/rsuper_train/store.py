# SPDX-License-Identifier: Apache-2.0
"""Volumes on disk: chunked and compressed, so that a random crop reads and unpacks little more than itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import blosc2
import numpy as np

SUFFIX = ".b2nd"
CHUNK = 64
FILTERS = {"shuffle": [blosc2.Filter.SHUFFLE], "bitshuffle": [blosc2.Filter.BITSHUFFLE]}
"""Voxels along each axis of a chunk."""


def write_volume(path: Path, volume: np.ndarray) -> None:
    """Write a volume (D, H, W)."""
    chunks = tuple(min(CHUNK, size) for size in volume.shape)
    blosc2.asarray(np.ascontiguousarray(volume), urlpath=str(path), mode="w", chunks=chunks)


def open_volume(path: Path) -> Any:
    """A volume whose crops are read when it is sliced; `[...]` reads all of it."""
    return blosc2.open(str(path), mode="r")
