# SPDX-License-Identifier: Apache-2.0
"""A pure phantom of the upper abdomen: deformed ellipsoids with sub-segments, distractors, and implanted lesions.

Lengths of the anatomy are fractions of half the field of view, along (D, H, W), from its centre to the head, to
anterior and to patient right; so small fields of view have small organs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy import ndimage

from rsuper_train.cohort.case import Case, Truth, tell
from rsuper_train.cohort.lesions import Look, Spacing, find_room, implant, smooth_field
from rsuper_train.reports.generator import PLACES
from rsuper_train.reports.masks import load_label_set
from rsuper_train.reports.schema import Place, Tumour

LABEL_SET = "abdomenatlas"
PHANTOM_PLACES = (*PLACES, Place(organ="pancreas"))
Attenuation = Literal["hypo", "iso", "hyper"]


@dataclass(frozen=True)
class PhantomOptions:
    """What phantoms are like.

    Args:
        extent: field of view, mm (D, H, W).
        spacing: of the voxels, mm (D, H, W).
        thickest: slices are thicker than `spacing` by a factor drawn for each case, from 1 to this.
        lesions: fewest and most lesions of a case; fewer where organs have no more room.
        diameters: smallest and largest longest diameter, mm; even in the logarithm, shrunk to what the organ has room for.
        attenuation: chances of hypo-, iso- and hyperattenuating lesions.
        contrast: least and greatest difference of the last two to the organ's median, HU.
        organs: chances of the places of lesions, in the order of PHANTOM_PLACES.
        named: chance that a report names the part of the organ, where the phantom has parts.
        deformation: standard deviation of the displacement of tissue, mm.
        noise: standard deviation of the noise, HU.
        texture: standard deviation of the organs' own unevenness, HU.
    """

    extent: Spacing = (144.0, 192.0, 240.0)
    spacing: Spacing = (3.0, 3.0, 3.0)
    thickest: float = 1.0
    lesions: tuple[int, int] = (0, 3)
    diameters: tuple[float, float] = (6.0, 60.0)
    attenuation: tuple[float, float, float] = (0.6, 0.1, 0.3)
    contrast: tuple[float, float] = (30.0, 70.0)
    organs: tuple[float, ...] = (0.4, 0.15, 0.13, 0.13, 0.19)
    named: float = 0.85
    deformation: float = 4.0
    noise: float = 10.0
    texture: float = 5.0


class _Shape(NamedTuple):
    """An ellipsoid; an infinite half axis makes it a tube."""

    group: str  # those of a group are moved and scaled together
    label: str  # class of the label set; "" is background; "=" keeps the label that is there
    hu: float
    centre: tuple[float, float, float]
    half: tuple[float, float, float]


_LONG = float("inf")
_CAVITY = _Shape("body", "", -95, (0, 0.03, 0), (_LONG, 0.74, 0.83))
_BODY = (
    _Shape("body", "", -105, (0, 0, 0), (_LONG, 0.93, 0.97)),
    _Shape("body", "", 55, (0, 0.02, 0), (_LONG, 0.81, 0.89)),
    _CAVITY,
)
# Later shapes lie over earlier ones. Where it says liver or pancreas, `_name_parts` and the three shapes name the parts.
_ORGANS = (
    _Shape("right lung", "lung_right", -850, (1.0, -0.02, 0.42), (0.46, 0.60, 0.36)),
    _Shape("left lung", "lung_left", -850, (1.0, -0.02, -0.42), (0.56, 0.60, 0.36)),
    _Shape("stomach", "stomach", 65, (0.40, 0.28, -0.42), (0.38, 0.30, 0.24)),
    _Shape("stomach", "stomach", 25, (0.40, 0.28, -0.42), (0.32, 0.24, 0.18)),
    _Shape("spleen", "spleen", 125, (0.32, -0.26, -0.60), (0.42, 0.34, 0.19)),
    _Shape("liver", "liver", 110, (0.22, 0.02, 0.42), (0.62, 0.62, 0.40)),
    _Shape("liver", "liver", 110, (0.34, 0.32, 0.06), (0.32, 0.30, 0.42)),
    _Shape("gallbladder", "gall_bladder", 8, (-0.12, 0.38, 0.34), (0.22, 0.15, 0.10)),
    _Shape("pancreas", "pancreas_tail", 95, (0.08, 0.00, -0.34), (0.17, 0.16, 0.19)),
    _Shape("pancreas", "pancreas_body", 95, (0.00, 0.14, -0.10), (0.17, 0.15, 0.20)),
    _Shape("pancreas", "pancreas_head", 95, (-0.10, 0.06, 0.15), (0.24, 0.19, 0.15)),
    _Shape("right kidney", "", -95, (-0.38, -0.34, 0.44), (0.50, 0.30, 0.23)),
    _Shape("right kidney", "kidney_right", 170, (-0.38, -0.34, 0.44), (0.42, 0.23, 0.18)),
    _Shape("right kidney", "=", 30, (-0.38, -0.32, 0.38), (0.18, 0.07, 0.07)),
    _Shape("left kidney", "", -95, (-0.26, -0.34, -0.44), (0.50, 0.30, 0.23)),
    _Shape("left kidney", "kidney_left", 170, (-0.26, -0.34, -0.44), (0.42, 0.23, 0.18)),
    _Shape("left kidney", "=", 30, (-0.26, -0.32, -0.38), (0.18, 0.07, 0.07)),
    _Shape("spine", "", 230, (0, -0.58, 0), (_LONG, 0.18, 0.15)),
    _Shape("aorta", "aorta", 165, (0, -0.30, -0.08), (_LONG, 0.09, 0.075)),
    _Shape("vena cava", "postcava", 145, (0, -0.27, 0.13), (_LONG, 0.09, 0.085)),
)
_CAUDATE = _Shape("liver", "liver_segment_1", 0, (0.32, -0.08, 0.18), (0.26, 0.20, 0.15))
_PARTS = {"liver": "liver_segment_", "pancreas": "pancreas_"}
_SOLID = ("spleen", "kidney_left", "kidney_right")


def make_phantom(options: PhantomOptions, rng: np.random.Generator, case_id: str) -> tuple[Case, Truth]:
    """Make one phantom; `rng` decides everything."""
    body = _Body(options, rng)
    ct, labels = body.ct, body.labels
    instances = np.zeros(labels.shape, np.uint8)
    tumours: list[Tumour] = []
    for _ in range(rng.integers(options.lesions[0], options.lesions[1] + 1)):
        if tumour := _add_lesion(body, instances, options, rng, number=len(tumours) + 1):
            tumours.append(tumour)
    return tell(case_id, ct, labels, body.spacing, instances, tumours, PHANTOM_PLACES, rng)


class _Body:
    """A phantom without lesions: `ct` (float32, HU) and `labels` (uint8), both (D, H, W), `spacing` in mm."""

    def __init__(self, options: PhantomOptions, rng: np.random.Generator) -> None:
        thick, height, width = options.spacing
        self.spacing = (thick * float(rng.uniform(1.0, options.thickest)), height, width)
        self.shape = tuple(round(size / step) for size, step in zip(options.extent, self.spacing, strict=True))
        self._rng = rng
        self._ids = load_label_set(LABEL_SET).ids
        self._groups: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        axes = [2.0 * (np.arange(n) + 0.5) / n - 1.0 for n in self.shape]
        self._grid = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
        for axis, extent in enumerate(options.extent):
            self._grid[axis] += options.deformation / (extent / 2) * self._field(40.0)
        self.ct = np.full(self.shape, -1000.0, np.float32)
        self.labels = np.zeros(self.shape, np.uint8)
        self._draw(options)

    def _draw(self, options: PhantomOptions) -> None:
        for shape in _BODY:
            self._paint(shape, self._inside(shape))
        cavity = self._inside(_CAVITY)
        self._add_bowel(cavity)
        vessels = self._field(30.0) ** 2 + self._field(30.0) ** 2 < 0.02
        self.ct[cavity & vessels] = 150.0
        phase = self._rng.normal(0.0, 10.0)
        shifts = {shape.group: phase + self._rng.normal(0.0, 6.0) for shape in _ORGANS}
        for shape in _ORGANS:
            self._paint(shape, self._inside(shape) & cavity, shifts[shape.group] if shape.hu > 50 else 0.0)
        self._name_segments()
        liver = self.organ("liver")
        self.ct[liver & vessels] += 40.0
        solid = liver | self.organ("pancreas") | np.isin(self.labels, [self._ids[name] for name in _SOLID])
        patches = self._field(9.0)
        self.ct += solid * (
            options.texture * self._field(7.0) + 20.0 * np.sign(patches) * np.maximum(abs(patches) - 1.7, 0)
        )
        self.ct = ndimage.gaussian_filter(self.ct, 1.5 / np.array(self.spacing))
        noise = ndimage.gaussian_filter(self._rng.normal(size=self.shape), 2.0 / np.array(self.spacing))
        self.ct += (options.noise / noise.std() * noise).astype(np.float32)

    def _add_bowel(self, cavity: np.ndarray) -> None:
        """Loops of soft tissue, fluid and gas between the organs."""
        loops = self._field(24.0)
        loops -= 4.0 * np.maximum(self._grid[0], 0.0)
        wall = cavity & (loops > 0.5)
        self.labels[wall] = self._ids["intestine"]
        self.ct[wall] = 60.0
        self.ct[wall & (loops > 0.8)] = 15.0
        self.ct[wall & (loops > 2.0)] = -600.0

    def _name_segments(self) -> None:
        """Liver segments by planes: two from front to back, one level between upper and lower, and the caudate."""
        liver = self.labels == self._ids["liver"]
        z, y, x = self._grid - self._group("liver")[0][:, None, None, None]
        upper = z > 0.24 + 0.1 * x
        lateral, medial = x < 0.03 + 0.1 * y, x < 0.28 + 0.15 * y
        pairs = [(lateral, 2, 3), (medial, 4, 4), (y > 0.02 - 0.2 * (x - 0.4), 8, 5), (np.True_, 7, 6)]
        number = np.select([where for where, _, _ in pairs], [np.where(upper, a, b) for _, a, b in pairs])
        number[self._inside(_CAUDATE)] = 1
        self.labels[liver] = self._ids["liver_segment_1"] - 1 + number[liver]

    def _field(self, step: float) -> np.ndarray:
        """A smooth random field over the volume with bumps of about `step` mm."""
        return smooth_field(self.shape, self._rng, tuple(step / size for size in self.spacing)).astype(np.float32)

    def _group(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Shift and scale of a group of shapes."""
        if name not in self._groups:
            self._groups[name] = (self._rng.normal(0.0, 0.02, 3), self._rng.uniform(0.9, 1.1, 3))
        return self._groups[name]

    def _inside(self, shape: _Shape) -> np.ndarray:
        shift, scale = self._group(shape.group)
        return sum(
            (
                (self._grid[axis] - np.float32(shape.centre[axis] + shift[axis]))
                / np.float32(shape.half[axis] * scale[axis])
            )
            ** 2
            for axis in range(3)
            if shape.half[axis] < _LONG
        ) < np.float32(1.0)

    def _paint(self, shape: _Shape, where: np.ndarray, shift: float = 0.0) -> None:
        self.ct[where] = shape.hu + shift
        if shape.label != "=":
            self.labels[where] = self._ids[shape.label] if shape.label else 0

    def parts(self, name: str) -> dict[int, str]:
        """Label id -> the vocabulary's name of a part of the organ; empty for one without parts."""
        prefix = _PARTS.get(name)
        named = {
            id: label.removeprefix(prefix) for label, id in self._ids.items() if prefix and label.startswith(prefix)
        }
        return {id: f"segment {part}" if part.isdigit() else part for id, part in named.items()}

    def organ(self, name: str) -> np.ndarray:
        """Its voxels, bool (D, H, W)."""
        return np.isin(self.labels, [*self.parts(name)] or [self._ids[name]])


def _add_lesion(
    body: _Body, instances: np.ndarray, options: PhantomOptions, rng: np.random.Generator, number: int
) -> Tumour | None:
    """Put one lesion into `body` and `instances`; None when the organ has no room for it.

    A lesion that fits into a part of the organ lies in one, a larger one in all parts that it reaches.
    """
    place = PHANTOM_PLACES[rng.choice(len(PHANTOM_PLACES), p=options.organs)]
    name = f"{place.organ}_{place.laterality}" if place.laterality else place.organ
    whole = body.organ(name)
    if not whole.any():
        return None
    box = ndimage.find_objects(whole.astype(np.uint8))[0]
    organ, labels, taken = whole[box], body.labels[box], instances[box] > 0
    diameters, parts = _draw_diameters(options, rng), body.parts(name)
    regions = [labels == part for part in rng.permutation(list(parts))[:3]]
    for region, smallest in [*((region, diameters[0]) for region in regions), (organ, options.diameters[0])]:
        if found := find_room(region, taken, body.spacing, diameters, smallest, rng):
            break
    else:
        return None
    attenuation, look = _draw_look(options, found[0], rng)
    lesion = implant(body.ct[box], organ, region, taken, body.spacing, *found, look, rng)
    instances[box][lesion] = number
    reached = [parts[id] for id in np.unique(labels[lesion]) if id in parts]
    return Tumour(
        organ=place.organ,
        laterality=place.laterality,
        subsegments=tuple(sorted(reached)) if len(reached) <= 4 and rng.random() < options.named else (),
        diameters=found[0],
        attenuation=attenuation,
        certainty="certain",
    )


def _draw_diameters(options: PhantomOptions, rng: np.random.Generator) -> tuple[float, ...]:
    """One diameter (mm) for a round lesion, two or three for an oval one, the longest first."""
    smallest, largest = options.diameters
    longest = float(np.exp(rng.uniform(np.log(smallest), np.log(largest))))
    others = sorted(rng.uniform(0.65, 0.95, rng.choice(3, p=(0.3, 0.5, 0.2))), reverse=True)
    return (longest, *(max(longest * float(share), smallest) for share in others))


def _draw_look(
    options: PhantomOptions, diameters: tuple[float, ...], rng: np.random.Generator
) -> tuple[Attenuation, Look]:
    """Contrast, rim and border; an isoattenuating lesion shows by its rim alone."""
    kinds: tuple[Attenuation, ...] = ("hypo", "iso", "hyper")
    kind = kinds[rng.choice(3, p=options.attenuation)]
    sign = {"hypo": -1.0, "iso": 0.0, "hyper": 1.0}[kind]
    contrast = sign * float(rng.uniform(*options.contrast)) + (0.0 if sign else float(rng.uniform(-4.0, 4.0)))
    edge = float(rng.uniform(0.05, 0.12)) * min(min(diameters), 20.0)
    return kind, Look(contrast, edge=edge, waves=0.06, rim=0.0 if sign else -25.0)
