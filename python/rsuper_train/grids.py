# SPDX-License-Identifier: Apache-2.0
"""From the spacing of a file to that of prepared arrays, (D, H, W), and back."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from rsuper_train.axes import Spacing, Voxels
from rsuper_train.manifest import CaseRecord
from rsuper_train.nifti import from_axes, grid_of

SAME = 0.1
"""Voxels by which two grids may differ at the far end of a volume without being resampled."""


def shape_at(shape: Voxels, spacing: Spacing, target: Spacing) -> Voxels:
    """Voxels of the spacing `target` that cover a volume, to half a voxel; at least one."""
    d, h, w = (max(1, round(n * step / new)) for n, step, new in zip(shape, spacing, target, strict=True))
    return d, h, w


def resample(
    volume: np.ndarray, spacing: Spacing, target: Spacing, shape: Voxels, order: int, average: bool = True
) -> np.ndarray:
    """A volume (D, H, W) on a grid of `shape` with the same centre.

    Args:
        volume: any number type; that of the result is the same, rounded where it is an integer. What is linear in a
            bool volume is float32.
        spacing: mm of its voxels.
        target: mm of the new ones.
        shape: see `shape_at`.
        order: 0 takes the nearest voxel; 1 interpolates linearly.
        average: where the new voxels are larger, linear values are means over them, not those at their centres.
    """
    steps = [new / old for old, new in zip(spacing, target, strict=True)]
    axes = [_weights(n, m, step, order, average) for n, m, step in zip(volume.shape, shape, steps, strict=True)]
    if all(weights is None for weights in axes):
        return volume
    if order == 0:
        for axis, weights in enumerate(axes):
            if weights is not None:
                volume = volume.take(weights.indices, axis)
        return volume
    d, h, w = (csr_array(np.eye(n, dtype=np.float32)) if a is None else a for a, n in zip(axes, shape, strict=True))
    planes = np.zeros((len(volume), *shape[1:]), np.float32)
    for number, plane in enumerate(volume):
        if plane.any():
            planes[number] = (w @ (h @ plane.astype(np.float32)).T).T
    result = np.zeros(shape, np.float32 if volume.dtype == bool else volume.dtype)
    for row in range(shape[1]):
        if planes[:, row].any():
            values = d @ planes[:, row]
            result[:, row] = np.rint(values) if result.dtype.kind in "iu" else values
    return result


def to_source_grid(volume: np.ndarray, record: CaseRecord, order: int) -> np.ndarray:
    """A volume (D, H, W) of a prepared case on the grid of its CT's file.

    Args:
        volume: any number type, which stays.
        record: of the case.
        order: as in `resample`; 0 for masks and label maps, 1 for probabilities.

    Returns:
        with the axes and shape of the file, so that it lies right under the affine `record.source.affine`.

    Raises:
        ValueError: the volume is not of the case's shape.
    """
    if volume.shape != record.shape:
        raise ValueError(f"{record.id}: expected a volume of {record.shape}, got {volume.shape}")
    affine = np.array(record.source.affine)
    grid = grid_of(record.source.shape, affine)
    # without averages: with them, probabilities of small lesions sink below a threshold where slices are thick
    return from_axes(resample(volume, record.spacing, grid.spacing, grid.shape, order, average=False), affine)


def _weights(n: int, m: int, step: float, order: int, average: bool) -> csr_array | None:
    """Weights (m, n) of n voxels in m others that are `step` times as far apart; None where the grids are the same."""
    if n == m and abs(step - 1) * n < SAME:
        return None
    centres = (np.arange(m) - (m - 1) / 2) * step + (n - 1) / 2
    if order == 0:
        near = np.clip(np.floor(centres + 0.5).astype(int), 0, n - 1)
        return csr_array((np.ones(m, np.float32), near, np.arange(m + 1)), (m, n))
    reach = max(step, 1.0) if average else 1.0
    index = np.ceil(centres - reach)[:, None] + np.arange(int(2 * reach) + 1)
    weights = np.maximum(1 - np.abs(index - centres[:, None]) / reach, 0).astype(np.float32)
    weights /= weights.sum(1, keepdims=True)
    rows = np.repeat(np.arange(m), index.shape[1])
    return csr_array((weights.ravel(), (rows, np.clip(index, 0, n - 1).astype(int).ravel())), (m, n))
