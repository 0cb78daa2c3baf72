# SPDX-License-Identifier: Apache-2.0
"""Bool masks (D, H, W): boxes, components, distances."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from rsuper_train.axes import Spacing

BLOCK = 32
"""Slices whose distances to a mask are held at a time: they take thirty times its memory."""


def box_of(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that holds the mask; of no extent for an empty one."""
    spans = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return tuple(slice(int(span[0]), int(span[-1]) + 1) if len(span) else slice(0) for span in spans)


def label(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Components, 26 neighbours, and the voxels of each by its number; those of the background, 0, count as 0."""
    components, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    sizes[0] = 0
    return components, sizes


def component_volumes(mask: np.ndarray, voxel: float) -> np.ndarray:
    """Volumes of the components, after a 0; `voxel` is that of one voxel."""
    return label(mask[box_of(mask)])[1] * voxel


def drop_small(mask: np.ndarray, smallest: float, voxel: float) -> None:
    """Remove components of less than a volume, in place; `voxel` is the volume of one voxel."""
    if smallest > voxel:
        inside = mask[box_of(mask)]
        components, sizes = label(inside)
        inside &= (sizes * voxel >= smallest)[components]


def near(mask: np.ndarray, distance: float, spacing: Spacing) -> np.ndarray:
    """Voxels within `distance` mm of a mask (D, H, W), its own included."""
    result, reach = np.zeros_like(mask), math.ceil(distance / spacing[0])
    for start in range(0, len(mask), BLOCK):
        low = max(start - reach, 0)
        block = mask[low : start + BLOCK + reach]
        if block.any():
            found = ndimage.distance_transform_edt(~block, sampling=spacing)[start - low :][:BLOCK]
            result[start : start + BLOCK] = found <= distance * (1 + 1e-6)
    return result
