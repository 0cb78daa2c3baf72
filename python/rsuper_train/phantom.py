# SPDX-License-Identifier: Apache-2.0
"""A synthetic cohort on real anatomy: deformed copies of one CT with implanted lesions, and a report for each.

The lesion masks never travel with the cases: `make_cohort` returns the cases (CT, organ labels, report) and, apart from
them, the hidden truth. Training code takes cases only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from rsuper_kernels.geometry import complete_diameters, ellipsoid_volume
from rsuper_train.anatomy import ORGAN_LABELS, Anatomy, load_anatomy
from rsuper_train.reports.generator import PLACES, write_report
from rsuper_train.reports.schema import Attenuation, Tumour

FIELD_OF_VIEW = (24, 98, 118)
"""Voxels of a case, (D, H, W); each case is a random window of this size."""

ORGAN_SHARE = {"liver": 0.5, "spleen": 0.2, "right kidney": 0.15, "left kidney": 0.15}
LARGEST_MM = {"liver": 36.0, "spleen": 32.0, "right kidney": 27.0, "left kidney": 27.0}
SMALLEST_MM = 18.0
GAP_MM = 6.0  # least distance between two lesions
EDGE_MM = 1.0  # softness of a lesion's border
ATTENUATION: Attenuation = "hypo"
CONTRAST_HU = -55.0  # against the median of the organ
TEXTURE_HU = 30.0  # a lesion keeps the noise of the CT, not its calcifications or vessels


@dataclass(frozen=True)
class Case:
    """What a training set holds: no lesion mask. Arrays are (D, H, W), spacing in mm in the same order."""

    case_id: str
    ct: np.ndarray  # float32, HU
    labels: np.ndarray  # uint8, organ labels
    spacing: tuple[float, float, float]
    report: str


@dataclass(frozen=True)
class Truth:
    """What evaluation alone may see: lesion instances (0 = none, i = i-th tumour) and the tumours they are."""

    case_id: str
    instances: np.ndarray  # uint8 (D, H, W)
    tumours: tuple[Tumour, ...]

    @property
    def mask(self) -> np.ndarray:
        """All lesions together, bool (D, H, W)."""
        return self.instances > 0


def make_cohort(
    count: int, seed: int, anatomy: Anatomy | None = None, prefix: str = "case", lesions: tuple[int, int] = (0, 3)
) -> tuple[list[Case], list[Truth]]:
    """Make `count` cases with `lesions[0]` to `lesions[1]` lesions each; seed and prefix decide everything."""
    anatomy = anatomy or load_anatomy()
    pairs = [
        make_case(anatomy, np.random.default_rng([seed, number, *prefix.encode()]), f"{prefix}-{number:03d}", lesions)
        for number in range(count)
    ]
    return [case for case, _ in pairs], [truth for _, truth in pairs]


def make_case(
    anatomy: Anatomy, rng: np.random.Generator, case_id: str, lesions: tuple[int, int] = (0, 3)
) -> tuple[Case, Truth]:
    """Deform, crop and noise the anatomy, implant lesions and write the report."""
    ct, labels = _deform(anatomy, rng)
    ct += rng.normal(0.0, 6.0, ct.shape).astype(np.float32) + np.float32(rng.normal(0.0, 3.0))
    instances = np.zeros(labels.shape, np.uint8)
    tumours: list[Tumour] = []
    for _ in range(rng.integers(lesions[0], lesions[1] + 1)):
        if tumour := _implant(ct, labels, instances, anatomy.spacing, rng, number=len(tumours) + 1):
            tumours.append(tumour)
    wording = rng.spawn(1)[0]  # so that no change of the wording changes the images
    case = Case(case_id, ct, labels, anatomy.spacing, write_report(tumours, wording, case_id=case_id).text)
    return case, Truth(case_id, instances, tuple(tumours))


def _deform(anatomy: Anatomy, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A randomly cropped, rotated, scaled and elastically bent copy: CT (linear) and labels (nearest)."""
    slab, window = np.array(anatomy.ct.shape), np.array(FIELD_OF_VIEW)
    start = rng.uniform(0.0, slab - window)
    centre = (slab - 1) / 2.0
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in window], indexing="ij")).astype(np.float64)
    grid += (start - centre)[:, None, None, None]

    angle = np.deg2rad(rng.uniform(-7.0, 7.0))
    rotation = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    scale = np.array([1.0, *rng.uniform(0.93, 1.07, 2)])
    grid = np.einsum("ij,jdhw->idhw", rotation * scale, grid) + centre[:, None, None, None]

    for axis, amplitude in enumerate((0.5, 1.5, 1.5)):  # voxels
        grid[axis] += amplitude * _smooth_field(FIELD_OF_VIEW, rng)
    ct = ndimage.map_coordinates(anatomy.ct, grid, order=1, mode="nearest", output=np.float32)
    labels = ndimage.map_coordinates(anatomy.labels, grid, order=0, mode="nearest", output=np.uint8)
    return ct, labels


def _smooth_field(shape: tuple[int, ...], rng: np.random.Generator, step: float = 16.0) -> np.ndarray:
    """A smooth random field of unit variance, (D, H, W): Gaussian bumps on a lattice of `step` voxels."""
    bases = []
    for size in shape:
        nodes = np.arange(-step, size + step, step)
        bumps = np.exp(-0.5 * ((np.arange(size)[:, None] - nodes) / (0.75 * step)) ** 2)
        bases.append(bumps / np.linalg.norm(bumps, axis=1, keepdims=True))
    lattice = rng.normal(size=[basis.shape[1] for basis in bases])
    return np.einsum("abc,da,hb,wc->dhw", lattice, *bases, optimize=True)


def _implant(
    ct: np.ndarray,
    labels: np.ndarray,
    instances: np.ndarray,
    spacing: tuple[float, float, float],
    rng: np.random.Generator,
    number: int,
) -> Tumour | None:
    """Put one lesion into `ct` and `instances` (both changed in place); None when no organ has room for it."""
    name = str(rng.choice(list(ORGAN_SHARE), p=list(ORGAN_SHARE.values())))
    box = ndimage.find_objects((labels == ORGAN_LABELS[name]).astype(np.uint8))[0]
    organ, taken, local_ct = labels[box] == ORGAN_LABELS[name], instances[box], ct[box]
    diameters = _draw_diameters(rng, LARGEST_MM[name])
    if (found := _find_room(organ, taken > 0, spacing, diameters, rng)) is None:
        return None
    diameters, centre = found

    distance = _lesion_distance(organ.shape, centre, spacing, diameters, rng)
    voxels = round(ellipsoid_volume(diameters) / np.prod(spacing))
    outline = np.partition(distance[organ], voxels)[voxels]  # so that the volume is that of the diameters
    inside = organ & (distance < outline) & (taken == 0)
    radius = max(diameters) / 2
    softness = organ / (1.0 + np.exp(np.clip((distance - outline) * radius / EDGE_MM, -30, 30)))
    texture = np.clip(local_ct - ndimage.gaussian_filter(local_ct, 1.5), -TEXTURE_HU, TEXTURE_HU)
    lesion_hu = np.median(local_ct[organ & (taken == 0)]) + CONTRAST_HU + texture - np.median(texture[inside])
    local_ct += (softness * (lesion_hu - local_ct)).astype(np.float32)
    taken[inside] = number
    place = next(place for place in PLACES if str(place) == name)
    return Tumour(
        organ=place.organ,
        laterality=place.laterality,
        diameters=diameters,
        attenuation=ATTENUATION,
        certainty="certain",
    )


def _find_room(
    organ: np.ndarray,
    taken: np.ndarray,
    spacing: tuple[float, float, float],
    diameters: tuple[float, ...],
    rng: np.random.Generator,
) -> tuple[tuple[float, ...], np.ndarray] | None:
    """Diameters, shrunk to what the organ has room for and in whole mm, and a centre voxel; None if it has no room."""
    free = organ & (ndimage.distance_transform_edt(~taken, sampling=spacing) > GAP_MM)
    depth = ndimage.distance_transform_edt(np.pad(free, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    while not (room := np.argwhere(depth >= diameters[0] / 2)).size:
        diameters = tuple(0.9 * d for d in diameters)
        if diameters[0] < SMALLEST_MM:
            return None
    return tuple(float(round(d)) for d in diameters), room[rng.integers(len(room))]


def _draw_diameters(rng: np.random.Generator, largest: float) -> tuple[float, ...]:
    """One diameter (mm) for a round lesion, two for an oval one, the longer first."""
    longest = rng.uniform(SMALLEST_MM, largest)
    if rng.random() < 0.5:
        return (longest,)
    return (longest, max(longest * rng.uniform(0.7, 0.95), 15.0))


def _lesion_distance(
    shape: tuple[int, ...],
    centre: np.ndarray,
    spacing: tuple[float, float, float],
    diameters: tuple[float, ...],
    rng: np.random.Generator,
) -> np.ndarray:
    """Distance from the lesion's centre in units of its radius along each direction, (D, H, W); about 1 on the border.

    The two reported axes lie in the slice, turned by a random angle; the third points to the head. A few smooth waves
    make the border slightly irregular.
    """
    z, y, x = (
        (np.arange(n, dtype=np.float64) - c).reshape([-1 if a == axis else 1 for a in range(3)]) * s
        for axis, (n, c, s) in enumerate(zip(shape, centre, spacing, strict=True))
    )
    a, b, c = (d / 2 for d in complete_diameters(diameters))
    turn = rng.uniform(0, np.pi)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    distance = np.sqrt((u / a) ** 2 + (v / b) ** 2 + (z / c) ** 2)
    waves = sum(
        np.sin(np.tensordot(rng.normal(0, 1.5, 3), np.stack(np.broadcast_arrays(z / c, u / a, v / b)), 1) + phase)
        for phase in rng.uniform(0, 2 * np.pi, 4)
    )
    return distance * (1 + 0.04 * waves)
