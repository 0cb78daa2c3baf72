# SPDX-License-Identifier: Apache-2.0
"""A pure phantom of the upper abdomen: deformed ellipsoids with parts and distractors, implanted lesions, a report."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from rsuper_train.axes import Spacing
from rsuper_train.cohort.case import Anatomy, Case, Truth
from rsuper_train.cohort.lesions import LesionOptions, Organ, add_lesions, smooth_field
from rsuper_train.reports.masks import load_label_set
from rsuper_train.reports.schema import Place


@dataclass(frozen=True)
class PhantomOptions:
    """What phantoms are like.

    Args:
        extent: field of view, mm (D, H, W); the anatomy grows and shrinks with it.
        spacing: of the voxels, mm (D, H, W).
        thickest: slices are thicker than `spacing` by a factor drawn for each case, from 1 to this.
        deformation: standard deviation of the displacement of tissue, mm.
        noise: standard deviation of the noise, HU.
        texture: standard deviation of the organs' own unevenness, HU; bright and dark patches are a few times that.
        lesions: what lesions are like.
    """

    extent: Spacing = (144.0, 192.0, 240.0)
    spacing: Spacing = (3.0, 3.0, 3.0)
    thickest: float = 1.0
    deformation: float = 4.0
    noise: float = 10.0
    texture: float = 6.0
    lesions: LesionOptions = field(default_factory=LesionOptions)

    def __post_init__(self) -> None:
        coarsest = np.multiply(self.spacing, (self.thickest, 1.0, 1.0))
        if min(self.spacing) <= 0 or (16 * coarsest > self.extent).any():
            raise ValueError(f"spacing: expected mm above 0 and 16 voxels or more in {self.extent}, got {self.spacing}")
        if self.thickest < 1:
            raise ValueError(f"thickest: expected a factor from 1, got {self.thickest}")


class Shape(NamedTuple):
    """An ellipsoid. Lengths are fractions of half the field of view, (D, H, W), to head, anterior and patient right."""

    group: str  # those of a group are moved and scaled together
    label: str  # class of the label set; "" is background, "=" keeps what is there
    hu: float
    centre: tuple[float, float, float]  # from that of the field of view
    half: tuple[float, float, float]  # axes; an infinite one makes a tube


COLUMN = (3, 1, 1, 1)
FAT, ENHANCING = -95.0, 50.0
CAVITY = Shape("body", "", FAT, (0, 0.03, 0), (inf, 0.74, 0.83))
BODY = (
    Shape("body", "", -105, (0, 0, 0), (inf, 0.93, 0.97)),
    Shape("body", "", 55, (0, 0.02, 0), (inf, 0.81, 0.89)),
    CAVITY,
)
# later ones lie over earlier ones
SHAPES = (
    Shape("right lung", "", -850, (1.0, -0.02, 0.42), (0.46, 0.60, 0.36)),
    Shape("left lung", "", -850, (1.0, -0.02, -0.42), (0.56, 0.60, 0.36)),
    Shape("stomach", "stomach", 65, (0.40, 0.28, -0.42), (0.38, 0.30, 0.24)),
    Shape("stomach", "stomach", 25, (0.40, 0.28, -0.42), (0.32, 0.24, 0.18)),
    Shape("spleen", "spleen", 125, (0.32, -0.26, -0.60), (0.42, 0.34, 0.19)),
    Shape("liver", "liver", 110, (0.22, 0.02, 0.42), (0.62, 0.62, 0.40)),
    Shape("liver", "liver", 110, (0.34, 0.32, 0.06), (0.32, 0.30, 0.42)),
    Shape("gallbladder", "gall_bladder", 8, (-0.12, 0.38, 0.34), (0.22, 0.15, 0.10)),
    Shape("pancreas", "pancreas_tail", 95, (0.08, 0.00, -0.34), (0.17, 0.16, 0.19)),
    Shape("pancreas", "pancreas_body", 95, (0.00, 0.14, -0.10), (0.17, 0.15, 0.20)),
    Shape("pancreas", "pancreas_head", 95, (-0.10, 0.06, 0.15), (0.24, 0.19, 0.15)),
    Shape("right kidney", "", FAT, (-0.38, -0.34, 0.44), (0.50, 0.30, 0.23)),
    Shape("right kidney", "kidney_right", 170, (-0.38, -0.34, 0.44), (0.42, 0.23, 0.18)),
    Shape("right kidney", "=", 30, (-0.38, -0.32, 0.38), (0.18, 0.07, 0.07)),
    Shape("left kidney", "", FAT, (-0.26, -0.34, -0.44), (0.50, 0.30, 0.23)),
    Shape("left kidney", "kidney_left", 170, (-0.26, -0.34, -0.44), (0.42, 0.23, 0.18)),
    Shape("left kidney", "=", 30, (-0.26, -0.32, -0.38), (0.18, 0.07, 0.07)),
    Shape("spine", "", 230, (0, -0.58, 0), (inf, 0.18, 0.15)),
    Shape("aorta", "aorta", 165, (0, -0.30, -0.08), (inf, 0.09, 0.075)),
    Shape("vena cava", "postcava", 145, (0, -0.27, 0.13), (inf, 0.09, 0.085)),
)
CAUDATE = Shape("liver", "liver_segment_1", 110, (0.32, -0.08, 0.18), (0.26, 0.20, 0.15))

LABEL_SET = "abdomenatlas"
IDS = load_label_set(LABEL_SET).ids
ORGANS = (
    Organ(Place(organ="liver"), 0.4, {IDS[f"liver_segment_{n}"]: f"segment {n}" for n in range(1, 9)}),
    Organ(Place(organ="pancreas"), 0.2, {IDS[f"pancreas_{part}"]: part for part in ("head", "body", "tail")}),
    Organ(Place(organ="spleen"), 0.14, {IDS["spleen"]: ""}),
    Organ(Place(organ="kidney", laterality="right"), 0.13, {IDS["kidney_right"]: ""}),
    Organ(Place(organ="kidney", laterality="left"), 0.13, {IDS["kidney_left"]: ""}),
)


def make_phantom(options: PhantomOptions, rng: np.random.Generator, case_id: str) -> tuple[Case, Truth]:
    """Make one phantom; `rng` decides everything."""
    body = _Body(options, rng)
    body.draw()
    return add_lesions(Anatomy(body.ct, body.labels, body.spacing), ORGANS, options.lesions, rng, case_id)


class _Body:
    """A growing phantom: `ct` (float32, HU) and `labels` (uint8), both (D, H, W), and `spacing` in mm."""

    def __init__(self, options: PhantomOptions, rng: np.random.Generator) -> None:
        self._options, self._rng = options, rng
        thickness, height, width = options.spacing
        self.spacing = (round(thickness * rng.uniform(1.0, options.thickest), 3), height, width)
        self._shape = tuple(round(size / step) for size, step in zip(options.extent, self.spacing, strict=True))
        self.ct = np.full(self._shape, -1000.0, np.float32)
        self.labels = np.zeros(self._shape, np.uint8)
        axes = [2.0 * (np.arange(n, dtype=np.float32) + 0.5) / n - 1.0 for n in self._shape]
        self._grid = np.stack(np.meshgrid(*axes, indexing="ij"))
        for axis, extent in enumerate(options.extent):
            self._grid[axis] += 2.0 * options.deformation / extent * self._field(40.0)
        groups = dict.fromkeys(shape.group for shape in (*BODY, *SHAPES))
        self._moves = {name: (rng.normal(0.0, 0.02, COLUMN), rng.uniform(0.9, 1.1, COLUMN)) for name in groups}
        phase = rng.normal(0.0, 10.0)
        self._enhancement = {name: phase + rng.normal(0.0, 6.0) for name in groups}

    def draw(self) -> None:
        for shape in BODY:
            self._paint(shape)
        cavity = self._inside(CAVITY)
        vessels = self._field(30.0) ** 2 + self._field(30.0) ** 2 < 0.02
        self._add_bowel(cavity)
        self.ct[cavity & vessels] = 150.0
        for shape in SHAPES:
            self._paint(shape, cavity)
        liver = self.labels == IDS["liver"]
        self._name_segments(liver)
        self.ct[liver & vessels] += 40.0
        self._add_texture(np.isin(self.labels, [id for organ in ORGANS for id in organ.parts]))

    def _add_bowel(self, cavity: np.ndarray) -> None:
        """Loops of soft tissue, fluid and gas between the organs, fewer towards the head."""
        loops = self._field(24.0) - 4.0 * np.maximum(self._grid[0], 0.0)
        self.labels[cavity & (loops > 0.5)] = IDS["intestine"]
        for level, hu in ((0.5, 60.0), (0.8, 15.0), (2.0, -600.0)):
            self.ct[cavity & (loops > level)] = hu

    def _name_segments(self, liver: np.ndarray) -> None:
        """Liver segments by planes: the caudate, left lateral, left medial, right anterior and right posterior ones."""
        z, y, x = self._grid - np.float32(self._moves["liver"][0])
        upper = z > 0.24 + 0.1 * x
        sections = (
            (self._inside(CAUDATE), 1, 1),
            (x < 0.03 + 0.1 * y, 2, 3),
            (x < 0.28 + 0.15 * y, 4, 4),
            (y > 0.1 - 0.2 * x, 8, 5),
        )
        choices = [np.where(upper, above, below) for _, above, below in sections]
        number = np.select([where for where, _, _ in sections], choices, np.where(upper, 7, 6))
        self.labels[liver] = IDS["liver_segment_1"] - 1 + number[liver]

    def _add_texture(self, organs: np.ndarray) -> None:
        """Unevenness and patches of organs, the blur of the scanner, and its noise."""
        patches = self._field(9.0)
        patches = 5.0 * np.sign(patches) * np.maximum(abs(patches) - 1.5, 0.0)
        self.ct += self._options.texture * organs * (self._field(7.0) + patches)
        self.ct = ndimage.gaussian_filter(self.ct, 1.5 / np.array(self.spacing))
        noise = ndimage.gaussian_filter(self._rng.normal(size=self._shape), 2.0 / np.array(self.spacing))
        self.ct += (self._options.noise / noise.std() * noise).astype(np.float32)

    def _field(self, step: float) -> np.ndarray:
        """A smooth random field with bumps of about `step` mm."""
        return smooth_field(self._shape, [step / size for size in self.spacing], self._rng).astype(np.float32)

    def _inside(self, shape: Shape) -> np.ndarray:
        shift, scale = self._moves[shape.group]
        centre, half = np.reshape(shape.centre, COLUMN) + shift, np.reshape(shape.half, COLUMN) * scale
        local = (self._grid - np.float32(centre)) / np.float32(half)
        return (local**2).sum(0) < 1.0

    def _paint(self, shape: Shape, within: np.ndarray | None = None) -> None:
        where = self._inside(shape) if within is None else self._inside(shape) & within
        self.ct[where] = shape.hu + (self._enhancement[shape.group] if shape.hu > ENHANCING else 0.0)
        if shape.label != "=":
            self.labels[where] = IDS[shape.label] if shape.label else 0
