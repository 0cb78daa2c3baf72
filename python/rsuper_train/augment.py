# SPDX-License-Identifier: Apache-2.0
"""Random changes of a crop: turns, which labels and reported sizes follow, and intensities, which they do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from monai.transforms import AdjustContrast, GaussianSmooth, RandSimulateLowResolution
from scipy import ndimage
from scipy.spatial.transform import Rotation

from rsuper_kernels import Findings, Tumour
from rsuper_kernels.findings import LARGEST_DIAMETER
from rsuper_train.axes import Box, Spacing, Voxels
from rsuper_train.config import Augmentation, Input
from rsuper_train.inputs import CT_LIKE

T = TypeVar("T")


@dataclass(frozen=True)
class Turn:
    """How a crop is turned.

    Args:
        matrix: rotation times scale, in mm, from the volume to the crop; None: neither.
        transpose: whether H and W are exchanged, after that.
        flip: axes that are mirrored, after that.
    """

    matrix: np.ndarray | None = None
    transpose: bool = False
    flip: tuple[int, ...] = ()

    def exchange(self, axes: tuple[T, T, T]) -> tuple[T, T, T]:
        """Sizes or spacings along D, H and W, with H and W exchanged where they are."""
        depth, height, width = axes
        return (depth, width, height) if self.transpose else axes

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Exchange and mirror the last three axes."""
        if self.transpose:
            values = values.swapaxes(-1, -2)
        return np.flip(values, tuple(axis - 3 for axis in self.flip)).copy()


def draw_turn(settings: Augmentation, rng: np.random.Generator) -> Turn:
    flip = tuple(axis for axis, name in enumerate("DHW") if name in settings.flip and rng.random() < 0.5)
    transpose = settings.transpose and rng.random() < 0.5
    if rng.random() >= settings.affine:
        return Turn(None, transpose, flip)
    angles = rng.uniform(-1, 1, 3) * settings.rotation
    matrix = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * rng.uniform(*settings.scale)
    return Turn(matrix, transpose, flip)


@dataclass(frozen=True)
class Crop:
    """Where a patch lies in a volume.

    Args:
        size: of the patch, in voxels.
        middle: voxel coordinates in the volume of the patch's middle.
        matrix: from offsets to the middle in the volume to those in the patch, in voxels; None: they are the same.
    """

    size: Voxels
    middle: np.ndarray
    matrix: np.ndarray | None = None

    @classmethod
    def at(cls, start: Sequence[int], size: Voxels) -> Crop:
        return cls(size, np.add(start, _half(size)))

    def turned(self, matrix: np.ndarray | None, spacing: Spacing, box: Box | None) -> Crop:
        """The crop turned about its middle, and moved as little as brings all of the box into it.

        Args:
            matrix: that of a Turn.
            spacing: of the volume, mm.
            box: what has to be in the crop; where it no longer fits, the crop is not turned. None: nothing has to.
        """
        if matrix is None:
            return self
        matrix = matrix * spacing / np.reshape(spacing, (3, 1))
        middle = self.middle
        if box is not None:
            first, end = np.transpose(box)
            box_middle, box_reach = matrix @ (first + end - 1) / 2, np.abs(matrix) @ (end - 1 - first) / 2
            least, most = box_middle + box_reach - _half(self.size), box_middle - box_reach + _half(self.size)
            if (least > most).any():
                return self
            middle = np.linalg.solve(matrix, np.clip(matrix @ middle, least, most))
        return Crop(self.size, middle, matrix)

    @property
    def scale(self) -> float:
        """Factor of all lengths in the crop."""
        return 1.0 if self.matrix is None else float(np.cbrt(np.linalg.det(self.matrix)))

    @property
    def box(self) -> Box:
        """The part of the volume that it is made of, which may reach beyond the volume."""
        reach = _half(self.size) if self.matrix is None else np.abs(np.linalg.inv(self.matrix)) @ _half(self.size)
        first, last = np.floor(self.middle - reach), np.ceil(self.middle + reach)
        return tuple((int(a), int(b) + 1) for a, b in zip(first, last, strict=True))  # type: ignore[return-value]

    def inside(self) -> np.ndarray | None:
        """Which voxels of `box` end up in the crop; None: all."""
        if self.matrix is None:
            return None
        steps = [np.arange(*edge) - middle for edge, middle in zip(self.box, self.middle, strict=True)]
        inside = np.ones([len(step) for step in steps], bool)
        for row, half in zip(self.matrix.astype(np.float32), _half(self.size), strict=True):
            depth, height, width = (factor * step.astype(np.float32) for factor, step in zip(row, steps, strict=True))
            inside &= np.abs(depth[:, None, None] + (height[:, None] + width)) <= half + 0.5
        return inside

    def resample(self, values: np.ndarray, order: int) -> np.ndarray:
        """The crop of `box`'s values, by the nearest voxel (order 0) or linear (1)."""
        if self.matrix is None:
            return values
        # the same values as MONAI's AffineTransform, faster, and labels stay integers
        inverse, first = np.linalg.inv(self.matrix), np.array(self.box)[:, 0]
        offset = self.middle - first - inverse @ _half(self.size)
        return ndimage.affine_transform(values, inverse, offset, self.size, order=order, mode="nearest")


def _half(size: Voxels) -> np.ndarray:
    """From the first voxel to the middle."""
    return (np.array(size) - 1) / 2


def scale_findings(findings: Findings, scale: float) -> Findings:
    """Findings in a crop whose lengths are scaled: diameters are, and volumes by the cube."""
    if scale == 1:
        return findings
    groups = [
        replace(group, tumours=tuple(_scaled(tumour, scale) for tumour in group.tumours)) for group in findings.groups
    ]
    return replace(findings, groups=groups)


def _scaled(tumour: Tumour, scale: float) -> Tumour:
    if tumour.diameters is None or tumour.volume is None:
        return tumour
    diameters = tuple(min(scale * diameter, LARGEST_DIAMETER) for diameter in tumour.diameters)
    return Tumour(diameters, scale**3 * tumour.volume, tumour.attenuation)


def change_intensities(
    image: np.ndarray, inputs: Sequence[Input], settings: Augmentation, rng: np.random.Generator
) -> None:
    """Change, in place and all alike, the channels of an image (C, D, H, W) that are a CT; `inputs` names them."""
    changes: list[Callable[[torch.Tensor], torch.Tensor]] = []
    if rng.random() < settings.noise:
        noise = torch.from_numpy(rng.standard_normal(image.shape[1:], dtype=np.float32))
        changes.append(partial(torch.add, other=noise, alpha=rng.uniform(*settings.noise_sd)))
    if rng.random() < settings.blur:
        changes.append(GaussianSmooth(rng.uniform(*settings.blur_sigma)))
    if rng.random() < settings.brightness:
        factor, shift = rng.uniform(*settings.brightness_factor), rng.uniform(*settings.brightness_shift)
        changes.append(lambda values: values * factor + shift)
    if rng.random() < settings.low_resolution:
        zoom = rng.uniform(*settings.low_resolution_zoom)
        changes.append(RandSimulateLowResolution(prob=1.0, zoom_range=(zoom, zoom)))
    if rng.random() < settings.gamma:
        changes.append(AdjustContrast(rng.uniform(*settings.gamma_range)))
    for plane, name in zip(image, inputs, strict=True):
        if name in CT_LIKE:
            values = torch.from_numpy(plane)[None]
            for change in changes:
                values = change(values)
            plane[...] = values[0]
