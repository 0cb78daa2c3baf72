# SPDX-License-Identifier: Apache-2.0
"""Lesions implanted into a CT: where there is room, of the volume of their diameters, with a soft irregular border."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from rsuper_kernels.geometry import complete_diameters, ellipsoid_volume

Spacing = tuple[float, float, float]
Diameters = tuple[float, ...]

GAP_MM = 6.0  # least distance between two lesions
TEXTURE_HU = 30.0  # a lesion keeps the noise of the CT, not its calcifications or vessels
RIM_MM = 1.5


@dataclass(frozen=True)
class Look:
    """How a lesion differs from its organ.

    Args:
        contrast: HU against the organ's median.
        edge: softness of the border, mm.
        waves: how irregular the border is; 0 is an ellipsoid.
        rim: HU of a thin rim against the lesion, as of a capsule.
    """

    contrast: float
    edge: float = 1.0
    waves: float = 0.04
    rim: float = 0.0


def find_room(
    region: np.ndarray,
    taken: np.ndarray,
    spacing: Spacing,
    diameters: Diameters,
    smallest: float,
    rng: np.random.Generator,
) -> tuple[Diameters, np.ndarray] | None:
    """Diameters, shrunk to what the region has room for and in whole mm, and a centre voxel.

    Returns:
        None where the longest diameter would have to be below `smallest` (mm).
    """
    free = region & (ndimage.distance_transform_edt(~taken, sampling=spacing) > GAP_MM) if taken.any() else region
    depth = ndimage.distance_transform_edt(np.pad(free, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    while not (room := np.argwhere(depth >= diameters[0] / 2)).size:
        diameters = tuple(0.9 * d for d in diameters)
        if diameters[0] < smallest:
            return None
    return tuple(float(round(d)) for d in diameters), room[rng.integers(len(room))]


def implant(
    ct: np.ndarray,
    organ: np.ndarray,
    region: np.ndarray,
    taken: np.ndarray,
    spacing: Spacing,
    diameters: Diameters,
    centre: np.ndarray,
    look: Look,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw one lesion into `ct`, in place.

    Args:
        ct: HU (D, H, W).
        organ: bool; the organ, outside of which nothing changes.
        region: bool; the part of the organ that the lesion stays in.
        taken: bool; lesions that are there.
        spacing: mm (D, H, W).
        diameters: mm, the first two within the slice.
        centre: voxel.
        look: how it looks.
        rng: turns it and shapes its border.

    Returns:
        Its voxels, bool (D, H, W); their volume is that of the diameters' ellipsoid.
    """
    distance = _distance(organ.shape, centre, spacing, diameters, look.waves, rng)
    inside_region = distance[region]
    voxels = min(max(round(ellipsoid_volume(diameters) / np.prod(spacing)), 1), inside_region.size - 1)
    outline = np.partition(inside_region, voxels)[voxels]
    lesion = region & (distance < outline) & ~taken
    beyond = (distance - outline) * max(diameters) / 2
    softness = organ / (1.0 + np.exp(np.clip(beyond / look.edge, -30, 30)))
    texture = np.clip(ct - ndimage.gaussian_filter(ct, 1.5), -TEXTURE_HU, TEXTURE_HU)
    lesion_hu = np.median(ct[organ & ~taken]) + look.contrast + texture - np.median(texture[lesion])
    ct += (softness * (lesion_hu - ct)).astype(np.float32)
    if look.rim:
        ct += (look.rim * organ * np.exp(-((beyond / RIM_MM) ** 2))).astype(np.float32)
    return lesion


def _distance(
    shape: tuple[int, ...],
    centre: np.ndarray,
    spacing: Spacing,
    diameters: Diameters,
    waves: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Distance from the lesion's centre in units of its radius along each direction, (D, H, W); about 1 on the border.

    The two reported axes lie in the slice, turned by a random angle; the third points to the head. A few smooth waves
    make the border irregular.
    """
    z, y, x = (
        (np.arange(n, dtype=np.float64) - c).reshape([-1 if a == axis else 1 for a in range(3)]) * s
        for axis, (n, c, s) in enumerate(zip(shape, centre, spacing, strict=True))
    )
    a, b, c = (d / 2 for d in complete_diameters(diameters))
    turn = rng.uniform(0, np.pi)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    distance = np.sqrt((u / a) ** 2 + (v / b) ** 2 + (z / c) ** 2)
    wave = sum(
        np.sin(np.tensordot(rng.normal(0, 1.5, 3), np.stack(np.broadcast_arrays(z / c, u / a, v / b)), 1) + phase)
        for phase in rng.uniform(0, 2 * np.pi, 4)
    )
    return distance * (1 + waves * wave)


def smooth_field(
    shape: tuple[int, ...], rng: np.random.Generator, step: tuple[float, ...] = (16.0, 16.0, 16.0)
) -> np.ndarray:
    """A smooth random field of unit variance, (D, H, W): Gaussian bumps on a lattice of `step` voxels along each axis."""
    bases = []
    for size, pitch in zip(shape, step, strict=True):
        nodes = np.arange(-pitch, size + pitch, pitch)
        bumps = np.exp(-0.5 * ((np.arange(size)[:, None] - nodes) / (0.75 * pitch)) ** 2)
        bases.append(bumps / np.linalg.norm(bumps, axis=1, keepdims=True))
    lattice = rng.normal(size=[basis.shape[1] for basis in bases])
    return np.einsum("abc,da,hb,wc->dhw", lattice, *bases, optimize=True)
