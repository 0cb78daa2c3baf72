# SPDX-License-Identifier: Apache-2.0
"""Lesions implanted into an anatomy: where there is room, of the volume of their diameters, soft at the border."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from rsuper_kernels.geometry import complete_diameters, ellipsoid_volume
from rsuper_train.axes import Spacing
from rsuper_train.cohort.case import Anatomy, Case, Truth
from rsuper_train.reports.generator import write_report
from rsuper_train.reports.schema import Attenuation, Place, Tumour

Diameters = tuple[float, ...]

GAP_MM = 6.0  # least distance between two lesions
TEXTURE_HU = 30.0  # a lesion keeps the noise of the CT, not its calcifications or vessels
RIM_HU, RIM_MM = -25.0, 1.5  # around isoattenuating lesions, which show by it alone
WAVES = 0.06  # of the border
MOST_PARTS = 4  # a report of a lesion in more parts names the organ alone
KINDS: tuple[tuple[Attenuation, float], ...] = (("hypo", -1.0), ("iso", 0.0), ("hyper", 1.0))


@dataclass(frozen=True)
class LesionOptions:
    """What lesions are like.

    Args:
        count: fewest and most in a case; fewer where organs have no more room.
        diameters: least and greatest longest diameter, mm; even in the logarithm, shrunk where there is no room.
        attenuation: chances of hypo-, iso- and hyperattenuating ones.
        contrast: least and greatest difference of hypo- and hyperattenuating ones to the organ's median, HU.
        named: chance that the report names the part of the organ.
    """

    count: tuple[int, int] = (0, 3)
    diameters: tuple[float, float] = (6.0, 60.0)
    attenuation: tuple[float, float, float] = (0.6, 0.1, 0.3)
    contrast: tuple[float, float] = (30.0, 70.0)
    named: float = 0.85

    def __post_init__(self) -> None:
        for name, (low, high) in (("count", self.count), ("diameters", self.diameters), ("contrast", self.contrast)):
            if not 0 <= low <= high or (name == "diameters" and low < 1):
                raise ValueError(f"{name}: expected the least and the greatest, got {low} and {high}")
        if min(self.attenuation) < 0 or abs(sum(self.attenuation) - 1) > 1e-6:
            raise ValueError(f"attenuation: expected three chances that add up to 1, got {self.attenuation}")


class Organ(NamedTuple):
    """Where lesions occur: the organ or side that reports name, its share of lesions, and label id -> part of it."""

    place: Place
    share: float
    parts: dict[int, str]  # one id named "" for an organ without parts


def add_lesions(
    anatomy: Anatomy, organs: Sequence[Organ], options: LesionOptions, rng: np.random.Generator, case_id: str
) -> tuple[Case, Truth]:
    """Implant lesions into the CT of `anatomy`, in place, and write the report, which calls the other organs normal."""
    instances = np.zeros(anatomy.labels.shape, np.uint8)
    tumours: list[Tumour] = []
    for _ in range(rng.integers(options.count[0], options.count[1] + 1)):
        organ = organs[rng.choice(len(organs), p=[organ.share for organ in organs])]
        if tumour := _add_lesion(anatomy, organ, instances, options, rng, number=len(tumours) + 1):
            tumours.append(tumour)
    wording = rng.spawn(1)[0]  # so that no change of the wording changes the images
    written = write_report(tumours, wording, [organ.place for organ in organs], case_id=case_id)
    case = Case(anatomy.ct, anatomy.labels, anatomy.spacing, case_id, written.text)
    return case, Truth(instances, tuple(tumours), written.report)


def _add_lesion(
    anatomy: Anatomy, organ: Organ, instances: np.ndarray, options: LesionOptions, rng: np.random.Generator, number: int
) -> Tumour | None:
    """Put one lesion into the CT and `instances`; None when the organ has no room for it."""
    whole = np.isin(anatomy.labels, list(organ.parts))
    if not whole.any():
        return None
    box = ndimage.find_objects(whole.astype(np.uint8))[0]
    whole, labels, taken = whole[box], anatomy.labels[box], instances[box] > 0
    wanted = _draw_diameters(options, rng)
    for region, smallest in _regions(whole, labels, organ, wanted[0], options, rng):
        if found := _find_room(region, taken, anatomy.spacing, wanted, smallest, rng):
            break
    else:
        return None
    diameters, centre, free = found
    lesion, beyond = _shape(free, centre, anatomy.spacing, diameters, rng)
    attenuation, sign = KINDS[rng.choice(3, p=options.attenuation)]
    edge = rng.uniform(0.05, 0.12) * min(*diameters, 20.0)
    _draw(anatomy.ct[box], whole, taken, lesion, beyond / edge, sign * rng.uniform(*options.contrast))
    if sign == 0:
        anatomy.ct[box] += RIM_HU * whole * np.exp(-((beyond / RIM_MM - 1.0) ** 2))
    instances[box][lesion] = number
    reached = tuple(part for id, part in organ.parts.items() if part and (labels[lesion] == id).any())
    return Tumour(
        **organ.place.model_dump(exclude={"subsegments"}),
        subsegments=reached if len(reached) <= MOST_PARTS and rng.random() < options.named else (),
        diameters=diameters,
        attenuation=attenuation,
        certainty="certain",
    )


def _draw_diameters(options: LesionOptions, rng: np.random.Generator) -> Diameters:
    """One diameter (mm) for a round lesion, two or three for an oval one, the longest first."""
    longest = np.exp(rng.uniform(*np.log(options.diameters)))
    others = np.sort(rng.uniform(0.65, 0.95, rng.choice(3, p=(0.3, 0.5, 0.2))))[::-1]
    return tuple(max(float(longest * share), options.diameters[0]) for share in (1.0, *others))


def _regions(
    whole: np.ndarray, labels: np.ndarray, organ: Organ, wanted: float, options: LesionOptions, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, float]]:
    """Where to look for room, and the least diameter there: some parts at full size, then the organ at any."""
    if len(organ.parts) > 1:
        for part in rng.permutation(list(organ.parts))[:3]:
            yield labels == part, wanted
    yield whole, options.diameters[0]


def _find_room(
    region: np.ndarray,
    taken: np.ndarray,
    spacing: Spacing,
    wanted: Diameters,
    smallest: float,
    rng: np.random.Generator,
) -> tuple[Diameters, np.ndarray, np.ndarray] | None:
    """Diameters, shrunk to what there is room for and in whole mm, a centre voxel, and the room around it.

    None where the longest diameter would be below `smallest` (mm).
    """
    free = region & (ndimage.distance_transform_edt(~taken, sampling=spacing) > GAP_MM) if taken.any() else region
    depth = ndimage.distance_transform_edt(np.pad(free, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    while not (room := np.argwhere(depth >= wanted[0] / 2)).size:
        wanted = tuple(0.9 * d for d in wanted)
        if wanted[0] < smallest:
            return None
    return tuple(float(round(d)) for d in wanted), room[rng.integers(len(room))], free


def _shape(
    free: np.ndarray, centre: np.ndarray, spacing: Spacing, diameters: Diameters, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The voxels of a lesion within `free`, and how far each voxel is beyond its border, about, in mm; (D, H, W).

    The first two axes lie in the slice, turned by a random angle; the third points to the head. A few smooth waves make
    the border irregular; the volume is that of the diameters.
    """
    z, y, x = (np.indices(free.shape) - centre.reshape(3, 1, 1, 1)) * np.reshape(spacing, (3, 1, 1, 1))
    a, b, c = (d / 2 for d in complete_diameters(diameters))
    turn = rng.uniform(0, np.pi)
    local = np.stack([z / c, (x * np.cos(turn) + y * np.sin(turn)) / a, (y * np.cos(turn) - x * np.sin(turn)) / b])
    waves = [np.sin(np.tensordot(rng.normal(0, 1.5, 3), local, 1) + phase) for phase in rng.uniform(0, 2 * np.pi, 4)]
    distance = np.sqrt((local**2).sum(0)) * (1 + WAVES * np.sum(waves, axis=0))
    inside = np.sort(distance[free])
    voxels = max(round(ellipsoid_volume(diameters) / np.prod(spacing)), 1)
    border = inside[min(voxels, inside.size) - 1]
    return free & (distance <= border), (distance - border) * max(diameters) / 2


def _draw(
    ct: np.ndarray, organ: np.ndarray, taken: np.ndarray, lesion: np.ndarray, beyond: np.ndarray, contrast: float
) -> None:
    """Draw a lesion of that contrast (HU) into `ct`; `beyond` is the distance from its border, over its softness."""
    softness = organ / (1.0 + np.exp(np.clip(beyond, -30, 30)))
    texture = np.clip(ct - ndimage.gaussian_filter(ct, 1.5), -TEXTURE_HU, TEXTURE_HU)
    wanted = np.median(ct[organ & ~taken]) + contrast + texture - np.median(texture[lesion])
    ct += softness * (wanted - ct)


def smooth_field(shape: tuple[int, ...], steps: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """A smooth random field of unit variance, (D, H, W): Gaussian bumps on a lattice of `steps` voxels."""
    bases = []
    for size, step in zip(shape, steps, strict=True):
        nodes = np.arange(-step, size + step, step)
        bumps = np.exp(-0.5 * ((np.arange(size)[:, None] - nodes) / (0.75 * step)) ** 2)
        bases.append(bumps / np.linalg.norm(bumps, axis=1, keepdims=True))
    lattice = rng.normal(size=[basis.shape[1] for basis in bases])
    return np.einsum("abc,da,hb,wc->dhw", lattice, *bases, optimize=True)
