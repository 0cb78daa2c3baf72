# SPDX-License-Identifier: Apache-2.0
"""NIfTI files as volumes (D, H, W), and the grids on which they lie.

Axes are exchanged and mirrored, never turned: where a CT lies oblique, its voxels stay as they are, so lengths and
volumes are right, and the axes are the nearest ones of the patient.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from rsuper_train.axes import Spacing, Voxels
from rsuper_train.files import first_line, write_atomically
from rsuper_train.layout import CaseError

PLAUSIBLE = (0.05, 50.0)
"""mm between voxels that a CT may have."""


class OtherGrid(CaseError):
    """A file does not lie on the grid that it should lie on."""


@dataclass(frozen=True)
class Grid:
    """Voxels (D, H, W), mm between them, and where they lie in the patient (RAS+)."""

    shape: Voxels
    spacing: Spacing
    affine: np.ndarray

    def is_same(self, other: Grid) -> bool:
        """Whether no corner of the volume is displaced by more than a voxel along any axis."""
        corners = np.array([[*corner, 1] for corner in np.ndindex(2, 2, 2)]) * [*(n - 1 for n in self.shape), 1]
        moved = np.linalg.solve(self.affine, other.affine @ corners.T) - corners.T
        return self.shape == other.shape and bool((np.abs(moved) <= 1).all())

    def __str__(self) -> str:
        voxels, spacing = " x ".join(map(str, self.shape)), " x ".join(f"{step:.3g}" for step in self.spacing)
        origin = ", ".join(f"{mm:.0f}" for mm in self.affine[:3, 3])
        return f"{voxels} voxels of {spacing} mm, {''.join(map(str, nib.aff2axcodes(self.affine)))} from ({origin})"


def to_axes(volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """A view (D, H, W) of a volume as it lies in a file."""
    return apply_orientation(volume, nib.io_orientation(affine)).transpose(2, 1, 0)


def from_axes(volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The inverse of `to_axes`: a view with the axes of the file."""
    back = ornt_transform(axcodes2ornt("RAS"), nib.io_orientation(affine))
    return apply_orientation(volume.transpose(2, 1, 0), back)


def grid_of(shape: Voxels, affine: np.ndarray) -> Grid:
    """The grid (D, H, W) of a file of this shape.

    Spacing is the length of a voxel's edges; along D it is the distance of the slices, which is less where the gantry
    was tilted, so that the product is the volume of a voxel.
    """
    orientation = nib.io_orientation(affine)
    turned = affine @ inv_ornt_aff(orientation, shape)
    w, h, _ = np.linalg.norm(turned[:3, :3], axis=0)
    d = abs(np.linalg.det(turned[:3, :3])) / (w * h)
    # without the noise of 32 bits
    spacing = (round(float(d), 6), round(float(h), 6), round(float(w), 6))
    x, y, z = (int(shape[axis]) for axis in np.argsort(orientation[:, 0]))
    return Grid((z, y, x), spacing, turned[:, [2, 1, 0, 3]])


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Whatever nibabel meets in a file becomes a CaseError with the file's name."""
    try:
        yield
    except CaseError:
        raise
    except Exception as error:
        raise CaseError(f"{path}: {first_line(error)}") from error


class Image:
    """A file with one volume, its header checked, its voxels not read yet.

    Args:
        path: of the file.
        like: the grid that it has to lie on.
        whose: grid that is, for people.

    Attributes:
        shape, affine: of the file.
        grid: of the volume.
        notes: what was repaired, for people.

    Raises:
        CaseError: a file that cannot be read, a header without a spacing, ...; its methods raise it, too.
        OtherGrid: another grid than `like`.
    """

    def __init__(self, path: Path, like: Grid | None = None, whose: str = "the CT") -> None:
        self.path, self.notes = path, list[str]()
        with naming(path):
            self._file: Any = nib.load(path)
            shape = self._file.shape
            if len(shape) < 3 or min(shape) < 1 or np.prod(shape[3:]) != 1:
                raise ValueError(f"expected one volume of three axes, got {' x '.join(map(str, shape))}")
            if len(shape) > 3:
                self.notes.append(f"{path.name}: {len(shape)} axes, taken as the one volume that they hold")
            self.shape: Voxels = shape[:3]
            self.affine = _affine(self._file.header, path, self.notes)
            self.grid = grid_of(self.shape, self.affine)
            if not PLAUSIBLE[0] <= min(self.grid.spacing) <= max(self.grid.spacing) <= PLAUSIBLE[1]:
                raise ValueError(f"expected a spacing of {PLAUSIBLE[0]} to {PLAUSIBLE[1]} mm, got {self.grid}")
        if like and not self.grid.is_same(like):
            raise OtherGrid(f"{path}: expected the grid of {whose}, {like}; got {self.grid}")

    def read(self, dtype: type | None = None) -> np.ndarray:
        """The volume, of the type that is stored where None, or of 64 bits where the header scales it."""
        with naming(self.path):
            values = np.asanyarray(self._file.dataobj, dtype=dtype)
        return to_axes(values.reshape(self.shape), self.affine)

    def planes(self) -> Iterator[np.ndarray]:
        """The planes (H, W) along D, of the type that is stored, or of 32 bits where the header scales it."""
        with naming(self.path):
            voxels = np.asarray(self._file.dataobj.get_unscaled())
            if voxels.dtype.kind not in "biuf":
                raise ValueError(f"expected one number a voxel, got {voxels.dtype}")
        slope, intercept = float(self._file.dataobj.slope), float(self._file.dataobj.inter)
        for plane in to_axes(voxels.reshape(self.shape), self.affine):
            yield plane if (slope, intercept) == (1.0, 0.0) else plane.astype(np.float32) * slope + intercept


def write(path: Path, values: np.ndarray, affine: np.ndarray, slope: float = 1.0) -> None:
    """Write a file, with the axes of the file, that depends on nothing but these arguments."""
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(slope, 0)

    def fill(part: Path) -> None:
        with part.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as stream:
            image.to_stream(stream)

    write_atomically(path, fill)


def _affine(header: Any, path: Path, notes: list[str]) -> np.ndarray:
    """The header's sform, else its qform, else its spacing in nibabel's default orientation."""
    coded = False
    for form_of in (header.get_sform, header.get_qform):
        form, code = form_of(coded=True)
        if code and np.isfinite(form).all() and abs(np.linalg.det(form[:3, :3])) > 1e-9:
            if coded:
                notes.append(f"{path.name}: the sform in the header is unusable, its qform is taken")
            return np.asarray(form, float)
        coded = coded or bool(code)
    if coded:
        raise ValueError("the affine in the header cannot be inverted, or holds values that are not numbers")
    with ImageOpener(path) as file:
        # as written: nibabel puts 1 mm where there is 0
        spacing = type(header)(file.read(header.sizeof_hdr), check=False)["pixdim"][1:4]
    if not (np.isfinite(spacing) & (spacing != 0)).all():
        raise ValueError(f"the header has neither an affine nor a spacing: pixdim {spacing.tolist()}")
    notes.append(f"{path.name}: the header has no orientation: left and right are a guess")
    return np.asarray(header.get_base_affine(), float)
