# SPDX-License-Identifier: Apache-2.0
"""A user's folder of cases: which files there are, and on which grid a volume lies.

    <case>/ct.nii.gz
    <case>/segmentations/<class>.nii.gz    one mask a class; the folder may be called predictions, too
    <case>/labels.nii.gz                   or one label map, which may be called segmentation.nii.gz
    <case>/lesions/<channel>.nii.gz        or, where the name ends in "lesion", among the masks of classes

A lesion mask without a voxel says that there is no tumour; without a mask nothing is known. `.nii` is as good.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage

SUFFIXES = (".nii.gz", ".nii")
MASK_FOLDERS = ("segmentations", "predictions")
LABEL_MAPS = ("labels", "segmentation")
LESION_FOLDER = "lesions"
LESION = "lesion"
"""How names of lesion channels end."""


@dataclass(frozen=True)
class CaseFiles:
    """The files of a case.

    Args:
        id: name of its folder.
        folder: of the case.
        ct: None where there is none.
        label_map: of all organs; None where there is none.
        organs: class -> its mask.
        lesions: lesion channel -> its mask.
    """

    id: str
    folder: Path
    ct: Path | None = None
    label_map: Path | None = None
    organs: dict[str, Path] = field(default_factory=dict)
    lesions: dict[str, Path] = field(default_factory=dict)

    def used(self) -> Iterator[Path]:
        """The files that make the case: single masks do not count beside a label map."""
        yield from filter(None, (self.ct, self.label_map))
        if self.label_map is None:
            yield from self.organs.values()
        yield from self.lesions.values()


@dataclass(frozen=True)
class Grid:
    """Voxels along each axis, mm between them, and where they lie in the patient (RAS+)."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    affine: np.ndarray

    @cached_property
    def corners(self) -> np.ndarray:
        """mm of the eight outermost voxels, (8, 3)."""
        corners = np.array([[*corner, 1] for corner in np.ndindex(2, 2, 2)]) * [*(n - 1 for n in self.shape), 1]
        return (corners @ self.affine.T)[:, :3]

    def is_same(self, other: Grid) -> bool:
        """Whether no corner of the volume is displaced by more than a voxel."""
        if self.shape != other.shape:
            return False
        moved = np.linalg.norm(self.corners - other.corners, axis=1)
        return bool((moved <= max(self.spacing)).all())

    def __str__(self) -> str:
        voxels, spacing = " x ".join(map(str, self.shape)), " x ".join(f"{step:.3g}" for step in self.spacing)
        origin = ", ".join(f"{mm:.0f}" for mm in self.affine[:3, 3])
        return f"{voxels} voxels of {spacing} mm, {''.join(map(str, nib.aff2axcodes(self.affine)))} from ({origin})"


def read_grid(image: SpatialImage) -> Grid:
    """The grid of an image by its header.

    Raises:
        ValueError: fewer than three axes, or a spacing that is not positive.
    """
    shape, spacing = image.header.get_data_shape()[:3], tuple(map(float, image.header.get_zooms()[:3]))
    if len(shape) < 3 or min(shape) < 1 or not all(np.isfinite(spacing)) or min(spacing) <= 0:
        raise ValueError(f"expected three axes of positive spacing, got shape {shape}, spacing {spacing}")
    return Grid(shape, spacing, image.affine)


def list_cases(folder: Path) -> dict[str, Path]:
    """Folders of the cases by name, hidden ones left out.

    Raises:
        ValueError: no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder of cases, <case>/ct.nii.gz and <case>/segmentations/*.nii.gz")
    with os.scandir(folder) as entries:
        cases = {entry.name: Path(entry.path) for entry in entries if entry.is_dir() and entry.name[0] not in "._"}
    if not cases:
        raise ValueError(f"{folder}: no case in it; expected folders with ct.nii.gz and masks")
    return dict(sorted(cases.items()))


def find_cases(folder: Path) -> dict[str, CaseFiles]:
    """The cases of a folder with their files, by id in sorted order; see `list_cases` for what is refused."""
    return {name: case_files(path) for name, path in list_cases(folder).items()}


def case_files(folder: Path) -> CaseFiles:
    """The files in the folder of a case; `segmentations` comes before `predictions`, `.nii.gz` before `.nii`."""
    own = _volumes(folder)
    masks: dict[str, Path] = {}
    for name in reversed(MASK_FOLDERS):
        masks |= _volumes(folder / name)
    lesions = {name: path for name, path in masks.items() if name.endswith(LESION)} | _volumes(folder / LESION_FOLDER)
    return CaseFiles(
        id=folder.name,
        folder=folder,
        ct=own.get("ct"),
        label_map=next((own[name] for name in LABEL_MAPS if name in own), None),
        organs={name: path for name, path in masks.items() if name not in lesions},
        lesions=lesions,
    )


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return str(error).split("\n")[0] or type(error).__name__


def _volumes(folder: Path) -> dict[str, Path]:
    """NIfTI files in a folder by their names without suffix, in sorted order; none where there is no folder."""
    found = {}
    for suffix in reversed(SUFFIXES):
        for path in sorted(folder.glob(f"*{suffix}")):
            if path.name[0] not in "._" and path.is_file():
                found[path.name.removesuffix(suffix)] = path
    return dict(sorted(found.items()))
