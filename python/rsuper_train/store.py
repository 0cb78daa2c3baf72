# SPDX-License-Identifier: Apache-2.0
"""Volumes on disk: chunked and compressed, so that a random crop reads and unpacks little more than itself.

Blosc2 with zstd on shuffled bytes: of what was measured (docs/training.md) the smallest, and among the fastest.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

SUFFIX = ".b2nd"
CHUNK = 64
"""Voxels along each axis of what is read from disk at once, at most."""
BLOCK = 32
"""Voxels along each axis of what is unpacked at once, at most."""
PACKING = {"codec": blosc2.Codec.ZSTD, "clevel": 1, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1}
# cases and crops are handled in processes of their own, where more threads would only compete
UNPACKING = {"nthreads": 1}


def write_volume(path: Path, volume: np.ndarray) -> str:
    """Write a volume (D, H, W); returns the SHA-256 of the file.

    Raises:
        OSError: the file cannot be written, or the disk is full; what was there before is lost.
    """
    chunks, blocks = (tuple(max(1, min(size, n)) for n in volume.shape) for size in (CHUNK, BLOCK))
    packed = blosc2.asarray(np.ascontiguousarray(volume), chunks=chunks, blocks=blocks, cparams=PACKING).to_cframe()
    path.write_bytes(packed)  # by Python, since Blosc2 does not say what the system's error was
    return hashlib.sha256(packed).hexdigest()


def open_volume(path: Path) -> Any:
    """A volume whose crops are read when it is sliced; `[...]` reads all of it.

    Raises:
        FileNotFoundError: there is no such file.
        RuntimeError: it is damaged.
    """
    return blosc2.open(str(path), mode="r", dparams=UNPACKING)
