# SPDX-License-Identifier: Apache-2.0
"""A synthetic cohort on real anatomy: deformed copies of one CT with implanted lesions, and a report for each.

The lesion masks never travel with the cases: `make_cohort` returns the cases (CT, organ labels, report) and, apart from
them, the hidden truth. Training code takes cases only.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from rsuper_train.cohort.anatomy import ORGAN_LABELS, Anatomy, load_anatomy
from rsuper_train.cohort.case import Case, Truth, tell
from rsuper_train.cohort.lesions import Look, find_room, implant, smooth_field
from rsuper_train.reports.generator import PLACES
from rsuper_train.reports.schema import Attenuation, Tumour

FIELD_OF_VIEW = (24, 98, 118)
"""Voxels of a case, (D, H, W); each case is a random window of this size."""

ORGAN_SHARE = {"liver": 0.5, "spleen": 0.2, "right kidney": 0.15, "left kidney": 0.15}
LARGEST_MM = {"liver": 36.0, "spleen": 32.0, "right kidney": 27.0, "left kidney": 27.0}
SMALLEST_MM = 18.0
ATTENUATION: Attenuation = "hypo"
CONTRAST_HU = -55.0  # against the median of the organ


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
        if tumour := _add_lesion(ct, labels, instances, anatomy.spacing, rng, number=len(tumours) + 1):
            tumours.append(tumour)
    return tell(case_id, ct, labels, anatomy.spacing, instances, tumours, PLACES, rng)


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
        grid[axis] += amplitude * smooth_field(FIELD_OF_VIEW, rng)
    ct = ndimage.map_coordinates(anatomy.ct, grid, order=1, mode="nearest", output=np.float32)
    labels = ndimage.map_coordinates(anatomy.labels, grid, order=0, mode="nearest", output=np.uint8)
    return ct, labels


def _add_lesion(
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
    organ, taken = labels[box] == ORGAN_LABELS[name], instances[box] > 0
    found = find_room(organ, taken, spacing, _draw_diameters(rng, LARGEST_MM[name]), SMALLEST_MM, rng)
    if found is None:
        return None
    lesion = implant(ct[box], organ, organ, taken, spacing, *found, Look(CONTRAST_HU), rng)
    instances[box][lesion] = number
    place = next(place for place in PLACES if str(place) == name)
    return Tumour(
        organ=place.organ,
        laterality=place.laterality,
        diameters=found[0],
        attenuation=ATTENUATION,
        certainty="certain",
    )


def _draw_diameters(rng: np.random.Generator, largest: float) -> tuple[float, ...]:
    """One diameter (mm) for a round lesion, two for an oval one, the longer first."""
    longest = rng.uniform(SMALLEST_MM, largest)
    if rng.random() < 0.5:
        return (longest,)
    return (longest, max(longest * rng.uniform(0.7, 0.95), 15.0))
